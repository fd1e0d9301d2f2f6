"""What a command and its list of prompts ask for, as files to make."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from istar.cli.encoding import ClipOutput
from istar.cli.inputs import input_clip, input_file
from istar.cli.prompt_list import Asked, read_lines
from istar.cli.seeds import consecutive_seeds
from istar.errors import UsageError
from istar.request import GenerationRequest, Mode

if TYPE_CHECKING:
    from istar.cli.batch import Batch
    from istar.cli.generate import GenerateOptions
    from istar.cli.naming import OutputNames


@dataclass(frozen=True, kw_only=True)
class Task:
    """A file to make.

    Attributes:
        label: what messages call it.
        number: its place among all, from 1.
        request: what is made.
        written_as: how, if it is a clip.
        output: its name, where its line has one.
        tiles: pictures that lie in one file with that of the request, two in a row.
    """

    label: str
    number: int
    request: GenerationRequest
    written_as: ClipOutput
    output: str | None = None
    tiles: tuple[GenerationRequest, ...] = ()


def tasks_of(
    options: GenerateOptions,
    mode: Mode,
    asked: Asked,
    written_as: ClipOutput,
    names: OutputNames,
    batch: Batch,
    *,
    keeps_sound: bool = False,
) -> list[Task]:
    """The files of a command, checked as far as is possible without a model.

    Args:
        options: as typed.
        mode: of the command.
        asked: what is made; the lines of a list say more.
        written_as: how clips are.
        names: of the files.
        batch: counts the lines that cannot be made, which are said.
        keeps_sound: clips have the sound of those that they continue.

    Raises:
        UsageError: the list cannot be read; without a list, as `request_for`.
    """
    seeds = options.all_seeds()
    tasks: list[Task] = []
    number = 0
    draws = False
    for label, line in _lines(options, asked):
        own = seeds.numbers
        with batch.attempt(label, files=len(own)):
            one = asked if line is None else asked.with_line(line, mode)
            if one.seed is not None:
                own = consecutive_seeds(one.seed, options.count or 1)
            elif options.skip_existing and not seeds.are_typed and names.tells_seed(one.output):
                raise UsageError("--skip-existing goes by names, and no --seed is given for these")
            made = []
            for place, seed in enumerate(own, number + 1):
                request = request_for(options, mode, one, seed)
                if keeps_sound:
                    request = replace(request, keeps_sound=True)
                parts = (label, f"seed {seed}" if len(own) > 1 else "")
                task = Task(
                    label=", ".join(filter(None, parts)),
                    number=place,
                    request=request,
                    written_as=replace(written_as, sound=request.sound),
                    output=one.output,
                )
                names.check(task.output, task.written_as)
                made.append(task)
            tasks += made
            draws = draws or one.seed is None
        number += len(own)
    if draws:
        seeds.say()
    return tasks


def _lines(options: GenerateOptions, asked: Asked) -> Iterator[tuple[str, str | None]]:
    """The lines of the list, each with what it is called; without a list there is one, of nothing.

    Raises:
        UsageError: a prompt was typed too, or as `read_lines`.
    """
    if options.prompts is None:
        yield "", None
        return
    if asked.prompt is not None:
        raise UsageError("--prompts gives the prompts; leave out the one that is typed")
    for line in read_lines(options.prompts, asked.image or asked.clip):
        yield f"line {line.number}", line.text


def request_for(options: GenerateOptions, mode: Mode, asked: Asked, seed: int) -> GenerationRequest:
    """The request for what is asked, and a seed.

    Raises:
        UsageError: a value that is not allowed, or something is missing.
    """
    if mode == "i2v" and asked.image is None:
        raise UsageError("there is no picture to begin with: name one")
    if mode == "extend" and asked.clip is None:
        raise UsageError("there is no video to continue: name one")
    changed = replace(
        options,
        seed=seed,
        negative=options.negative if asked.negative is None else asked.negative,
        aspect=options.aspect if asked.aspect is None else asked.aspect,
        guidance=options.guidance if asked.guidance is None else asked.guidance,
        tau=options.tau if asked.tau is None else asked.tau,
    )
    return changed.request(
        mode,
        asked.prompt,
        image=asked.image and input_file(asked.image),
        clip=asked.clip and input_clip(asked.clip),
        seconds=asked.seconds,
    )

"""`interact`: a video that goes on prompt by prompt."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from istar.cli.console import StepDisplay, say
from istar.cli.options import CommonOptions, input_file, with_common_options
from istar.cli.output import OutputFile, output_file
from istar.cli.remedies import with_remedies
from istar.errors import IstarError, MediaError, UsageError
from istar.request import check_prompt

if TYPE_CHECKING:
    from torch import Tensor

    from istar.interaction import InteractiveSession
    from istar.model_spec import ModelSpec

_STDIN = Path("-")


@with_common_options
def interact(
    options: CommonOptions,
    clip: Annotated[
        Path | None,
        typer.Argument(
            help="The video to go on from, of five seconds or more (one clip of the model).",
            show_default="the first prompt starts one",
        ),
    ] = None,
    script: Annotated[
        Path | None,
        typer.Option(
            "--script",
            metavar="FILE",
            help="Prompts, one a line; - is stdin.",
            show_default="asks",
        ),
    ] = None,
) -> None:
    """Make a video that goes on prompt by prompt, five seconds (one clip of the model) each.

    The file is written anew after every prompt. An empty line, or the end of the input, ends it.

    Example: istar interact --script story.txt -o story.mp4
    """
    source = None if clip is None else input_file(clip)
    prompts = _ask() if script is None else iter(_read_script(script))
    first = next(prompts, None)
    if first is None:
        raise UsageError("no prompt was given, so there is nothing to make")
    request = options.request("interact", (first,), clip=source)
    with output_file(options, request) as output:
        options.check_early(request)
        pipeline = options.load("interact")
        session = pipeline.interact(request)
        _converse(session, first, prompts, output, pipeline.spec)


def _converse(
    session: InteractiveSession,
    first: str,
    prompts: Iterator[str],
    output: OutputFile,
    spec: ModelSpec,
) -> None:
    """Say prompt after prompt; what is finished is in the file before the next one is asked."""
    film: list[Tensor] = []
    said: list[str] = []
    prompt: str | None = first
    while prompt is not None:
        try:
            film += _listen(session, prompt)
            _write(film, output, spec, (*said, prompt))
            said.append(prompt)
            prompt = next(prompts, None)
        except (KeyboardInterrupt, SystemExit, IstarError):
            if said and output.stays:
                say(f"{output.target} holds what was made before")
            raise


def _listen(session: InteractiveSession, prompt: str) -> list[Tensor]:
    """The finished clips that a prompt brings."""
    from istar.events import ClipReady, Note, Progress

    clips = []
    with StepDisplay() as display:
        for event in session.say(prompt):
            if isinstance(event, Progress):
                display.show(event.done, event.total)
            elif isinstance(event, Note):
                say(with_remedies(event.text, event.remedies))
            elif isinstance(event, ClipReady):
                clips.append(event.frames)
    return clips


def _write(
    film: list[Tensor], output: OutputFile, spec: ModelSpec, prompts: tuple[str, ...]
) -> None:
    import torch

    output.replace(torch.cat(film), spec, prompts)


def _ask() -> Iterator[str]:
    """Prompts as the person types them; asked for on stderr, which a terminal shows."""
    if sys.stdin is None or not sys.stdin.isatty():
        raise UsageError("there is no terminal to ask for prompts; give --script FILE, or -")
    while True:
        print(
            "istar: what happens next? (an empty line ends) ", end="", file=sys.stderr, flush=True
        )
        prompt = sys.stdin.readline().strip()
        if not prompt:
            return
        try:
            check_prompt(prompt)
        except UsageError as error:
            say(str(error))
            continue
        yield prompt


def _read_script(path: Path) -> list[str]:
    """The prompts of a script, empty lines left out, all checked before the first is used.

    Raises:
        MediaError: it cannot be read.
        UsageError: it is not UTF-8 text, or a line cannot be a prompt.
    """
    try:
        if path != _STDIN:
            data = input_file(path).read_bytes()
        elif sys.stdin is not None:
            data = sys.stdin.buffer.read()
        else:
            raise UsageError("the script should come from stdin, and stdin is closed")
        lines = [line.strip() for line in data.decode("utf-8-sig").splitlines()]
    except OSError as error:
        raise MediaError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text") from error
    prompts = [line for line in lines if line]
    for prompt in prompts:
        check_prompt(prompt)
    return prompts

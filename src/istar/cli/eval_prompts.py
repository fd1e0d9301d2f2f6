"""`istar eval prompts`: the pictures or videos of a benchmark's prompts, where it expects them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from istar.cli.batch import Batch, make_all
from istar.cli.console import say
from istar.cli.encoding import ClipOutput
from istar.cli.naming import OutputNames
from istar.cli.option_groups import with_option_groups
from istar.cli.option_types import SecondsOption
from istar.cli.options import CommonOptions
from istar.cli.output import STDOUT, output_directory
from istar.cli.tasks import Task
from istar.errors import UsageError
from istar.files import expanded

if TYPE_CHECKING:
    from istar.evaluation_prompts import EvaluationSet


class Evaluation(str, Enum):
    """The benchmarks."""

    VBENCH = "vbench"
    VBENCH2 = "vbench2"
    GENEVAL = "geneval"
    DPG = "dpg"


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions(CommonOptions):
    """The options of commands that make something, where a benchmark leaves them open."""

    output: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--output",
            metavar="DIRECTORY",
            help="Where the files go; made if need be. Those that are there are not made again.",
            show_default=False,
        ),
    ] = None
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Make also those files anew that are there.")
    ] = False
    seed: Annotated[
        int, typer.Option("--seed", help="Of the first sample of every prompt; others follow.")
    ] = 0
    # Thousands of takes and previews serve nobody.
    no_take: bool = True
    preview: bool = False
    preview_file: str | None = None
    from_file: Path | None = None


@with_option_groups
def prompts(
    options: EvaluationOptions,
    name: Annotated[Evaluation, typer.Argument(metavar="NAME", help="The benchmark.")],
    prompt_list: Annotated[
        Path,
        typer.Argument(
            metavar="PROMPTS",
            help="Its prompts: a JSON list of vbench and vbench2, a JSONL file of geneval, a "
            "directory of texts of dpg.",
        ),
    ],
    seconds: SecondsOption = None,
) -> None:
    """Make the pictures or videos that a benchmark looks for.

    NAME is vbench, vbench2, geneval or dpg. Sample i of every prompt, from 0, is drawn from the
    seed --seed plus i. The same command continues what was stopped. In the end files are counted:
    exit code 1 if one is missing.

    Example: istar eval prompts vbench VBench_full_info.json -o vbench
    """
    from istar.evaluation_prompts import read_evaluation

    output = options.output or "-"
    if output in STDOUT:
        raise UsageError("name a directory with --output")
    directory = expanded(output)
    found = read_evaluation(name.value, expanded(prompt_list))
    if found.is_square:
        if options.aspect not in (None, "1:1"):
            raise UsageError(f"{name.value} looks at square pictures; leave out --aspect")
        options = replace(options, aspect="1:1")
    options = replace(options, output=f"{output}/")
    names = OutputNames(options, found.mode, several=True, skips=not options.overwrite)
    batch = Batch(several=True, resumes=False)
    tasks = _tasks(found, options, batch, seconds)
    with output_directory(directory):
        if options.dry_run:
            make_all(options, tasks, names, batch, seconds=None)
            return
        _write_texts(found, directory, overwrite=options.overwrite)
        try:
            make_all(options, tasks, names, batch, seconds=None)
        finally:
            missing = _count(found, directory)
    if missing:
        raise typer.Exit(1)


def _tasks(
    found: EvaluationSet, options: EvaluationOptions, batch: Batch, seconds: float | None
) -> list[Task]:
    tasks = []
    length = seconds if found.mode == "t2v" else None
    for number, file in enumerate(found.files, 1):
        with batch.attempt(file.path):
            requests = [
                replace(options, seed=options.seed + file.sample + tile).request(
                    found.mode, file.prompt, seconds=length
                )
                for tile in range(file.tiles)
            ]
            task = Task(
                label=file.path,
                number=number,
                request=requests[0],
                written_as=ClipOutput(),
                output=file.path,
                tiles=tuple(requests[1:]),
            )
            tasks.append(task)
    return tasks


def _write_texts(found: EvaluationSet, directory: Path, *, overwrite: bool) -> None:
    """Write what lies beside the files.

    Raises:
        UsageError: the directory is of another list.
        MediaError: writing failed.
    """
    from istar.files import write_text
    from istar.text_files import read_text

    for path, text in found.texts.items():
        target = directory / path
        if target.is_file() and not overwrite:
            if read_text(target) != text:
                raise UsageError(f"'{target}' is of another list of prompts; name another --output")
            continue
        with output_directory(target.parent):
            write_text(target, text, overwrite=True)


def _count(found: EvaluationSet, directory: Path) -> int:
    """How many files are missing; it is said, and what else may disturb the scorer."""
    paths = {file.path for file in found.files}
    missing = [path for path in paths if not (directory / path).is_file()]
    say(f"{len(paths)} files expected, {len(paths) - len(missing)} present, {len(missing)} missing")
    if found.is_flat:
        others = sorted({path.name for path in directory.iterdir()} - paths)
        if others:
            say(f"'{directory}' holds what the scorer does not expect, such as '{others[0]}'")
    return len(missing)

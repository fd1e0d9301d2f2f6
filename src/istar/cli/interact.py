"""`interact`: a video that continues prompt by prompt."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from istar.cli.console import ask, say
from istar.cli.display import StepDisplay
from istar.cli.inputs import input_file, is_stdin, read_stdin
from istar.cli.options import (
    CommonOptions,
    with_common_options,
)
from istar.cli.output import OutputFile, output_file
from istar.errors import IstarError, UsageError
from istar.request import check_prompt
from istar.text_files import read_text

if TYPE_CHECKING:
    from istar.cli.previews import PreviewOutput
    from istar.job import Job
    from istar.pipeline import InfinityStarPipeline


@with_common_options
def interact(
    options: CommonOptions,
    clip: Annotated[
        Path | None,
        typer.Argument(
            help="The video to continue, of five seconds or more (one clip of the model); "
            "- is stdin.",
            show_default="the first prompt starts one",
        ),
    ] = None,
    script: Annotated[
        Path | None,
        typer.Option(
            "--script",
            metavar="FILE",
            help="Prompts, one a line; - is stdin.",
            show_default="those of --from, else asks",
        ),
    ] = None,
) -> None:
    """Make a video prompt by prompt, five seconds (one clip of the model) each.

    The file grows with every prompt. An empty line, or the end of the input, ends it.

    Example: istar interact --script story.txt -o story.mp4
    """
    source = None if clip is None else input_file(clip)
    if script is not None:
        prompts = iter(_read_script(script, source))
    else:
        prompts = iter(options.reused.prompts("interact")) if options.reused else _ask()
    first = next(prompts, None)
    if first is None:
        raise UsageError("no prompt was given, so there is nothing to make")
    request = options.request("interact", (first,), clip=source)
    with output_file(options, request) as output:
        previews = options.previews(request, output.target)
        pipeline, inputs = options.load(request)
        job = pipeline.job(request, inputs)
        _converse(pipeline, job, prompts, output, previews, options.model_words)


def _converse(
    pipeline: InfinityStarPipeline,
    job: Job,
    prompts: Iterator[str],
    output: OutputFile,
    previews: PreviewOutput,
    model: list[str],
) -> None:
    """Run prompt after prompt; the file holds each before the next one is asked for."""
    try:
        while True:
            with (
                StepDisplay(previews) as display,
                output.writing(pipeline, job.request) as writer,
            ):
                for frames in display.pictures_of(job.run(preview=previews.wanted)):
                    writer.write(frames)
            if (prompt := next(prompts, None)) is None:
                return
            job.add_prompt(prompt)
    except (KeyboardInterrupt, SystemExit, IstarError):
        if output.written and output.stays:
            target = str(output.target)
            path = f"./{target}" if target.startswith("-") else target
            command = shlex.join(["istar", "interact", *model, path])
            say(f"{output.target} holds what was made before; `{command}` continues it")
        raise


def _ask() -> Iterator[str]:
    """Prompts as the person types them; asked for on stderr, which a terminal shows."""
    if sys.stdin is None or not sys.stdin.isatty():
        raise UsageError(
            "there is no terminal to ask for prompts; use --script FILE, or --script - for stdin"
        )
    while True:
        prompt = ask("istar: what happens next? (an empty line ends) ").strip()
        if not prompt:
            return
        try:
            check_prompt(prompt)
        except UsageError as error:
            say(str(error))
            continue
        yield prompt


def _read_script(path: Path, source: Path | None) -> list[str]:
    """The prompts of a script, empty lines left out, all checked before the first is used.

    Raises:
        MediaError: it is not there.
        UsageError: it is not a UTF-8 text, or a line cannot be a prompt.
    """
    text = read_stdin("the script", source) if is_stdin(path) else read_text(input_file(path))
    lines = [line.strip() for line in text.splitlines()]
    prompts = [line for line in lines if line]
    for prompt in prompts:
        check_prompt(prompt)
    return prompts

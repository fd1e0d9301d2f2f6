"""`t2i`, `t2v`, `i2v` and `extend`: one request, one file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from istar.cli.display import StepDisplay
from istar.cli.inputs import input_file, read_prompt
from istar.cli.keep import kept_take
from istar.cli.options import (
    CommonOptions,
    OptionalPromptArgument,
    PromptArgument,
    SecondsOption,
    with_common_options,
)
from istar.cli.output import output_file
from istar.request import GenerationRequest


@with_common_options
def t2i(options: CommonOptions, prompt: PromptArgument = None) -> None:
    """Make a picture from a prompt.

    Example: istar t2i "a lighthouse at dusk" -o lighthouse.png
    """
    _generate(options, options.request("t2i", read_prompt(prompt)))


@with_common_options
def t2v(
    options: CommonOptions, prompt: PromptArgument = None, seconds: SecondsOption = None
) -> None:
    """Make a video from a prompt.

    Example: istar t2v "waves roll onto a beach" --seconds 5
    """
    _generate(options, options.request("t2v", read_prompt(prompt), seconds=seconds))


@with_common_options
def i2v(
    image: Annotated[
        Path, typer.Argument(help="The first picture: PNG, JPEG, WebP and others; - is stdin.")
    ],
    options: CommonOptions,
    prompt: OptionalPromptArgument = None,
    seconds: SecondsOption = None,
) -> None:
    """Make a video that begins with a picture.

    Example: istar i2v boat.jpg "the boat leaves the harbour"
    """
    source = input_file(image)
    _generate(
        options, options.request("i2v", read_prompt(prompt, source), image=source, seconds=seconds)
    )


@with_common_options
def extend(
    clip: Annotated[
        Path, typer.Argument(help="The video to continue, of a second or more; - is stdin.")
    ],
    options: CommonOptions,
    prompt: OptionalPromptArgument = None,
    seconds: Annotated[
        float | None,
        typer.Option(
            "--seconds",
            help="How much to add, a multiple of 0.25.",
            show_default="5, or one clip of the model",
        ),
    ] = None,
) -> None:
    """Add new seconds to the end of a video.

    Example: istar extend clip.mp4 "the boat sails on" --seconds 10
    """
    source = input_file(clip)
    _generate(
        options,
        options.request("extend", read_prompt(prompt, source), clip=source, seconds=seconds),
    )


def _generate(options: CommonOptions, request: GenerationRequest) -> None:
    """Make a request's file."""
    with output_file(options, request) as output:
        previews = options.previews(request, output.target)
        pipeline, inputs = options.load(request)
        with (
            kept_take(pipeline.job(request, inputs), options) as job,
            StepDisplay(previews) as display,
            output.writing(pipeline, request) as writer,
        ):
            for frames in display.pictures_of(job.run(preview=previews.wanted)):
                writer.write(frames)

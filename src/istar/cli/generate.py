"""`t2i`, `t2v`, `i2v` and `extend`: one request, one file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from istar.cli.drafts import (
    DRAFTS_HOLD_ALL,
    BestOption,
    CountOption,
    DraftOption,
    UntilOption,
    consecutive_seeds,
    drafts_directory,
    make_drafts,
    parse_until,
)
from istar.cli.encoding import (
    Audio,
    ClipOutput,
    EncodingOptions,
    refuse_encoding_of_drafts,
)
from istar.cli.inputs import STDIN, input_clip, input_file, is_take, read_prompt
from istar.cli.keep import TakeSettings, kept_take, take_settings
from istar.cli.option_groups import with_option_groups
from istar.cli.options import (
    CommonOptions,
    OptionalPromptArgument,
    PromptArgument,
    SecondsOption,
)
from istar.cli.output import OutputFile, output_file
from istar.cli.rewrite import rewritten_requests
from istar.errors import UsageError
from istar.request import GenerationRequest

if TYPE_CHECKING:
    from istar.cli.previews import PreviewOutput
    from istar.events import Event
    from istar.job import Job
    from istar.pipeline import InfinityStarPipeline

_SECONDS = re.compile(r"([0-9]{1,9}(?:\.[0-9]*)?)s?")


DeadlineOption = Annotated[
    str | None,
    typer.Option(
        "--deadline",
        metavar="SECONDS",
        help="Stop at the last scale that is decoded so many seconds after the model is "
        "loaded, such as 20s, and leave a take that `istar finish` continues.",
    ),
]


RewriteOption = Annotated[
    bool,
    typer.Option(
        "--rewrite",
        help="Let a language model write a richer prompt first, see `istar rewrite`.",
    ),
]


def parse_deadline(text: str | None) -> float | None:
    """How many seconds a generation may take, as typed; None for as long as it takes.

    Raises:
        UsageError: no number of seconds.
    """
    if text is None:
        return None
    found = _SECONDS.fullmatch(text)
    if found is None or not float(found[1]):
        raise UsageError(f"--deadline is a number of seconds, such as 20s, not {text!r}")
    return float(found[1])


@dataclass(frozen=True, kw_only=True)
class GenerateOptions(CommonOptions):
    """The options of the commands that make one request's file, or drafts of it.

    Raises:
        UsageError: some do not go together.
    """

    draft: DraftOption = False
    count: CountOption = None
    until: UntilOption = None
    best: BestOption = None
    deadline: DeadlineOption = None
    rewrite: RewriteOption = False

    def __post_init__(self) -> None:
        if self.draft and (self.no_metadata or self.sidecar):
            raise UsageError(DRAFTS_HOLD_ALL)
        if self.draft and self.deadline is not None:
            raise UsageError(
                "a draft stops at a scale or a share, so --deadline does not go with it"
            )
        if self.draft and (self.preview or self.preview_file is not None):
            raise UsageError("drafts are shown on their sheets, not by --preview")
        if not self.draft and (self.count, self.until, self.best) != (None, None, None):
            raise UsageError("-n, --until and --best are for drafts; add --draft")
        if self.best is not None and self.best > (self.count or 1):
            raise UsageError(
                f"--best keeps some of the drafts: it is at most -n, {self.count or 1}, not "
                f"{self.best}"
            )


@with_option_groups
def t2i(options: GenerateOptions, prompt: PromptArgument = None) -> None:
    """Make a picture from a prompt.

    Example: istar t2i "a lighthouse at dusk" -o lighthouse.png
    """
    _generate(options, options.request("t2i", read_prompt(prompt)))


@with_option_groups
def t2v(
    options: GenerateOptions,
    encoding: EncodingOptions,
    prompt: PromptArgument = None,
    seconds: SecondsOption = None,
) -> None:
    """Make a video from a prompt.

    Example: istar t2v "waves roll onto a beach" --seconds 5
    """
    request = options.request("t2v", read_prompt(prompt), seconds=seconds)
    _generate(options, request, _clip_output(options, encoding))


@with_option_groups
def i2v(
    image: Annotated[
        Path, typer.Argument(help="The first picture: PNG, JPEG, WebP and others; - is stdin.")
    ],
    options: GenerateOptions,
    encoding: EncodingOptions,
    prompt: OptionalPromptArgument = None,
    seconds: SecondsOption = None,
) -> None:
    """Make a video that begins with a picture.

    Example: istar i2v boat.jpg "the boat leaves the harbour"
    """
    source = input_file(image)
    request = options.request("i2v", read_prompt(prompt, source), image=source, seconds=seconds)
    _generate(options, request, _clip_output(options, encoding))


@with_option_groups
def extend(
    clip: Annotated[
        Path,
        typer.Argument(
            help="The video to continue, of a second or more: MP4, MOV, MKV, WebM, GIF and others, "
            "a directory of numbered pictures, or a take; - is stdin."
        ),
    ],
    options: GenerateOptions,
    encoding: EncodingOptions,
    prompt: OptionalPromptArgument = None,
    seconds: Annotated[
        float | None,
        typer.Option(
            "--seconds",
            help="How much to add, a multiple of 0.25.",
            show_default="5, or one clip of the model",
        ),
    ] = None,
    audio: Annotated[
        Audio,
        typer.Option(
            "--audio",
            help="The video's sound: copy keeps it, in MP4 and WebM; it is cut where the pictures "
            "end, and silence follows where it ends.",
        ),
    ] = Audio.DROP,
) -> None:
    """Add new seconds to the end of a video.

    A finished take is continued by its own tokens, which are exact where a video's pictures have to
    be encoded again.

    Example: istar extend clip.mp4 "the boat sails on" --seconds 10
    """
    source = input_clip(clip)
    if is_take(source):
        _, options = options.read_take(source)
    keeps_sound = audio is Audio.COPY
    if keeps_sound and source == STDIN:
        raise UsageError("stdin is read once, for the pictures; name a file for --audio copy")
    if keeps_sound and encoding.fps is not None:
        raise UsageError("--fps changes the pictures' times and not the sound's; leave one out")
    request = options.request("extend", read_prompt(prompt, source), clip=source, seconds=seconds)
    sound = source if keeps_sound else None
    _generate(options, request, _clip_output(options, encoding, sound))


def _clip_output(
    options: GenerateOptions, encoding: EncodingOptions, sound: Path | None = None
) -> ClipOutput:
    """How a clip is written: as it was typed, and as fast as `--from` plays.

    Raises:
        UsageError: a speed that no clip has, or an encoding of drafts.
    """
    if options.draft:
        refuse_encoding_of_drafts(encoding)
    then = options.reused.fps_for(options.output) if options.reused and sound is None else None
    return ClipOutput(encoding=encoding.settled(then), sound=sound)


def _generate(
    options: GenerateOptions, request: GenerationRequest, written_as: ClipOutput | None = None
) -> None:
    """Make a request's file, or drafts of it."""
    seconds = parse_deadline(options.deadline)
    if options.draft:
        _draft(options, request)
        return
    if options.reused and seconds is None:
        options.reused.say_end()
    settings = take_settings(options)
    with output_file(options, request, written_as) as output:
        previews = options.previews(request, output.target)
        request = _rewritten(options, request)
        pipeline, inputs = options.load(request, target=output.target)
        if written_as and written_as.sound:
            inputs = inputs.with_sound_kept()
        job = pipeline.job(request, inputs)
        make_file(job, pipeline, output, options, settings, previews, seconds=seconds)


def _rewritten(options: GenerateOptions, request: GenerationRequest) -> GenerationRequest:
    """The request with a richer prompt, if that is asked for and something is made."""
    if not options.rewrite or options.dry_run:
        return request
    return rewritten_requests([request], options.device)[0]


def _events(job: Job, previews: PreviewOutput, seconds: float | None) -> Iterator[Event]:
    """A job's events, to its end or for so many seconds."""
    if seconds is None:
        return job.run(preview=previews.wanted)
    from istar.deadline import run_in_time

    return run_in_time(job, seconds, preview=previews.wanted)


def make_file(
    job: Job,
    pipeline: InfinityStarPipeline,
    output: OutputFile,
    options: CommonOptions,
    settings: TakeSettings | None,
    previews: PreviewOutput,
    *,
    seconds: float | None = None,
    continued: Path | None = None,
) -> None:
    """Write what a job makes; meanwhile its take is kept.

    Args:
        job: a job.
        pipeline: the model.
        output: the file.
        options: of the command.
        settings: what becomes of the take.
        previews: where previews go.
        seconds: how long it may take.
        continued: the file of the take that the job continues, see `kept_take`.
    """
    from istar.cli.display import StepDisplay

    words = [*options.model_words, *output.written_as.words]
    events = _events(job, previews, seconds)
    with (
        kept_take(job, words, settings, continued) as keeping,
        StepDisplay(previews) as display,
        output.writing(pipeline, job.take(), deadline=seconds) as writer,
    ):
        for frames in display.pictures_of(keeping(events)):
            writer.write(frames)
        display.writing(output.target)


def _draft(options: GenerateOptions, request: GenerationRequest) -> None:
    from istar.generation.until import check_until

    until = parse_until(options.until)
    seeds = consecutive_seeds(request.seed, options.count or 1)
    with drafts_directory(options.output) as directory:
        request = _rewritten(options, request)
        pipeline, inputs = options.load(
            request,
            target=directory,
            check=lambda plan: check_until(plan.steps(0), until),
        )
        make_drafts(
            pipeline,
            [replace(request, seed=seed) for seed in seeds],
            inputs,
            directory,
            until=until,
            overwrite=options.overwrite,
            best=options.best,
        )

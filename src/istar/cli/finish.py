"""`finish` and `vary`: what becomes of takes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from istar.cli.batch import Batch, make_file
from istar.cli.completion import take_names
from istar.cli.console import emit, say, warn
from istar.cli.drafts import (
    DRAFTS_HOLD_ALL,
    MOST_DRAFTS,
    DraftOption,
    UntilOption,
    drafts_directory,
    make_drafts,
    parse_scale,
    parse_until,
)
from istar.cli.encoding import ClipOutput, EncodingOptions, refuse_encoding_of_drafts
from istar.cli.inputs import read_prompt, take_file
from istar.cli.json_events import file_event
from istar.cli.keep import TakeSettings
from istar.cli.option_groups import with_option_groups
from istar.cli.option_types import (
    DeadlineOption,
    EventsOption,
    NoMetadataOption,
    NoTakeOption,
    NumberType,
    OutputOption,
    OverwriteOption,
    PreviewFileOption,
    PreviewOption,
    SidecarOption,
    VerboseOption,
)
from istar.cli.options import CommonOptions
from istar.cli.output import STDOUT, output_directory, output_file, template_path
from istar.cli.parsing import parse_deadline
from istar.cli.render import write_rendered
from istar.cli.seeds import consecutive_seeds, drawn_seed
from istar.cli.take_options import TakeArgument, TakeOptions
from istar.errors import UsageError
from istar.output_names import names_directory
from istar.output_templates import is_template

if TYPE_CHECKING:
    from istar.cli.previews import PreviewOutput
    from istar.pipeline import InfinityStarPipeline
    from istar.take import Take
    from istar.take_file import ModelIdentity

_TIMES = re.compile(r"([0-9]{1,6}(?:\.[0-9]*)?)s?-([0-9]{1,6}(?:\.[0-9]*)?)s?")
_REGION = re.compile(r"([0-9]{1,6}),([0-9]{1,6}),([0-9]{1,6}),([0-9]{1,6})")


@dataclass(frozen=True, kw_only=True)
class ContinueOptions(TakeOptions):
    """The options of the commands that continue takes, as they were typed."""

    output: OutputOption = None
    overwrite: OverwriteOption = False
    dtype: Annotated[
        NumberType | None,
        typer.Option(
            "--dtype",
            help="Of the transformer. Another one than the take's may end in other pictures.",
            show_default="the take's",
        ),
    ] = None
    no_metadata: NoMetadataOption = False
    sidecar: SidecarOption = False
    no_take: NoTakeOption = False
    preview: PreviewOption = False
    preview_file: PreviewFileOption = None
    verbose: VerboseOption = False
    as_events: EventsOption = False

    def common(self, path: Path, take: Take) -> CommonOptions:
        """The options of a command that makes what a take makes.

        Args:
            path: the take's file.
            take: what it holds.

        Raises:
            CheckpointError: the take's model has to be named.
        """
        return CommonOptions(
            output=self.output,
            overwrite=self.overwrite,
            model=self.model_of(path, take),
            no_metadata=self.no_metadata,
            sidecar=self.sidecar,
            no_take=self.no_take,
            preview=self.preview,
            preview_file=self.preview_file,
        )

    def dtype_for(self, take: Take) -> str:
        """The transformer's: unless another was typed, that in which the take was made."""
        return self.dtype.value if self.dtype else take.model.dtype


@with_option_groups
def finish(
    takes: Annotated[
        list[Path],
        typer.Argument(
            metavar="TAKE...",
            help="Takes, names that `istar takes list` shows, or the number of one on a sheet of "
            "drafts: SHEET.png:3.",
            autocompletion=take_names,
        ),
    ],
    options: ContinueOptions,
    encoding: EncodingOptions,
    deadline: DeadlineOption = None,
) -> None:
    """Continue takes to their end: drafts, or what a deadline cut short.

    The result is what one run would have made. A take that is finished is only decoded.

    Example: istar finish drafts/sheet.png:3 -o waves.mp4
    """
    from istar.take import Take

    seconds = parse_deadline(deadline)
    if seconds is not None and len(takes) > 1:
        raise UsageError("--deadline is for one take")
    paths = [take_file(path) for path in takes]
    starts = [(path, Take.load(path)) for path in paths]
    _make(starts, options, encoding, continues=True, seconds=seconds)


@with_option_groups
def vary(
    take: TakeArgument,
    options: ContinueOptions,
    encoding: EncodingOptions,
    keep: Annotated[
        str | None,
        typer.Option(
            "--keep",
            metavar="SCALE",
            help="The scale, by its size in tokens such as 9x5, up to which everything stays.",
            show_default="no scale",
        ),
    ] = None,
    count: Annotated[
        int,
        typer.Option(
            "-n", "--count", min=1, max=MOST_DRAFTS, help="How many, with consecutive seeds."
        ),
    ] = 1,
    prompt: Annotated[
        str | None,
        typer.Option("--prompt", metavar="TEXT", help="Another prompt.", show_default="the take's"),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed", help="Of the first variation's draws.", show_default="drawn and printed"
        ),
    ] = None,
    frames: Annotated[
        str | None,
        typer.Option(
            "--frames",
            metavar="FROM-TO",
            help="Keep everything outside a time, such as 2s-3s.",
            show_default="all",
        ),
    ] = None,
    region: Annotated[
        str | None,
        typer.Option(
            "--region",
            metavar="X,Y,W,H",
            help="Keep everything outside a region: its left, top, width and height in pixels.",
            show_default="all",
        ),
    ] = None,
    draft: DraftOption = False,
    until: UntilOption = None,
) -> None:
    """Make variations of a take that keep its layout, or all but a part of it.

    Tokens of the scales up to --keep stay, and of the finer ones those outside --frames and
    --region; the others are drawn anew. Pixels near what is drawn anew can change. Of a video of
    several windows only the first stays.

    Example: istar vary waves.take --keep 9x5 -n 4 --prompt "waves at night"
    """
    from istar.generation.until import check_until
    from istar.take import Take

    if draft and (options.preview or options.preview_file is not None):
        raise UsageError("drafts are shown on their sheets, not by --preview")
    if draft and (options.no_metadata or options.sidecar):
        raise UsageError(DRAFTS_HOLD_ALL)
    if draft:
        refuse_encoding_of_drafts(encoding)
    if until is not None and not draft:
        raise UsageError("--until is for drafts; add --draft")
    if keep is None and frames is None and region is None:
        raise UsageError("say what stays: name a scale with --keep, or use --frames or --region")
    how_far = parse_until(until)
    kept = keep and parse_scale(keep)
    if keep is not None and not kept:
        raise UsageError(f"--keep is a scale such as 9x5, not {keep!r}")
    times, place = _parsed_times(frames), _parsed_region(region)
    path = take_file(take)
    held = Take.load(path)
    text = read_prompt(prompt)
    first = drawn_seed() if seed is None else seed
    starts = [
        held.varied(keep=kept or None, seed=one, prompt=text, seconds=times, region=place)
        for one in consecutive_seeds(first, count)
    ]
    if draft:
        check_until(starts[0].windows[0].schedule.steps, how_far)
    if seed is None:
        say(f"seed {first}")
    if held.total > 1:
        warn("only the first window of the take is kept; the rest of the video is made anew")
    if draft:
        with drafts_directory(options.output) as directory:
            make_drafts(
                options.load(held, options.common(path, held).model),
                starts,
                None,
                directory,
                until=how_far,
                overwrite=options.overwrite,
            )
        return
    _make([(path, start) for start in starts], options, encoding)


def _make(
    takes: Sequence[tuple[Path, Take]],
    options: ContinueOptions,
    encoding: EncodingOptions,
    *,
    continues: bool = False,
    seconds: float | None = None,
) -> None:
    """Continue takes to their end, each to a file of its own.

    Args:
        takes: each with the file that it came from.
        options: of the command.
        encoding: of clips.
        continues: they are what those files hold, and no variations of it.
        seconds: how long each may take.

    Raises:
        UsageError: one file is named for several.
        Exit: there are several, and some failed.
    """
    written_as = ClipOutput(encoding=encoding.settled())
    commons = [options.common(path, take) for path, take in takes]
    settings = None if options.no_take else TakeSettings()
    loaded: tuple[ModelIdentity, InfinityStarPipeline] | None = None
    previews: PreviewOutput | None = None
    draws = not all(take.finished for _, take in takes)
    targets = _targets(options, [take for _, take in takes])
    batch = Batch(several=len(takes) > 1, resumes=False)
    said: set[str] = set()
    with _directory(options.output, files=len(takes)), batch.summary(len(takes)):
        for number, ((path, take), common, target) in enumerate(
            zip(takes, commons, targets, strict=True), start=1
        ):
            label = str(path) if continues else f"seed {take.request.seed}"
            with batch.attempt(label):
                with output_file(common, take.request, written_as, target) as file:
                    if len(takes) > 1:
                        emit(file_event(label, number, len(takes)))
                    with batch.ending_it():
                        if previews is None:
                            previews = common.previews(take.request, file.target)
                        if loaded is None or loaded[0] != take.model:
                            pipeline = options.load(take, common.model, decodes_only=not draws)
                            loaded = (take.model, pipeline)
                    pipeline = loaded[1]
                    if take.finished:
                        write_rendered(pipeline, take, file)
                        if continues and settings is not None:
                            settings.remove_finished(path)
                    else:
                        make_file(
                            pipeline.job(take),
                            pipeline,
                            file,
                            common,
                            settings,
                            previews,
                            seconds=seconds,
                            continued=path if continues else None,
                            said=said,
                        )
                batch.made += 1


def _targets(options: ContinueOptions, takes: Sequence[Take]) -> list[Path | None]:
    """The names that a template gives the files of takes; without one, None for each.

    Raises:
        UsageError: as `template_path`, or one file would replace another.
    """
    output = options.output
    if not output or not is_template(output):
        return [None] * len(takes)
    targets = [template_path(output, take.request, one) for one, take in enumerate(takes, 1)]
    if options.overwrite and len({*targets}) < len(targets):
        raise UsageError(f"'{output}' gives several files one name; put {{number}} into it")
    return [*targets]


def _directory(output: str | None, *, files: int) -> AbstractContextManager[object]:
    """Inside, the directory that an output names for several files is there.

    Args:
        output: as typed. Where several files are written, what has no suffix names a directory.
        files: how many are written.

    Raises:
        UsageError: one file is named for several.
        MediaError: it cannot be made.
    """
    if not output:
        return nullcontext()
    if files == 1 or is_template(output):
        return nullcontext()
    if not names_directory(output) and (Path(output).suffix or output in STDOUT):
        raise UsageError("these are several files: name a directory with --output")
    return output_directory(output)


def _parsed_times(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    if (found := _TIMES.fullmatch(text)) is None:
        raise UsageError(f"--frames is from when to when, such as 2s-3s, not {text!r}")
    return float(found[1]), float(found[2])


def _parsed_region(text: str | None) -> tuple[int, int, int, int] | None:
    if text is None:
        return None
    if (found := _REGION.fullmatch(text)) is None:
        raise UsageError(
            f"--region is left, top, width and height in pixels, such as 0,0,640,360, not {text!r}"
        )
    left, top, width, height = map(int, found.groups())
    return left, top, width, height

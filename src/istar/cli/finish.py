"""`finish`, and how takes are continued."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from istar.cli.batch import Batch, make_file
from istar.cli.completion import take_names
from istar.cli.console import emit, say
from istar.cli.encoding import (
    Audio,
    ClipOutput,
    TakeEncodingOptions,
    refuse_speed_with_sound,
)
from istar.cli.inputs import take_file
from istar.cli.json_events import file_event
from istar.cli.keep import TakeSettings
from istar.cli.option_groups import with_option_groups
from istar.cli.option_types import (
    DeadlineOption,
    DryRunOption,
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
from istar.cli.output import (
    STDOUT,
    output_directory,
    output_file,
    take_values,
    template_path,
)
from istar.cli.parsing import parse_deadline
from istar.cli.render import write_rendered
from istar.cli.take_model import find_for_take
from istar.cli.take_options import TakeOptions
from istar.errors import MediaError, UsageError
from istar.output_names import names_directory
from istar.output_templates import is_template

if TYPE_CHECKING:
    from istar.cli.previews import PreviewOutput
    from istar.pipeline import InfinityStarPipeline
    from istar.take import Take
    from istar.take_file import ModelIdentity


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
    dry_run: DryRunOption = False
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

    def print_plan(self, take: Take, model: str, target: Path | None) -> None:
        """Print what would be done for a take, see `istar.cli.dry_run.print_plan`.

        Args:
            take: what is continued.
            model: its name.
            target: the output; None where it is not known.

        Raises:
            IstarError: as `find_for_take` and `print_plan`.
        """
        from istar.cli.dry_run import print_plan
        from istar.inputs import template_of
        from istar.plan import plan_request

        request = take.request
        found, placement, work = find_for_take(
            take,
            model,
            device=self.device,
            dtype=self.dtype_for(take),
            decodes_only=take.finished,
        )
        plan = plan_request(
            request, found.spec, template_of(take), given_pictures=take.given_pictures
        )
        print_plan(
            plan,
            request,
            found,
            placement,
            work,
            self.memory.value,
            target,
            taken=sum(len(window.seconds) for window in take.windows),
        )


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
    encoding: TakeEncodingOptions,
    deadline: DeadlineOption = None,
) -> None:
    """Continue takes to their end: drafts, or what a deadline cut short.

    The result is what one run would have made. A take that is finished is only decoded.

    Example: istar finish drafts/sheet.png:3 -o waves.mp4
    """
    from istar.take import Take
    from istar.take_store import held_take

    seconds = parse_deadline(deadline)
    if seconds is not None and len(takes) > 1:
        raise UsageError("--deadline is for one take")
    paths = [take_file(path) for path in takes]
    with ExitStack() as held:
        if not (options.dry_run or options.no_take):  # they write no take
            for path in {path.resolve() for path in paths}:
                held.enter_context(held_take(path))
        starts = [(path, Take.load(path)) for path in paths]
        make_takes(starts, options, encoding, continues=True, seconds=seconds)


def make_takes(
    takes: Sequence[tuple[Path, Take]],
    options: ContinueOptions,
    encoding: TakeEncodingOptions,
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
    encoding.settled()
    several = len(takes) > 1
    labels = [str(path) if continues else f"seed {take.request.seed}" for path, take in takes]
    targets = _targets(options, [take for _, take in takes])
    todo = [(*one, label, to) for one, label, to in zip(takes, labels, targets, strict=True)]
    batch = Batch(several=several, resumes=False)
    with _directory(options.output, files=len(takes)), batch.summary(len(takes)):
        if options.dry_run:
            _print_plans(todo, options, encoding, batch)
            raise typer.Exit
        settings = None if options.no_take else TakeSettings()
        loaded: tuple[ModelIdentity, InfinityStarPipeline] | None = None
        previews: PreviewOutput | None = None
        draws = not all(take.finished for _, take in takes)
        said: set[str] = set()
        for number, (path, take, label, target) in enumerate(todo, start=1):
            with batch.attempt(label):
                common = options.common(path, take)
                take, how = _as_asked(take, encoding)
                with output_file(common, take.request, how, target) as file:
                    if several:
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


def _print_plans(
    todo: Sequence[tuple[Path, Take, str, Path | None]],
    options: ContinueOptions,
    encoding: TakeEncodingOptions,
    batch: Batch,
) -> None:
    """Print what would be done for each of some takes.

    Args:
        todo: each with its file, its label and, where a template gives one, its output.
        options: of the command.
        encoding: of clips.
        batch: counts what fails.
    """
    for number, (path, take, label, target) in enumerate(todo, start=1):
        # The end of a dry run, which prints no path of a file.
        with batch.attempt(label), suppress(typer.Exit):
            common = options.common(path, take)
            take, how = _as_asked(take, encoding)
            with output_file(common, take.request, how, target) as file:
                if len(todo) == 1:
                    target = file.target
                else:
                    name = target or "a numbered name"
                    say(f"{number} of {len(todo)}, {label}: {name}")
                options.print_plan(take, common.model, target)
                raise typer.Exit


def _as_asked(take: Take, encoding: TakeEncodingOptions) -> tuple[Take, ClipOutput]:
    """A take whose request says what becomes of sound, and how its clip is written.

    Raises:
        UsageError: the take continues no video's file, or a speed was typed where sound is kept.
        MediaError: that video is not there as it was.
    """
    from istar.resume import clip_is_as_it_was

    request = take.request
    if encoding.audio is not None:
        request = replace(request, keeps_sound=encoding.audio is Audio.COPY)
        take = replace(take, request=request)
    if request.sound is not None:
        refuse_speed_with_sound(encoding)
        if not clip_is_as_it_was(take):
            raise MediaError(
                f"'{request.sound}' is not there as it was, so its sound cannot be copied; leave "
                "it out with --audio drop"
            )
    return take, ClipOutput(encoding=encoding.settled(), sound=request.sound)


def _targets(options: ContinueOptions, takes: Sequence[Take]) -> list[Path | None]:
    """The names that a template gives the files of takes; without one, None for each.

    Raises:
        UsageError: as `template_path`, or one file would replace another.
    """
    output = options.output
    if not output or not is_template(output):
        return [None] * len(takes)
    targets = [
        template_path(output, take.request.mode, take_values(take, number))
        for number, take in enumerate(takes, 1)
    ]
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

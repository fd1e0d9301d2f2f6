"""Drafts: many seeds stopped after a coarse scale, shown on sheets, each kept as a take."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from istar.cli.batch import new_notes
from istar.cli.console import emit, print_path, say, voice
from istar.cli.json_events import drafts_event
from istar.cli.output import STDOUT, output_directory
from istar.errors import IstarError, UsageError
from istar.output_names import CLIP_SUFFIXES, PICTURE_SUFFIXES, check_name, names_directory
from istar.output_templates import is_template
from istar.plurals import counted
from istar.request import GenerationRequest

if TYPE_CHECKING:
    from istar.events import Event
    from istar.generation.until import Until
    from istar.inputs import Inputs
    from istar.job import Job
    from istar.media.sheet import ContactSheet
    from istar.pipeline import InfinityStarPipeline
    from istar.take import Take

DRAFTS_HOLD_ALL = "drafts are takes, which hold everything; leave out --no-metadata and --sidecar"
MOST_DRAFTS = 99
_SHARE = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(%?)")
_SCALE = re.compile(r"([0-9]{1,6})[x×]([0-9]{1,6})")

DraftOption = Annotated[
    bool,
    typer.Option(
        "--draft",
        help="Stop after a coarse scale; write a contact sheet and a take of every seed, which "
        "`istar finish` continues, into the directory --output.",
    ),
]
BestOption = Annotated[
    int | None,
    typer.Option(
        "--best",
        metavar="K",
        min=1,
        max=MOST_DRAFTS,
        help="Keep only the K drafts whose bits are the likeliest under the prompt, in that order.",
        show_default="all",
    ),
]
UntilOption = Annotated[
    str | None,
    typer.Option(
        "--until",
        metavar="SCALE|SHARE",
        help="How far a draft goes: a scale by its size in tokens, such as 32x18, or a share of "
        "the work of the first clip, such as 0.25 or 25%.",
        show_default="0.25",
    ),
]


def parse_until(text: str | None) -> Until:
    """How far a draft goes, as typed.

    Raises:
        UsageError: neither a scale nor a share.
    """
    from istar.generation.until import DRAFT_SHARE

    if text is None:
        return DRAFT_SHARE
    if (scale := parse_scale(text)) is not None:
        return scale
    if (share := _SHARE.fullmatch(text)) is None:
        raise UsageError(
            f"--until is a scale such as 32x18, or a share such as 0.25 or 25%, not {text!r}"
        )
    return float(share[1]) / (100 if share[2] else 1)


def parse_scale(text: str) -> tuple[int, int] | None:
    """Width and height of a scale, as typed; None of another text."""
    found = _SCALE.fullmatch(text)
    return found and (int(found[1]), int(found[2]))


@contextmanager
def drafts_directory(output: str | None) -> Iterator[Path]:
    """The directory that drafts are written into, made if need be; gone again if it stays empty.

    Raises:
        UsageError: a file is named, or none can have that name.
        MediaError: it cannot be made.
    """
    if output in STDOUT:
        raise UsageError("drafts are several files: name a directory with --output")
    if output is not None:
        check_name(output)
        is_file = Path(output).suffix.lower() in (*CLIP_SUFFIXES, *PICTURE_SUFFIXES)
        if is_template(output) or (is_file and not names_directory(output)):
            raise UsageError(f"drafts are written into a directory, and '{output}' names a file")
    names = (Path(f"istar-drafts-{number:04}") for number in count(1))
    with output_directory(output or next(n for n in names if not n.exists())) as directory:
        yield directory


def make_drafts(
    pipeline: InfinityStarPipeline,
    starts: Sequence[GenerationRequest | Take],
    inputs: Inputs | None,
    directory: Path,
    *,
    until: Until,
    overwrite: bool,
    best: int | None = None,
) -> None:
    """Draft one after the other; print the paths of the sheets, then of the takes.

    Args:
        pipeline: the model.
        starts: what is drafted.
        inputs: of requests: their picture or clip.
        directory: where everything is written.
        until: how far each goes.
        overwrite: existing files may be replaced.
        best: how many of them to keep, by their scores under the prompt; None: all.
    """
    from istar.cli.display import StepDisplay

    drafts = _Drafts(pipeline, directory, count=len(starts), overwrite=overwrite)
    with drafts.left_when_stopped(), StepDisplay() as display:
        said: set[str] = set()
        for number, start in enumerate(starts, 1):
            job = drafts.begin(start, inputs)
            for _ in display.pictures_of(_one_of_many(job, until, number, len(starts), said)):
                pass
            drafts.end()
        if best is not None:
            drafts.keep_best(best)
        sheets = drafts.write_sheets()
    if voice().as_json:
        emit(drafts_event(sheets, drafts.paths))
        return
    for path in (*sheets, *drafts.paths):
        print_path(path)


class _Drafts:
    """Drafts and what is written of them.

    Attributes:
        paths: the takes' files.
    """

    def __init__(
        self, pipeline: InfinityStarPipeline, directory: Path, *, count: int, overwrite: bool
    ) -> None:
        self.paths: list[Path] = []
        self._pipeline = pipeline
        self._directory = directory
        self._count = count
        self._overwrite = overwrite
        self._takes: list[Take] = []
        self._job: Job | None = None
        self._sheet: ContactSheet | None = None
        self._writes_sheets = False

    def begin(self, start: GenerationRequest | Take, inputs: Inputs | None) -> Job:
        """The job of the next draft."""
        self._job = self._pipeline.job(start, inputs)
        return self._job

    def end(self) -> None:
        """Show the draft under way on the sheet, and keep its take."""
        from istar.media.sheet import ContactSheet

        assert self._job is not None
        frames, take = self._job.preview(), self._job.take()
        path = self._save(take, len(self.paths) + 1)
        sheet = self._sheet = self._sheet or ContactSheet(self._count, *frames.shape[1:3])
        sheet.add(_label(len(self.paths) + 1, take), frames)
        self.paths.append(path)
        self._takes.append(take)
        self._job = None

    def keep_best(self, count: int) -> None:
        """Keep the likeliest; they get the first numbers, on the sheets and in their names."""
        assert self._sheet is not None
        drafts = self._takes
        order = sorted(range(len(drafts)), key=lambda draft: -drafts[draft].score.conditional)
        order = order[:count]
        kept = [
            self.paths[draft] if place == draft + 1 else self._save(drafts[draft], place)
            for place, draft in enumerate(order, 1)
        ]
        labels = {draft: _label(place, drafts[draft]) for place, draft in enumerate(order, 1)}
        self._sheet.keep(labels)
        others = {*self.paths}.difference(kept)
        self.paths, self._takes = kept, [drafts[draft] for draft in order]
        for path in others:
            path.unlink(missing_ok=True)

    def write_sheets(self) -> list[Path]:
        """Write the still sheet and, of videos, the moving one; they name the takes."""
        from istar.media import write_clip, write_picture
        from istar.media.sheet import with_takes

        assert self._sheet is not None
        self._writes_sheets = True
        request = self._takes[0].request
        metadata = with_takes(self._pipeline.metadata(request), self.paths)
        still = write_picture(
            self._sheet.still(),
            self._directory / "sheet.png",
            overwrite=self._overwrite,
            numbered=True,
            metadata=metadata,
        )
        if request.mode == "t2i":
            return [still]
        moving = write_clip(
            self._sheet.moving(),
            still.with_suffix(".mp4"),
            overwrite=self._overwrite,
            numbered=True,
            metadata=metadata,
        )
        return [still, moving]

    @contextmanager
    def left_when_stopped(self) -> Iterator[None]:
        """Whatever ends the work inside, leave what there is, and say so."""
        try:
            yield
        except BaseException:
            self._leave()
            raise

    def _leave(self) -> None:
        """Write the sheets of the drafts that are done, and the take of the one under way.

        What cannot be written is passed over: the error that ends the command says why.
        """
        kept, sheets = [*self.paths], list[Path]()
        if self._job is not None:
            take = self._job.take()
            if take.taken:
                with suppress(IstarError):
                    kept.append(self._save(take, len(self.paths) + 1))
        if self.paths and not self._writes_sheets:
            with suppress(IstarError):
                sheets = self.write_sheets()
        if kept:
            shown = f", and {sheets[0]} shows {len(self.paths)}" if sheets else ""
            say(f"{counted(len(kept), 'take')} kept, the last as {kept[-1]}{shown}")

    def _save(self, take: Take, number: int) -> Path:
        """Write a draft under its number on the sheet and its seed; the file's name."""
        from istar.take_directory import TAKE_SUFFIX

        target = self._directory / f"{number}-{take.request.seed}{TAKE_SUFFIX}"
        return take.save(target, overwrite=self._overwrite, numbered=not self._overwrite)


def _label(number: int, draft: Take) -> str:
    """What is written above a draft on a sheet."""
    return f"{number}: seed {draft.request.seed}"


def _one_of_many(
    job: Job, until: Until, number: int, total: int, said: set[str]
) -> Iterator[Event]:
    """A draft's events: its steps counted with those of the others, no note said again.

    Args:
        job: before its first step.
        until: how far it goes.
        number: of the draft, from 1.
        total: how many there are.
        said: notes of the drafts before; those of this one are added.
    """
    from istar.events import Progress

    stop = job.stop(until)
    for event in new_notes(job.run(until=stop), said):
        if isinstance(event, Progress):
            event = replace(
                event,
                done=(number - 1) * stop.step + event.done,
                total=total * stop.step,
                work=event.work.of_several(number, total),
            )
        yield event

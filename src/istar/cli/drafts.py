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

from istar.cli.console import print_path, said_when_stopped
from istar.cli.display import StepDisplay
from istar.cli.output import STDOUT
from istar.errors import MediaError, UsageError
from istar.files import writing_failed
from istar.generation.until import DRAFT_SHARE, Until
from istar.plurals import counted
from istar.request import LAST_SEED, GenerationRequest

if TYPE_CHECKING:
    from istar.events import Event
    from istar.inputs import Inputs
    from istar.job import Job
    from istar.media.sheet import ContactSheet
    from istar.pipeline import InfinityStarPipeline
    from istar.take import Take

MOST_DRAFTS = 99
_SHARE = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(%?)")
_SCALE = re.compile(r"([0-9]{1,6})[x×]([0-9]{1,6})")
_PANEL = "Drafts"

DraftOption = Annotated[
    bool,
    typer.Option(
        "--draft",
        help="Stop after a coarse scale; write a contact sheet and a take of every seed, which "
        "`istar finish` continues, into the directory --output.",
        rich_help_panel=_PANEL,
    ),
]
CountOption = Annotated[
    int | None,
    typer.Option(
        "-n",
        "--count",
        min=1,
        max=MOST_DRAFTS,
        help="How many, with consecutive seeds.",
        show_default="1",
        rich_help_panel=_PANEL,
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
        rich_help_panel=_PANEL,
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
        rich_help_panel=_PANEL,
    ),
]


def parse_until(text: str | None) -> Until:
    """How far a draft goes, as typed.

    Raises:
        UsageError: neither a scale nor a share.
    """
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
    """Width and height of a scale, as typed; None if it is none."""
    found = _SCALE.fullmatch(text)
    return found and (int(found[1]), int(found[2]))


def consecutive_seeds(first: int, number: int) -> range:
    """The seeds of several drafts.

    Raises:
        UsageError: there are not so many.
    """
    if first + number - 1 > LAST_SEED:
        raise UsageError(f"{number} seeds from {first} on pass the largest, {LAST_SEED}")
    return range(first, first + number)


@contextmanager
def drafts_directory(output: str | None) -> Iterator[Path]:
    """The directory that drafts are written into, made if need be; gone again if it stays empty.

    Raises:
        UsageError: no directory is named.
        MediaError: it cannot be made.
    """
    if output in STDOUT:
        raise UsageError("drafts are several files: name a directory with --output")
    if output == "":
        raise UsageError("the output path is empty")
    names = (Path(f"istar-drafts-{number:04}") for number in count(1))
    directory = Path(output).expanduser() if output else next(n for n in names if not n.exists())
    if directory.exists() and not directory.is_dir():
        raise MediaError(f"'{directory}' is a file; drafts are written into a directory")
    is_new = not directory.exists()
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise writing_failed(directory, error) from error
    try:
        yield directory
    finally:
        if is_new:
            with suppress(OSError):
                directory.rmdir()


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
    from istar.media.sheet import ContactSheet

    takes: list[Path] = []
    drafts: list[Take] = []
    first, sheet = None, None
    with said_when_stopped(lambda: _kept(takes)), StepDisplay() as display:
        said: set[str] = set()
        for number, start in enumerate(starts, 1):
            job = pipeline.job(start, inputs)
            first = first or job.request
            for _ in display.pictures_of(_one_of_many(job, until, number, len(starts), said)):
                pass
            frames, take = job.preview(), job.take()
            sheet = sheet or ContactSheet(len(starts), *frames.shape[1:3])
            sheet.add(_label(number, take), frames)
            takes.append(_save(take, directory, number, overwrite=overwrite))
            drafts.append(take)
    assert first is not None
    assert sheet is not None
    if best is not None:
        # The likeliest get the first numbers, on the sheets and in their names.
        order = sorted(range(len(drafts)), key=lambda draft: -drafts[draft].score.conditional)
        order = order[:best]
        sheet.keep({draft: _label(place, drafts[draft]) for place, draft in enumerate(order, 1)})
        kept = [
            takes[draft]
            if place == draft + 1
            else _save(drafts[draft], directory, place, overwrite=overwrite)
            for place, draft in enumerate(order, 1)
        ]
        for path in {*takes}.difference(kept):
            path.unlink(missing_ok=True)
        takes = kept
    for path in (*_write_sheets(sheet, pipeline, first, takes, directory, overwrite), *takes):
        print_path(path)


def _label(number: int, draft: Take) -> str:
    """What is written above a draft on a sheet."""
    return f"{number}: seed {draft.request.seed}"


def _save(draft: Take, directory: Path, number: int, *, overwrite: bool) -> Path:
    """Write a draft under its number on the sheet and its seed; the file's name."""
    from istar.take import TAKE_SUFFIX

    target = directory / f"{number}-{draft.request.seed}{TAKE_SUFFIX}"
    return draft.save(target, overwrite=overwrite, numbered=not overwrite)


def _write_sheets(
    sheet: ContactSheet,
    pipeline: InfinityStarPipeline,
    request: GenerationRequest,
    takes: Sequence[Path],
    directory: Path,
    overwrite: bool,
) -> list[Path]:
    """Write the still sheet and, of videos, the moving one; each holds the names of the takes."""
    from istar.media import write_clip, write_picture
    from istar.media.sheet import with_takes

    metadata = with_takes(pipeline.metadata(request), takes)
    still = write_picture(
        sheet.still(),
        directory / "sheet.png",
        overwrite=overwrite,
        numbered=True,
        metadata=metadata,
    )
    if request.mode == "t2i":
        return [still]
    moving = write_clip(
        sheet.moving(),
        still.with_suffix(".mp4"),
        overwrite=overwrite,
        numbered=True,
        metadata=metadata,
    )
    return [still, moving]


def _kept(takes: Sequence[Path]) -> str:
    if not takes:
        return ""
    return f"{counted(len(takes), 'take')} kept, the last as {takes[-1]}"


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
    from istar.events import Note, Progress

    stop = job.stop(until)
    for event in job.run(until=stop):
        if isinstance(event, Progress):
            done = (number - 1) * stop.step + event.done
            yield replace(event, done=done, total=total * stop.step)
        elif not isinstance(event, Note):
            yield event
        elif event.text not in said:
            said.add(event.text)
            yield event

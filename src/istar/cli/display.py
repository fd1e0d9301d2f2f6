"""Progress: a bar on a terminal, elsewhere a line now and then."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING

from rich.progress import (
    BarColumn,
    DownloadColumn,
    ProgressColumn,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as RichProgress

from istar.byte_size import readable_size
from istar.cli.console import SECONDS_BETWEEN_LINES, animated_console, printable, say
from istar.cli.remedies import with_remedies
from istar.models.download_events import (
    DownloadEvent,
    DownloadNote,
    DownloadPlanned,
    DownloadProgress,
    DownloadWaiting,
    LoadProgress,
)
from istar.plurals import counted

if TYPE_CHECKING:
    from torch import Tensor
    from typing_extensions import Self

    from istar.cli.previews import PreviewOutput
    from istar.events import Event
    from istar.training.trainer import StepDone

_SPEED_OVER = 20
_NOT_SHOWN = ("gradient", "learning_rate")


class Display:
    """A bar that appears with the first thing it shows, or lines where no bar can be."""

    def __init__(self, *columns: ProgressColumn) -> None:
        console = animated_console()
        self._bar = RichProgress(*columns, console=console, transient=True) if console else None
        self._last_line = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar:
            self._bar.stop()

    def _update(
        self, name: str, done: int, total: int | None, line: str, *, at_once: bool = False
    ) -> None:
        """Show one thing's progress, in place of any other's; without a bar not too often."""
        if self._bar is None:
            if at_once or time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
                self._last_line = time.monotonic()
                say(line)
            return
        self._bar.start()
        for task in self._bar.tasks:
            if task.description != name:
                self._bar.remove_task(task.id)
        if not self._bar.tasks:
            self._bar.add_task(name, total=total, line=line)
        self._bar.update(self._bar.task_ids[0], completed=done, total=total, line=line)


class StepDisplay(Display):
    """How far a generation is, and its previews.

    Args:
        previews: where those go.
    """

    def __init__(self, previews: PreviewOutput | None = None) -> None:
        self._now = (0, 0)
        self._previews = previews
        super().__init__(
            TextColumn("istar: {task.fields[line]}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(),
        )

    def show(self, done: int, total: int) -> None:
        """Say that `done` of `total` steps are taken."""
        self._now = done, total
        self._update("steps", done, total, f"step {done} of {total}")

    def pictures_of(self, events: Iterable[Event]) -> Iterator[Tensor]:
        """Show a generation's events; yield the pictures `(F, H, W, 3)` of its clips."""
        from istar.events import ClipReady, Decoding, Loading, Note, Preview, Progress

        for event in events:
            match event:
                case Loading():
                    done, total = self._now
                    self._update("steps", done, total or None, f"loading the {event.part}")
                case Progress():
                    self.show(event.done, event.total)
                case Decoding():
                    done, total = self._now
                    self._update("steps", done, total, f"step {done} of {total}, decoding")
                case Preview() if self._previews:
                    self._previews.show(event, self._bar.console if self._bar else None)
                case Note():
                    say(with_remedies(event.text, event.remedies))
                case ClipReady():
                    yield event.frames


class ClipsDisplay(Display):
    """How many clips are prepared."""

    def __init__(self) -> None:
        super().__init__(TextColumn("istar:"), BarColumn(), TextColumn("{task.description}"))

    def show(self, done: int, total: int, line: str) -> None:
        """Show that `done` of `total` clips are prepared, in the words of a line."""
        self._update(line, done, total, line, at_once=done == total)


class TrainingDisplay(Display):
    """The measures of a training run, its speed and the time left."""

    def __init__(self) -> None:
        super().__init__(TextColumn("istar:"), BarColumn(), TextColumn("{task.description}"))
        self._seconds: deque[float] = deque(maxlen=_SPEED_OVER)

    def show(self, done: StepDone) -> None:
        """Show a step."""
        is_edge = not self._seconds or done.step == done.total
        self._seconds.append(done.seconds)
        mean = sum(self._seconds) / len(self._seconds)
        left = _hours(mean * (done.total - done.step))
        speed = f"{1 / mean:.2f} steps/s, {left} left"
        line = f"step {done.step} of {done.total}: {listed(done.measures)}; {speed}"
        self._update(line, done.step, done.total, line, at_once=is_edge)


class DownloadDisplay(Display):
    """How far a download is, a check of what was downloaded, or loading it; a listener."""

    def __init__(self) -> None:
        self._fetches = False
        super().__init__(
            TextColumn("istar: {task.description}", markup=False),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
        )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, trace)
        if self._fetches and isinstance(error, KeyboardInterrupt | SystemExit):
            say("what was fetched is kept; the same command continues there")

    def __call__(self, event: DownloadEvent) -> None:
        """Show one event."""
        match event:
            case DownloadPlanned():
                self._fetches = True
                say(
                    f"fetching {readable_size(event.bytes_missing)} in "
                    f"{counted(event.files_missing, 'file')} (of {readable_size(event.bytes_total)}"
                    f" in {event.files_total}); the disk has {readable_size(event.free_bytes)} free"
                )
            case DownloadWaiting():
                say(f"waiting for another process, which fetches {event.path}")
            case DownloadNote():
                say(with_remedies(event.text, event.remedies))
            case DownloadProgress():
                name = printable(event.path.rpartition("/")[2])
                here = f"{readable_size(event.done)} of {readable_size(event.total)}"
                self._update(name, event.done, event.total, f"{name}: {here}")
            case LoadProgress():
                self._fetches = False
                name = f"loading {event.model}: {event.part}"
                here = f"{readable_size(event.done)} of {readable_size(event.total)}"
                self._update(name, event.done, event.total, f"{name}, {here}")


def listed(measures: Mapping[str, float]) -> str:
    """The measures that a line on the terminal shows."""
    return ", ".join(
        f"{name.removeprefix('validation_')} {value:.4g}"
        for name, value in measures.items()
        if name not in _NOT_SHOWN
    )


def _hours(seconds: float) -> str:
    """Hours, minutes and seconds; a day is 24:00:00."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest:02}"

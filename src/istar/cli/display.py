"""Progress: a bar on a terminal, elsewhere a line now and then."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from rich.progress import (
    BarColumn,
    DownloadColumn,
    ProgressColumn,
    Task,
    TaskProgressColumn,
    TextColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as RichProgress
from rich.table import Column
from rich.text import Text

from istar.byte_size import readable_size
from istar.cli.console import (
    SECONDS_BETWEEN_LINES,
    animated_console,
    emit,
    printable,
    say,
    voice,
    warn,
)
from istar.cli.json_events import (
    JsonEvent,
    decoding_event,
    download_event,
    loading_event,
    preview_event,
    progress_event,
)
from istar.cli.remedies import with_remedies
from istar.generation.until import scale_name
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
    from istar.events import Event, Progress, WorkDone
    from istar.training.events import StepDone

_SPEED_OVER = 20
_SECONDS_BETWEEN_EVENTS = 0.25
_STEP_ROOM, _DOWNLOAD_ROOM = 26, 38
"""For "100% 1:02:03 left", and for "12.0/35.0 GB 105.6 GB/s 1:02:03 left"."""
_NOT_SHOWN = ("gradient", "learning_rate")


class StageTimes:
    """How long each stage took, one after the other."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._stage, self._since = "", time.monotonic()

    def begin(self, stage: str) -> None:
        """A stage begins, or continues; the one before is over."""
        now = time.monotonic()
        if self._stage:
            self._seconds[self._stage] = self._seconds.get(self._stage, 0.0) + now - self._since
        self._stage, self._since = stage, now

    def say(self) -> None:
        """Say all of them, with `--verbose`."""
        self.begin("")
        if self._seconds and voice().verbose:
            say(", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in self._seconds.items()))


class Display:
    """A bar that appears with the first thing it shows, or lines where no bar can be.

    Args:
        words: what is said beside the bar, cut where the terminal is narrow.
        columns: what is behind the bar.
        room: characters that they and a short bar take.
    """

    def __init__(self, words: str, *columns: ProgressColumn, room: int = 6) -> None:
        console = animated_console()
        self._bar: RichProgress | None = None
        if console is not None:
            said = Column(
                no_wrap=True, overflow="ellipsis", max_width=max(console.width - room, 10)
            )
            self._bar = RichProgress(
                TextColumn(f"istar: {words}", markup=False, table_column=said),
                BarColumn(None),
                *columns,
                console=console,
                transient=True,
                expand=True,
            )
        self._last_line = time.monotonic()
        self._times = StageTimes()

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
        if error is None:
            self._times.say()

    def _update(
        self,
        name: str,
        done: int,
        total: int | None,
        line: str,
        *,
        shown: str = "",
        left: float | None = None,
        at_once: bool = False,
    ) -> None:
        """Show one thing's progress, in place of any other's; without a bar not too often.

        Args:
            name: of the thing.
            done, total: of it.
            line: what is said without a bar.
            shown: what is shown beside the bar; by default the line.
            left: seconds that it still takes, where they are known better than by what is done.
            at_once: say the line now.
        """
        if self._bar is None:
            soon = at_once or time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES
            if soon and voice().shows_progress:
                self._last_line = time.monotonic()
                say(line)
            return
        self._bar.start()
        for task in self._bar.tasks:
            if task.description != name:
                self._bar.remove_task(task.id)
        if not self._bar.tasks:
            self._bar.add_task(name, total=total, line=line, left=None)
        self._bar.update(
            self._bar.task_ids[0], completed=done, total=total, line=shown or line, left=left
        )


class _LeftColumn(ProgressColumn):
    """How long it still takes."""

    def __init__(self) -> None:
        super().__init__(table_column=Column(no_wrap=True))

    def render(self, task: Task) -> Text:
        seconds = task.fields["left"]
        if seconds is None:
            seconds = task.time_remaining
        return Text("" if seconds is None or task.finished else f"{clock_time(seconds)} left")


class StepDisplay(Display):
    """How far a generation is, and its previews; with `--json` the events of it.

    Args:
        previews: where those go.
    """

    def __init__(self, previews: PreviewOutput | None = None) -> None:
        self._previews = previews
        self._step = "reading the text"
        self._work: WorkDone | None = None
        self._pictures = 0
        super().__init__(
            "{task.fields[line]}",
            TaskProgressColumn(),
            _LeftColumn(),
            room=_STEP_ROOM,
        )

    def show(self, done: int, total: int) -> None:
        """Say that `done` of `total` steps are taken, of which no more is known."""
        self._update("steps", done, total, f"step {done} of {total}")

    def writing(self, file: Path) -> None:
        """Say that the file is written, to its end."""
        self._show(f"writing {file.name}")
        self._times.begin("write")

    def pictures_of(self, events: Iterable[Event]) -> Iterator[Tensor]:
        """Show a generation's events; yield the pictures `(F, H, W, 3)` of its clips."""
        from istar.events import ClipReady, Decoding, Loading, Note, Preview, Progress

        self._times.begin("text")
        self._show(self._step)
        for event in events:
            match event:
                case Loading():
                    self._show(f"loading the {event.part}")
                    self._times.begin("load")
                    emit(loading_event(event))
                case Progress():
                    self._work = event.work
                    self._show_step(event)
                    self._times.begin("scales")
                    emit(progress_event(event))
                case Decoding():
                    self._decode(event.work)
                case Preview() if self._previews:
                    file = self._previews.show(event, self._bar.console if self._bar else None)
                    if file is not None:
                        emit(preview_event(event, file))
                case Note():
                    (warn if event.warns else say)(with_remedies(event.text, event.remedies))
                case ClipReady():
                    if event.work is not None:
                        self._pictures += len(event.frames)
                        self._decode(event.work)
                    self._times.begin("write")
                    yield event.frames
                    self._times.begin("decode" if event.work else "text")

    def _show_step(self, event: Progress) -> None:
        scale = scale_name(event.grid.width, event.grid.height)
        place = f"scale {scale} ({event.scale + 1}/{event.scales})"
        self._step = f"step {event.done} of {event.total}, {place}"
        self._show(self._step, f"{place}, {event.tokens:,} tokens")

    def _decode(self, work: WorkDone) -> None:
        self._work = work
        self._show(f"{self._step}, decoding", "decoding")
        self._times.begin("decode")
        emit(decoding_event(self._pictures, work))

    def _show(self, line: str, shown: str = "") -> None:
        work = self._work
        if work is None:
            self._update("steps", 0, None, line)
            return
        left = None if work.done == work.total else work.seconds_left
        share = f"{line}, {work.done / work.total:.0%}" if work.total else line
        self._update(
            "steps",
            work.done,
            work.total,
            share if left is None else f"{share}, {clock_time(left)} left",
            shown=shown or line,
            left=left,
        )


class ClipsDisplay(Display):
    """How many clips are prepared."""

    def __init__(self) -> None:
        super().__init__("{task.description}")

    def show(self, done: int, total: int, line: str) -> None:
        """Show that `done` of `total` clips are prepared, in the words of a line."""
        self._update(line, done, total, line, at_once=done == total)


class TrainingDisplay(Display):
    """The measures of a training run, its speed and the time left."""

    def __init__(self) -> None:
        super().__init__("{task.description}")
        self._seconds: deque[float] = deque(maxlen=_SPEED_OVER)

    def show(self, done: StepDone) -> None:
        """Show a step."""
        is_edge = not self._seconds or done.step == done.total
        self._seconds.append(done.seconds)
        mean = sum(self._seconds) / len(self._seconds)
        left = clock_time(mean * (done.total - done.step))
        speed = f"{1 / mean:.2f} steps/s, {left} left"
        line = f"step {done.step} of {done.total}: {listed(done.measures)}; {speed}"
        self._update(line, done.step, done.total, line, at_once=is_edge)


class DownloadDisplay(Display):
    """How far a download is, a check of what was downloaded, or loading it; a listener."""

    def __init__(self) -> None:
        self._fetches = False
        # The file or network under way, when it came up, and how much of it was here then.
        self._under_way = ("", 0.0, 0)
        self._emitted = 0.0
        super().__init__(
            "{task.description}",
            DownloadColumn(table_column=Column(no_wrap=True)),
            TransferSpeedColumn(table_column=Column(no_wrap=True)),
            _LeftColumn(),
            room=_DOWNLOAD_ROOM,
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
                (warn if event.warns else say)(with_remedies(event.text, event.remedies))
            case DownloadProgress():
                self._times.begin("download")
                self._show(printable(event.path.rpartition("/")[2]), event.done, event.total)
                self._emit(download_event(event))
            case LoadProgress():
                self._fetches = False
                self._times.begin("load")
                self._show(f"loading {event.model}: {event.part}", event.done, event.total)
                self._emit(loading_event(event))

    def _show(self, name: str, done: int, total: int) -> None:
        if self._under_way[0] != name:
            self._under_way = (name, time.monotonic(), done)
        _, since, here = self._under_way
        line = f"{name}, {readable_size(done)} of {readable_size(total)}"
        if total:
            line += f", {done / total:.0%}"
        if done > here:
            seconds = (time.monotonic() - since) * (total - done) / (done - here)
            line += f", {clock_time(seconds)} left"
        self._update(name, done, total, line)

    def _emit(self, event: JsonEvent) -> None:
        """Write an event of bytes, not too often; the last of each thing in any case."""
        now = time.monotonic()
        if event["done"] == event["total"] or now - self._emitted >= _SECONDS_BETWEEN_EVENTS:
            self._emitted = now
            emit(event)


def listed(measures: Mapping[str, float]) -> str:
    """The measures that a line on the terminal shows."""
    return ", ".join(
        f"{name.removeprefix('validation_')} {value:.4g}"
        for name, value in measures.items()
        if name not in _NOT_SHOWN
    )


def clock_time(seconds: float) -> str:
    """Minutes and seconds, and hours where there are any: 0:07, 1:02:03."""
    minutes, rest = divmod(round(max(seconds, 0.0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"

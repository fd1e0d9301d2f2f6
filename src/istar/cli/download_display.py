"""What is shown while a model is fetched or checked."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.progress import (
    BarColumn,
    DownloadColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as RichProgress

from istar.cli.console import SECONDS_BETWEEN_LINES, animated_console, printable, say
from istar.models.hub import Event, FileProgress, Note, PullPlan, Waiting


def readable(count: int) -> str:
    """A number of bytes as a person reads it."""
    for unit, size in (("GB", 1_000_000_000), ("MB", 1_000_000), ("kB", 1000)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"


class FetchDisplay:
    """Listens to the Hub: a bar on a terminal, elsewhere a line now and then."""

    def __init__(self) -> None:
        self._bar: RichProgress | None = None
        self._task: TaskID | None = None
        self._shown = ""
        self._last_line = time.monotonic()

    def __enter__(self) -> FetchDisplay:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar:
            self._bar.stop()

    def __call__(self, event: Event) -> None:
        """Show one event."""
        if isinstance(event, PullPlan):
            if event.files_missing:
                say(
                    f"fetching {readable(event.bytes_missing)} in {event.files_missing} files "
                    f"(of {readable(event.bytes_total)} in {event.files_total}); the disk has "
                    f"{readable(event.free_bytes)} free"
                )
        elif isinstance(event, Waiting):
            whom = "another process" if event.pid is None else f"process {event.pid}"
            say(f"waiting for {whom}, which fetches {event.path}")
        elif isinstance(event, Note):
            say(event.text)
        elif isinstance(event, FileProgress):
            self._show(event)

    def _show(self, event: FileProgress) -> None:
        if self._bar is None and (console := animated_console()):
            self._bar = RichProgress(
                TextColumn("istar: {task.description}", markup=False),
                BarColumn(),
                DownloadColumn(),
                TransferSpeedColumn(),
                TimeRemainingColumn(),
                console=console,
                transient=True,
            )
            self._bar.start()
        name = printable(event.path.rpartition("/")[2])
        if self._bar:
            if self._task is None or name != self._shown:
                if self._task is not None:
                    self._bar.remove_task(self._task)
                self._task = self._bar.add_task(name, total=event.total)
                self._shown = name
            self._bar.update(self._task, completed=event.done)
        elif time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            say(f"{name}: {readable(event.done)} of {readable(event.total)}")


def asked_yes(question: str, *, yes: bool) -> bool:
    """Whether the person agrees; asked on stderr, and only on a terminal.

    Args:
        question: without its mark.
        yes: they already did.
    """
    if yes:
        return True
    if sys.stdin is None or not sys.stdin.isatty():
        return False
    print(f"istar: {question}? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")

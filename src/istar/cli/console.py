"""What is said to the person: everything on stderr, except the path of what was written."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

import typer
from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

BROKEN_PIPE = 128 + 13
SECONDS_BETWEEN_LINES = 10.0


def say(text: str) -> None:
    """One line on stderr, with nothing in it that could steer a terminal."""
    if sys.stderr is not None:
        print("istar: " + printable(text), file=sys.stderr, flush=True)


def print_path(path: Path) -> None:
    """The path of what was written, on stdout, in the file system's own bytes."""
    sys.stdout.flush()
    _write_all(os.fsencode(path) + os.fsencode(os.linesep))


def print_lines(lines: Iterable[str]) -> None:
    """Lines on stdout, in UTF-8 whatever the locale."""
    sys.stdout.flush()
    _write_all("".join(f"{line}\n" for line in lines).encode("utf-8", "backslashreplace"))


def print_file(path: Path) -> None:
    """A file's bytes on stdout."""
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            _write_all(piece)


def silence_stdout() -> None:
    """Keep the interpreter's own last flush from complaining about a stdout that is gone."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _write_all(data: bytes) -> None:
    view = memoryview(data)
    try:
        while view:
            # An unbuffered stdout may take less than it is given.
            written = sys.stdout.buffer.write(view)
            view = view[written:]
        sys.stdout.buffer.flush()
    except BrokenPipeError as error:
        silence_stdout()
        raise typer.Exit(BROKEN_PIPE) from error


def printable(text: str) -> str:
    """A text with nothing in it that could steer a terminal."""
    return "".join(
        c if c.isprintable() else " " if c.isspace() else c.encode("unicode_escape").decode()
        for c in text
    )


def animated_console() -> Console | None:
    """Where a moving bar may be shown: stderr, if it is a terminal that can."""
    if sys.stderr is None or not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        return None
    return Console(stderr=True)


class StepDisplay:
    """How far a generation is: a bar on a terminal, elsewhere a line now and then."""

    def __init__(self) -> None:
        self._bar: RichProgress | None = None
        if console := animated_console():
            self._bar = RichProgress(
                TextColumn("istar: step {task.completed}/{task.total}"),
                BarColumn(),
                TaskProgressColumn(),
                TimeRemainingColumn(),
                console=console,
                transient=True,
            )
            self._task = self._bar.add_task("steps", total=None)
        self._last_line = time.monotonic()

    def __enter__(self) -> StepDisplay:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar:
            self._bar.stop()

    def show(self, done: int, total: int) -> None:
        """Say that `done` of `total` steps are taken."""
        if self._bar:
            self._bar.update(self._task, completed=done, total=total)
        elif time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            say(f"step {done} of {total}")

"""What is said to the person: everything on stderr, except the path of what was written."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path

import typer
from rich.console import Console

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

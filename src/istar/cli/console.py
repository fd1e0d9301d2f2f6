"""What is said to the person: everything on stderr, except the path of what was written.

With `--json` all that is said becomes events on stdout, and stderr has errors and questions only.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, cast

import typer

from istar.cli.json_events import (
    VERSION,
    JsonEvent,
    Made,
    error_event,
    failure_event,
    note_event,
    result_event,
)
from istar.cli.remedies import message, remedy_words
from istar.errors import IstarError

if TYPE_CHECKING:
    from rich.console import Console

BROKEN_PIPE = 128 + 13
SECONDS_BETWEEN_LINES = 10.0


@dataclass(kw_only=True)
class Voice:
    """How the command under way speaks.

    Attributes:
        quiet: of errors, warnings and questions alone.
        verbose: of more than usual.
        as_json: in events.
        made: what is in the file that was written last.
        take: the file of the take that is kept of it.
        began: an event was written.
    """

    quiet: bool = False
    verbose: bool = False
    as_json: bool = False
    made: Made | None = None
    take: Path | None = None
    began: bool = False

    @property
    def shows_progress(self) -> bool:
        """Bars and lines on stderr say how far it is."""
        return not (self.quiet or self.as_json)


_voice = Voice()


def voice() -> Voice:
    """How the command under way speaks."""
    return _voice


def speak(*, quiet: bool = False, verbose: bool = False, as_json: bool = False) -> None:
    """Begin to speak as a command's options say; without any, as one does by itself."""
    global _voice
    _voice = Voice(quiet=quiet, verbose=verbose, as_json=as_json)


def say(text: str) -> None:
    """A line on stderr, with nothing in it that could steer a terminal; or a note."""
    if voice().as_json or not voice().quiet:
        _note(text)


def warn(text: str) -> None:
    """A line that a quiet command says too: what is made is not what was asked for. Or a note."""
    _note(text)


def _note(text: str) -> None:
    if voice().as_json:
        emit(note_event(text))
    else:
        say_anyway(text)


def say_anyway(text: str) -> None:
    """A line on stderr, however quiet the command is."""
    write_stderr("istar: " + printable(text) + "\n")


def say_failure(label: str, error: IstarError) -> None:
    """Say on stderr why one of several things failed, which ends no command; an event too.

    Args:
        label: what it is called; empty where the error names it.
        error: why.
    """
    emit(failure_event(label, str(error), remedy_words(error.remedies)))
    say_anyway("error: " + ": ".join(filter(None, (label, message(error)))))


def emit(event: JsonEvent) -> None:
    """Write an event as a line on stdout, at once; nothing without `--json`.

    Raises:
        Exit, IstarError: as `print_path`.
    """
    speaker = voice()
    if speaker.as_json:
        first = {} if speaker.began else {"version": VERSION}
        speaker.began = True
        print_lines([json.dumps({**first, **event})])


def emit_error(text: str, exit_code: int, *, remedy: str = "") -> None:
    """Write why the command ends; that it cannot be written changes nothing.

    Args:
        text: what failed, and why.
        exit_code: of the command.
        remedy: what to type next.
    """
    with suppress(typer.Exit, IstarError):
        emit(error_event(text, remedy, exit_code, voice().take))


def write_stderr(text: str) -> None:
    """A text on stderr; that it cannot be written is no reason to fail."""
    if sys.stderr is None:
        return
    try:
        print(text, end="", file=sys.stderr, flush=True)
    except OSError:
        silence(sys.stderr)


def print_path(path: Path) -> None:
    """The path of what was written, on stdout, in the file system's own bytes; or a result."""
    speaker = voice()
    if speaker.as_json:
        emit(result_event(path, speaker.take, speaker.made))
        speaker.made = speaker.take = None
        return
    with said_where_stdout_fails(f"{path} is written"):
        _write_all([os.fsencode(path) + os.fsencode(os.linesep)])


def print_lines(lines: Iterable[str]) -> None:
    """Lines on stdout, in UTF-8 whatever the locale."""
    with said_where_stdout_fails():
        _write_all(f"{line}\n".encode("utf-8", "backslashreplace") for line in lines)


def aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """The lines of a table: its cells two spaces apart, the last of a row as it is."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=False)]
        yield "  ".join((*cells, row[-1]))


def print_json(value: object) -> None:
    """A value as JSON on stdout; what JSON has no form for as text."""
    print_lines([json.dumps(value, indent=2, default=str)])


def print_file(path: Path) -> None:
    """A file's bytes on stdout."""
    with path.open("rb") as file, said_where_stdout_fails():
        _write_all(iter(lambda: file.read(1 << 20), b""))


class StdoutBytes:
    """stdout for media that come piece by piece; see `said_where_stdout_fails`."""

    def write(self, piece: bytes) -> int:
        """Send all of a piece.

        Raises:
            OSError: stdout takes no more.
        """
        _write_all([piece])
        return len(piece)


def silence(stream: TextIO | None) -> None:
    """Let a stream that takes nothing lead nowhere; its last flush would fail otherwise."""
    if stream is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def fill_closed_streams() -> None:
    """Lead stdin, stdout and stderr nowhere where they are closed.

    The next file opened would become one of them, and get what libraries say there.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)


def _write_all(pieces: Iterable[bytes]) -> None:
    sys.stdout.flush()
    for piece in pieces:
        view = memoryview(piece)
        while view:
            # An unbuffered stdout may take less than it is given.
            written = sys.stdout.buffer.write(view)
            view = view[written:]
    sys.stdout.buffer.flush()


@contextmanager
def said_where_stdout_fails(done: str = "") -> Iterator[None]:
    """End with a reader that left, and fail where stdout is full.

    Args:
        done: what should be known then.

    Raises:
        Exit: the reader left.
        IstarError: anything else.
    """
    try:
        yield
    except OSError as error:
        silence(sys.stdout)
        if isinstance(error, BrokenPipeError):
            if done:
                say(done)
            raise typer.Exit(BROKEN_PIPE) from error
        reason = f"stdout cannot be written: {error.strerror or error}"
        raise IstarError(f"{done}, but {reason}" if done else reason) from error


def printable(text: str) -> str:
    """A text with nothing in it that could steer a terminal."""
    return "".join(
        c if c.isprintable() else " " if c.isspace() else c.encode("unicode_escape").decode()
        for c in text
    )


@contextmanager
def said_when_stopped(kept: Callable[[], str]) -> Iterator[None]:
    """Where a signal ends the work inside, say what of it is kept.

    Args:
        kept: gives the words, none for nothing.
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        if words := kept():
            say(words)
        raise


class _Lasting:
    """A terminal that may go away while something is shown on it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.encoding = stream.encoding

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        try:
            self._stream.write(text)
        except OSError:
            silence(self._stream)
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            silence(self._stream)


def animated_console() -> Console | None:
    """Where a moving bar may be shown: stderr, if it is a terminal that can."""
    if not voice().shows_progress:
        return None
    if sys.stderr is None or not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        return None
    from rich.console import Console

    return Console(file=cast(TextIO, _Lasting(sys.stderr)), force_terminal=True)


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
    return ask(f"istar: {question}? [y/N] ").strip().lower() in ("y", "yes")


def ask(question: str) -> str:
    """A line that the person types; empty at the end of the input.

    Question and answer show on stderr. If that is a terminal, the keys that edit a line do so:
    stdout leads there meanwhile, because Python edits lines only where stdin and stdout are both
    terminals.
    """
    if not os.isatty(2):
        write_stderr(question)
        return sys.stdin.readline()
    sys.stdout.flush()
    stdout = os.dup(1)
    try:
        os.dup2(2, 1)
        with suppress(ImportError):
            import readline  # noqa: F401 (input() edits lines once it is imported)
        return input(question)
    except BaseException as error:
        write_stderr("\n")  # what is said next begins a line
        if isinstance(error, EOFError):
            return ""
        raise
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)

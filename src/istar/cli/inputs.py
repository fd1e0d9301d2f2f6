"""What commands read: prompts as typed or from stdin, and files."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from istar.clip_format import is_numbered
from istar.errors import UsageError
from istar.text_files import read_text

_PROMPT_BYTES = 1_000_000
_STDIN_NAMES = ("-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0")

STDIN = Path("/dev/stdin")
"""The name under which stdin is read like any file."""


def read_prompt(prompt: str | None, source: Path | None = None) -> str | None:
    """A prompt as typed, if one was; stdin's text for `-`, and a file's for `@FILE`.

    Args:
        prompt: as typed; what begins with `@@` is a prompt that begins with `@`.
        source: the file beside it, from `input_file`.

    Raises:
        UsageError: stdin is closed, the file is not there, the text is too long or not UTF-8, or
            the file beside it comes from stdin too.
    """
    if prompt is None:
        return prompt
    if prompt == "-":
        return read_stdin("the prompt", source).strip()
    if prompt.startswith("@@"):
        return prompt[1:]
    if prompt.startswith("@"):
        return read_text(input_file(Path(prompt[1:])), limit=_PROMPT_BYTES).strip()
    return prompt


def is_stdin(path: Path) -> bool:
    """Whether a path names stdin."""
    return str(path) in _STDIN_NAMES


def read_stdin(what: str, source: Path | None = None, *, limit: int = _PROMPT_BYTES) -> str:
    """The text on stdin, which `what` comes from, of so many bytes at most; see `read_prompt`."""
    if source == STDIN:
        raise UsageError(f"{what} and the input cannot both come from stdin")
    if sys.stdin is None:
        raise UsageError(f"{what} should come from stdin, and stdin is closed")
    return read_text(sys.stdin.buffer, f"{what} from stdin", limit=limit)


def input_clip(path: Path) -> Path:
    """A video to read: a file or a take as `take_input`, or a directory of numbered pictures.

    Raises:
        UsageError: it does not exist or is empty.
    """
    if path.is_dir() or (is_numbered(path) and not path.exists()):
        return path
    return take_input(path)


def input_file(path: Path) -> Path:
    """A file to read, `~` expanded and `-` for stdin, refused early if there is nothing to read.

    Raises:
        UsageError: it does not exist, is a directory or is empty.
    """
    try:
        path = STDIN if is_stdin(path) else path.expanduser()
        if path == STDIN and sys.stdin is None:
            raise UsageError("the input should come from stdin, and stdin is closed")
        if path.is_dir():
            raise UsageError(f"{path} is a directory; name a file in it")
        if not path.stat().st_size and path.is_file():
            raise UsageError(f"{path} is empty; check how it was made or downloaded")
    except FileNotFoundError as error:
        raise UsageError(f"{path} does not exist") from error
    except (OSError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{path} cannot be read: {reason}") from error
    return path


def take_input(path: Path) -> Path:
    """A file to read, or where no file has that name the take that the store has under it.

    Raises:
        UsageError: as `input_file`.
    """
    is_name = path.name == str(path) and not is_stdin(path)
    if is_name and not os.path.lexists(path):
        from istar.take_store import stored_path

        path = stored_path(path.name) or path
    return input_file(path)

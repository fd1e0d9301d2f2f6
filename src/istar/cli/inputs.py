"""What commands read: prompts as typed or from stdin, and files."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from istar.clip_format import is_numbered
from istar.errors import UsageError
from istar.files import expanded
from istar.plurals import counted
from istar.text_files import read_text

_PROMPT_BYTES = 1_000_000
_ON_SHEET = re.compile(r"(.+):([0-9]{1,3})", re.DOTALL)
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
    is_pictures = path.is_dir() and not is_take(path)
    if is_pictures or (is_numbered(path) and not path.exists()):
        return path
    return take_input(path)


def input_file(path: Path) -> Path:
    """A file to read, `~` expanded and `-` for stdin, refused early if there is nothing to read.

    Raises:
        UsageError: it does not exist, is a directory or is empty.
    """
    try:
        path = STDIN if is_stdin(path) else expanded(path)
        if path == STDIN and sys.stdin is None:
            raise UsageError("the input should come from stdin, and stdin is closed")
        if path.is_dir():
            raise UsageError(f"{path} is a directory; name a file in it")
        if not path.stat().st_size and path.is_file():
            raise UsageError(f"{path} is empty; check how it was made or downloaded")
    except FileNotFoundError as error:
        raise UsageError(f"{path} does not exist") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{path} cannot be read: {reason}") from error
    return path


def is_take(path: Path) -> bool:
    """Whether a file is a take, by its name."""
    from istar.take_directory import TAKE_SUFFIX

    return path.suffix.lower() == TAKE_SUFFIX


def settles(clip: Path) -> bool:
    """Whether a clip settles how it goes on, by its name: a take, or a session's directory."""
    from istar.cli.session import is_session

    return is_take(clip) or _is_stored_name(clip) or is_session(clip)


def take_file(path: Path) -> Path:
    """A take's file, named as for `take_input`, or by its number on a sheet of drafts.

    Raises:
        UsageError: as `input_file`, or a picture or video is named.
        MediaError: there is no such take on the sheet.
    """
    found = _ON_SHEET.fullmatch(str(path))
    if found is None or os.path.lexists(path):
        if path.suffix.lower() in (".png", ".mp4"):
            raise UsageError(f"'{path}' is no take; name one that a sheet shows, such as {path}:1")
        return take_input(path)
    from istar.media.sheet import takes_on

    sheet, number = input_file(Path(found[1])), int(found[2])
    takes = takes_on(sheet)
    if not 1 <= number <= len(takes):
        raise UsageError(f"'{sheet}' shows {counted(len(takes), 'take')}: there is no {number}")
    return input_file(takes[number - 1])


def take_input(path: Path) -> Path:
    """A file to read, or where no file has that name the take that the store has under it.

    Raises:
        UsageError: as `input_file`.
    """
    if _is_stored_name(path):
        from istar.take_store import stored_path

        path = stored_path(path.name) or path
    return input_file(path)


def _is_stored_name(path: Path) -> bool:
    """Whether a path may be the name of a take in the store: no file has it."""
    return path.name == str(path) and not is_stdin(path) and not os.path.lexists(path)

"""Reading text: files and streams that people and other programs write."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, BinaryIO

from istar.byte_size import readable_size
from istar.errors import IstarError, UsageError

TEXT_BYTES = 16_000_000
"""Longer texts are refused before they fill the memory."""

LIST_BYTES = 2_000_000_000
"""Likewise for lists with a line for each of many clips."""

_UTF_16_MARKS = (b"\xff\xfe", b"\xfe\xff")


def read_text(
    source: Path | BinaryIO,
    name: str | None = None,
    *,
    limit: int = TEXT_BYTES,
    error: type[IstarError] = UsageError,
) -> str:
    """The UTF-8 text of a file or an open binary stream; line ends become line feeds.

    A byte order mark, which some editors write first, is no part of it.

    Args:
        source: a path, or a stream that is read to its end.
        name: of the source in messages; by default its path.
        limit: the most bytes; an endless stream is read no further.
        error: the class of errors about the text.

    Raises:
        IstarError: of class `error`: unreadable, too long, not UTF-8, or not a text.
    """
    name = name or str(source)
    try:
        if isinstance(source, Path):
            with source.open("rb") as file:
                data = file.read(limit + 1)
        else:
            data = source.read(limit + 1)
    except (OSError, ValueError) as failure:  # a path with a NUL, a closed stream
        reason = getattr(failure, "strerror", None) or failure
        raise error(f"{name} cannot be read: {reason}") from failure
    if len(data) > limit:
        raise error(f"{name} is longer than {readable_size(limit)}")
    if data.startswith(_UTF_16_MARKS):
        raise error(f"{name} is UTF-16 text; save it as UTF-8")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as failure:
        raise error(f"{name} is not UTF-8 text") from failure
    if "\0" in text:
        raise error(f"{name} holds a NUL character, so it is not a text")
    return text.replace("\r\n", "\n")


def read_json(path: Path, *, error: type[IstarError] = UsageError) -> Any:
    """The JSON that a file holds.

    Raises:
        IstarError: of class `error`: as `read_text`, or not JSON.
    """
    try:
        return json.loads(read_text(path, error=error))
    except (ValueError, RecursionError) as failure:
        raise error(f"{path} is not readable JSON: {failure}") from failure


def parse_toml(text: str) -> dict[str, Any]:
    """What a TOML text says.

    Raises:
        ValueError: it is not TOML; the message says where.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error

"""Files to be read, and texts that files can hold."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from shutil import copyfileobj
from typing import BinaryIO

from istar.errors import MediaError


def source_name(source: Path | BinaryIO) -> str:
    """What to call `source` in a message."""
    return f"'{source}'" if isinstance(source, Path) else "the input"


@contextmanager
def open_source(source: Path | BinaryIO) -> Iterator[BinaryIO]:
    """`source` as a file that can seek; a pipe is copied to a temporary file first.

    Raises:
        MediaError: `source` is missing, empty, a directory, a device or unreadable.
    """
    name = source_name(source)
    try:
        with _open_raw(source, name) as file, _seekable(file) as seekable:
            if seekable.seek(0, os.SEEK_END) == 0:
                raise MediaError(f"{name} is empty; check how it was made or downloaded")
            seekable.seek(0)
            yield seekable
    except OSError as error:
        raise MediaError(
            f"cannot read {name}: {error.strerror or error}; check the path and its permissions"
        ) from error


@contextmanager
def _open_raw(source: Path | BinaryIO, name: str) -> Iterator[BinaryIO]:
    if not isinstance(source, Path):
        yield source
        return
    if "\0" in str(source):
        raise MediaError("a path holds a NUL character; check how it was made")
    mode = source.stat().st_mode
    if stat.S_ISDIR(mode):
        raise MediaError(f"{name} is a directory; name a file in it")
    if not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode)):
        raise MediaError(f"{name} is a device, not a file; name a file")
    with source.open("rb") as file:
        yield file


@contextmanager
def _seekable(file: BinaryIO) -> Iterator[BinaryIO]:
    if file.seekable():
        yield file
        return
    with tempfile.TemporaryFile() as spool:
        copyfileobj(file, spool)
        yield spool


def clean_text(entries: Mapping[str, str]) -> dict[str, str]:
    """`entries` without what files cannot hold: NULs go, lone surrogates become question marks."""
    cleaned = {_clean(key): _clean(value) for key, value in entries.items()}
    return {key: value for key, value in cleaned.items() if key}


def _clean(text: str) -> str:
    return text.replace("\0", "").encode("utf-8", "replace").decode("utf-8")

"""Files to be read, whatever stands behind their names."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from shutil import copyfileobj
from typing import BinaryIO

from istar.errors import MediaError


def source_name(source: Path | BinaryIO) -> str:
    """How messages call `source`."""
    return f"'{source}'" if isinstance(source, Path) else "the input"


@contextmanager
def open_source(source: Path | BinaryIO) -> Iterator[BinaryIO]:
    """`source` as a file that can seek; a pipe is copied to a temporary file first.

    Raises:
        MediaError: `source` is missing, empty, a directory, a device or unreadable.
    """
    name = source_name(source)
    try:
        with ExitStack() as stack:
            if isinstance(source, Path):
                _check_kind(source, name)
                file: BinaryIO = stack.enter_context(source.open("rb"))
            else:
                file = source
            if not file.seekable():
                spool = stack.enter_context(tempfile.TemporaryFile())
                copyfileobj(file, spool)
                file = spool
            if file.seek(0, os.SEEK_END) == 0:
                raise MediaError(f"{name} is empty; check how it was made or downloaded")
            file.seek(0)
            yield file
    except OSError as error:
        raise MediaError(
            f"cannot read {name}: {error.strerror or error}; check the path and its permissions"
        ) from error


def _check_kind(path: Path, name: str) -> None:
    if "\0" in str(path):
        raise MediaError("a path holds a NUL character; check how it was made")
    mode = path.stat().st_mode
    if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        raise MediaError(f"{name} is a device, not a file; name a file")

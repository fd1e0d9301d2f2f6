"""Files to be read, whatever stands behind their names."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from istar.byte_size import readable_size
from istar.errors import MediaError

_PIECE_BYTES = 1_000_000
_PIPE_BYTES = 8_000_000_000


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
                while piece := file.read(_PIECE_BYTES):
                    spool.write(piece)
                    if spool.tell() > _PIPE_BYTES:
                        raise MediaError(
                            f"{name} has sent {readable_size(_PIPE_BYTES)} and more; save it first"
                        )
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

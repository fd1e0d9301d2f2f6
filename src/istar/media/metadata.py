"""The texts kept in a picture or clip."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from istar.errors import MediaError
from istar.media.clip_reader import ClipReader
from istar.media.pictures import picture_metadata
from istar.media.sources import open_source, source_name


def read_metadata(source: Path | BinaryIO) -> dict[str, str]:
    """The texts that `write_picture` or `ClipWriter` put into a file, and others like them.

    Args:
        source: a local file, or an open binary file read from its start.

    Raises:
        MediaError: missing, or neither a picture nor a clip.
    """
    name = source_name(source)
    with open_source(source) as file:
        try:
            return picture_metadata(file, name)
        except MediaError:
            return ClipReader(file, name).metadata

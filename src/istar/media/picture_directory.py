"""Reading numbered pictures in a directory as a clip."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from istar.clip_format import is_numbered, number_in
from istar.errors import MediaError
from istar.media.clip_writer import ClipWriter
from istar.media.pictures import ANIMATION_PIXELS, read_picture
from istar.output_names import PICTURE_SUFFIXES

_NUMBERED_NAME = re.compile(r"(.*?)([0-9]+)(\.[A-Za-z]+)", re.DOTALL)


def holds_pictures(source: Path) -> bool:
    """Whether a path is a directory, or stands for the numbered pictures in one."""
    return source.is_dir() or (is_numbered(source) and not source.exists())


@contextmanager
def pictures_as_video(source: Path, name: str) -> Iterator[tuple[BinaryIO, tuple[str, ...]]]:
    """Numbered pictures as an animated PNG, 16 a second in the order of their numbers.

    Args:
        source: a directory with pictures of one name each with its own number, or `boat/%04d.png`.
        name: what messages call it.

    Returns:
        the open file, and what was changed or left out on the way.

    Raises:
        MediaError: no such pictures or several series of them, one that cannot be read or has
            another size, or too many.
    """
    try:
        paths = _numbered_paths(source, name)
    except OSError as error:
        raise MediaError(f"cannot read {name}: {error.strerror or error}") from error
    notes: list[str] = []
    with tempfile.TemporaryDirectory(prefix="istar-") as directory:
        target = Path(directory, "clip.apng")
        first = read_picture(paths[0]).pixels
        height, width, _ = first.shape
        if len(paths) * height * width > ANIMATION_PIXELS:
            raise MediaError(f"{name} holds too many pictures; make a video of them first")
        with ClipWriter(target, height, width) as writer:
            for path in paths:
                picture = read_picture(path)
                if picture.pixels.shape != first.shape:
                    raise MediaError(
                        f"'{path}' is not {width}×{height} as '{paths[0]}' is; "
                        "pictures of a clip have one size"
                    )
                # One remark of a kind is enough for all pictures.
                notes += [] if notes else picture.notes
                writer.write(picture.pixels.unsqueeze(0))
        with target.open("rb") as video:
            yield video, tuple(notes)


def _numbered_paths(source: Path, name: str) -> list[Path]:
    if not source.is_dir():
        directory = source.parent
        found = {number_in(path.name, source): path for path in directory.iterdir()}
        numbered = {number: path for number, path in found.items() if number is not None}
    else:
        series: dict[tuple[str, str], dict[int, Path]] = {}
        for path in source.iterdir():
            match = _NUMBERED_NAME.fullmatch(path.name)
            if match and match[3].lower() in PICTURE_SUFFIXES:
                series.setdefault((match[1], match[3]), {})[int(match[2])] = path
        if len(series) > 1:
            raise MediaError(
                f"{name} holds several series of pictures; leave one in it, or name one, "
                f"such as '{source / 'a%04d.png'}'"
            )
        numbered = next(iter(series.values()), {})
    if len(numbered) < 2:
        raise MediaError(f"{name} does not hold several numbered pictures, such as 0001.png")
    return [path for _, path in sorted(numbered.items())]

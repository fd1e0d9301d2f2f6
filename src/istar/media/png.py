"""Facts of PNG files that Pillow leaves out or gets wrong."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from PIL import Image

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_DEPTH_AT = 24
_PLAIN_GAMMA = 0.45455
_PIXELS = re.compile(rb"IHDR|PLTE|tRNS|IDAT|IEND")
_KEPT = re.compile(_PIXELS.pattern + rb"|eXIf")


def essential(data: bytes) -> bytes | None:
    """A PNG of the chunks that make its pixels alone; None if `data` is no PNG.

    Pillow refuses a picture for a flaw in any other chunk, or for its length. EXIF, which says
    where up is, stays if it is whole.
    """
    if not data.startswith(_SIGNATURE):
        return None
    kept = (data[start:end] for start, end in _chunks(data) if _KEPT.match(data, start + 4))
    return _SIGNATURE + b"".join(kept)


def _chunks(data: bytes) -> Iterator[tuple[int, int]]:
    """Where each chunk begins and ends; a broken one is left out, up to the next that is kept."""
    start = len(_SIGNATURE)
    while start < len(data):
        end = _end(data, start)
        if not _is_sound(data, start, end) and not _PIXELS.match(data, start + 4):
            following = [found.start() - 4 for found in _KEPT.finditer(data, start + 8)]
            sound = (at for at in following if _is_sound(data, at, _end(data, at)))
            start = next(sound, next(iter(following), len(data)))
            continue
        yield start, end
        start = end


def _end(data: bytes, start: int) -> int:
    return start + 12 + int.from_bytes(data[start : start + 4], "big")


def _is_sound(data: bytes, start: int, end: int) -> bool:
    return zlib.crc32(data[start + 4 : end - 4]).to_bytes(4, "big") == data[end - 4 : end]


def mend(picture: Image.Image, file: BinaryIO, name: str) -> list[str]:
    """Bring a transparent grey or colour to 8 bits, as Pillow has brought the pixels.

    Returns:
        what `file`, called `name`, states about its colours and is not applied, and whether its
        pixels are damaged.
    """
    file.seek(0)
    data = file.read()
    notes = []
    if not all(
        _is_sound(data, start, end)
        for start, end in _chunks(data)
        if data[start + 4 : start + 8] == b"IDAT"
    ):
        notes.append(f"{name} is damaged in places; some of its pixels may be wrong")
    depth, hidden = data[_DEPTH_AT], picture.info.get("transparency")
    if depth == 16 and isinstance(hidden, tuple):
        picture.info["transparency"] = tuple(value >> 8 for value in hidden)
    elif depth in (2, 4) and isinstance(hidden, int) and picture.mode == "L":
        picture.info["transparency"] = hidden * 255 // (2**depth - 1)
    gamma = picture.info.get("gamma", _PLAIN_GAMMA)
    if abs(gamma - _PLAIN_GAMMA) > 0.01 and not picture.info.keys() & {"srgb", "icc_profile"}:
        return [*notes, f"{name} has a gamma of {gamma:g}, which is not applied"]
    return notes

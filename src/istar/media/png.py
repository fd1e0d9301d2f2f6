"""Facts of PNG files that Pillow leaves out or gets wrong."""

from __future__ import annotations

from typing import BinaryIO

from PIL import Image

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_DEPTH_AT = 24
_CODE_POINTS = b"\0\0\0\x04cICP"  # H.273: one byte each for primaries, transfer, matrix, range
_PLAIN_CODE_POINTS = (b"\1\1", b"\1\6", b"\1\x0d")  # BT.709's primaries; its transfer or sRGB's
_PLAIN_GAMMA = 0.45455
_HEAD_BYTES = 2**16


def essential(data: bytes) -> bytes | None:
    """A PNG of the chunks that make its pixels alone; None if `data` is no PNG.

    Pillow refuses a picture for a flaw in any other chunk, or for its length.
    """
    if not data.startswith(_SIGNATURE):
        return None
    kept, start = [_SIGNATURE], len(_SIGNATURE)
    while start < len(data):
        end = start + 12 + int.from_bytes(data[start : start + 4], "big")
        kind = data[start + 4 : start + 8]
        if kind[:1].isupper() or kind == b"tRNS":
            kept.append(data[start:end])
        start = end
    return b"".join(kept)


def mend(picture: Image.Image, file: BinaryIO, name: str) -> list[str]:
    """Bring a transparent grey or colour to 8 bits, as Pillow has brought the pixels.

    Returns:
        what `file`, called `name`, states about its colours and is not applied.
    """
    file.seek(0)
    head = file.read(_HEAD_BYTES)
    depth, hidden = head[_DEPTH_AT], picture.info.get("transparency")
    if depth == 16 and isinstance(hidden, tuple):
        picture.info["transparency"] = tuple(value >> 8 for value in hidden)
    elif depth in (2, 4) and isinstance(hidden, int) and picture.mode == "L":
        picture.info["transparency"] = hidden * 255 // (2**depth - 1)
    _, is_coded, points = head.partition(_CODE_POINTS)
    if is_coded and points[:2] not in _PLAIN_CODE_POINTS:
        return [f"{name} is HDR or of a wide gamut; it is not converted and may look flat"]
    gamma = picture.info.get("gamma", _PLAIN_GAMMA)
    if abs(gamma - _PLAIN_GAMMA) > 0.01 and not picture.info.keys() & {"srgb", "icc_profile"}:
        return [f"{name} has a gamma of {gamma:g}, which is not applied"]
    return []

"""Facts of PNG files that Pillow leaves out or gets wrong."""

from __future__ import annotations

from PIL import Image

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_DEPTH_AT = 24
_CODE_POINTS = b"\0\0\0\x04cICP"  # H.273: one byte each for primaries, transfer, matrix, range
_PLAIN_CODE_POINTS = {(1, 1), (1, 6), (1, 13)}  # BT.709 primaries, and sRGB's transfer or BT.709's
_SRGB_GAMMA = 0.45455


def essential(data: bytes) -> bytes | None:
    """A PNG of the chunks that make its pixels alone; None if `data` is no PNG.

    A flaw in the others, a checksum or a size, makes Pillow refuse the picture.
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


def mend_transparency(picture: Image.Image, head: bytes) -> None:
    """Bring a transparent grey or colour to the 8 bits that Pillow brings the pixels to.

    Args:
        picture: a PNG.
        head: the first bytes of its file.
    """
    depth, hidden = head[_DEPTH_AT], picture.info.get("transparency")
    if depth == 16 and isinstance(hidden, tuple):
        picture.info["transparency"] = tuple(value >> 8 for value in hidden)
    elif depth in (2, 4) and isinstance(hidden, int) and picture.mode == "L":
        picture.info["transparency"] = hidden * 255 // (2**depth - 1)


def colour_notes(picture: Image.Image, head: bytes, name: str) -> list[str]:
    """What a PNG, called `name`, states about its colours that is not applied."""
    found = head.find(_CODE_POINTS) + len(_CODE_POINTS)
    if found >= len(_CODE_POINTS) and tuple(head[found : found + 2]) not in _PLAIN_CODE_POINTS:
        return [f"{name} is HDR or of a wide gamut; it is not converted and may look flat"]
    gamma = picture.info.get("gamma", _SRGB_GAMMA)
    if abs(gamma - _SRGB_GAMMA) > 0.01 and not picture.info.keys() & {"srgb", "icc_profile"}:
        return [f"{name} has a gamma of {gamma:g}, which is not applied"]
    return []

"""The parts of a JPEG file that make its pixels."""

from __future__ import annotations

_SIGNATURE = b"\xff\xd8\xff"
_SCAN, _EXIF, _ADOBE, _COMMENT = 0xDA, 0xE1, 0xEE, 0xFE
_APPLICATION_DATA = range(0xE0, 0xF0)
_ADOBE_BYTES = 16


def essential(data: bytes) -> bytes | None:
    """A JPEG without comments and application data; None if `data` is no JPEG.

    Pillow refuses a picture for a flaw in most of them. EXIF, which it reads leniently and which
    says where up is, stays, as does Adobe's note on how colours are stored.
    """
    if not data.startswith(_SIGNATURE):
        return None
    kept, start = [data[:2]], 2
    while data[start : start + 1] == b"\xff" and start + 4 <= len(data):
        kind = data[start + 1]
        if kind == _SCAN:
            break
        end = start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")
        if kind == _ADOBE:
            stays = end - start >= _ADOBE_BYTES
        else:
            stays = kind == _EXIF or kind not in (*_APPLICATION_DATA, _COMMENT)
        if stays:
            kept.append(data[start:end])
        start = end
    return b"".join((*kept, data[start:]))

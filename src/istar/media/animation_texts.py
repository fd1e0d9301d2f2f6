"""Texts in animations, which libav writes none into: GIF, APNG and animated WebP."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

from istar.media.picture_writer import exif_of, png_texts

_PIECE_BYTES = 2**20
_GIF_HEAD = 13  # signature and screen, before the palette that all pictures share
_GIF_FLAGS_AT = 10
_GIF_COMMENT = b"!\xfe"
_GIF_BLOCK = 255
_PNG_SIGNATURE_BYTES = 8
_PNG_END = 12  # IEND, the last chunk
_MOST_BYTES = 2**24
_WEBP_FLAGS_AT = 20
_WEBP_HAS_EXIF = 0x08


def add_texts(path: Path, texts: Mapping[str, str]) -> None:
    """Put texts into a whole animation of GIF, APNG or WebP.

    JSON in a GIF's comment, ahead of the pictures; behind them iTXt in APNG and JSON in the EXIF
    comment of WebP, as in still ones.

    Args:
        path: the file; its suffix says the format.
        texts: by name.

    Raises:
        OSError: the system refuses.
    """
    if texts:
        with path.open("rb+") as file:
            _ADDING[path.suffix.lower()](file, texts)


def _add_to_gif(file: BinaryIO, texts: Mapping[str, str]) -> None:
    flags = file.read(_GIF_HEAD)[_GIF_FLAGS_AT]
    palette = 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0
    data = json.dumps(texts).encode("ascii")
    pieces = (data[at : at + _GIF_BLOCK] for at in range(0, len(data), _GIF_BLOCK))
    blocks = b"".join(bytes([len(piece)]) + piece for piece in pieces)
    _insert(file, _GIF_HEAD + palette, _GIF_COMMENT + blocks + b"\0")


def _add_to_png(file: BinaryIO, texts: Mapping[str, str]) -> None:
    chunks = png_texts(texts).chunks
    data = b"".join(_png_chunk(kind, content) for kind, content, *_ in chunks)
    # Behind the pictures: libav looks for the first of them in the first bytes only.
    file.seek(-_PNG_END, os.SEEK_END)
    end = file.read()
    file.seek(-_PNG_END, os.SEEK_END)
    file.write(data + end)


def _png_chunk(kind: bytes, content: bytes) -> bytes:
    checked = kind + content
    return len(content).to_bytes(4, "big") + checked + zlib.crc32(checked).to_bytes(4, "big")


def texts_of_png(file: BinaryIO) -> dict[str, str]:
    """The texts in the iTXt chunks of a PNG, wherever they are; no pixel is decoded.

    Those that are compressed, damaged or longer than anyone writes are left out.
    """
    texts: dict[str, str] = {}
    at, room = _PNG_SIGNATURE_BYTES, _MOST_BYTES
    while True:
        file.seek(at)
        head = file.read(8)
        size = int.from_bytes(head[:4], "big")
        if len(head) < 8 or head[4:] == b"IEND":
            return texts
        if head[4:] == b"iTXt" and size <= room:
            room -= size
            key, _, rest = file.read(size).partition(b"\0")
            parts = rest[2:].split(b"\0", 2)
            if rest[:1] == b"\0" and len(parts) == 3:
                texts[key.decode("latin-1")] = parts[2].decode("utf-8", "replace")
        at += size + 12


def _add_to_webp(file: BinaryIO, texts: Mapping[str, str]) -> None:
    exif = exif_of(texts).removeprefix(b"Exif\0\0")
    file.seek(0, os.SEEK_END)
    file.write(b"EXIF" + len(exif).to_bytes(4, "little") + exif + b"\0" * (len(exif) % 2))
    size = file.tell() - 8
    file.seek(4)
    file.write(size.to_bytes(4, "little"))
    file.seek(_WEBP_FLAGS_AT)
    flags = file.read(1)[0]
    file.seek(_WEBP_FLAGS_AT)
    file.write(bytes([flags | _WEBP_HAS_EXIF]))


def _insert(file: BinaryIO, at: int, data: bytes) -> None:
    """Move what follows back, piece by piece, and put `data` there."""
    piece = max(len(data), _PIECE_BYTES)
    read_at, write_at = at, at
    while data:
        file.seek(read_at)
        following = file.read(piece)
        read_at = file.tell()
        file.seek(write_at)
        file.write(data)
        write_at = file.tell()
        data = following


_ADDING: dict[str, Callable[[BinaryIO, Mapping[str, str]], None]] = {
    ".gif": _add_to_gif,
    ".apng": _add_to_png,
    ".webp": _add_to_webp,
}

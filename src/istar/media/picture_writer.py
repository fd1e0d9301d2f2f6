"""Writing still pictures, and the texts that they hold."""

from __future__ import annotations

import json
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from PIL import ExifTags, Image, PngImagePlugin
from torch import Tensor

from istar.errors import MediaError
from istar.files import PendingFile, writing_failed
from istar.output_names import PICTURE_SUFFIXES, check_suffix

JSON_COMMENT = b"ASCII\0\0\0"
"""Stands before the JSON in an EXIF comment, and states its encoding."""

CUT_MARK = "cut"
"""The name of the text that says that others were cut."""

_EXIF_BYTES = 60_000
_JPEG_SUFFIXES = (".jpg", ".jpeg")


def write_picture(
    pixels: Tensor,
    target: Path,
    *,
    overwrite: bool = False,
    numbered: bool = False,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write a picture; it appears under its name only once it is whole.

    Args:
        pixels: `(H, W, 3)` uint8 RGB.
        target: ends in `.png`, `.jpg`, `.jpeg` or `.webp`.
        overwrite: an existing file may be replaced.
        numbered: beside an existing file it gets a numbered name.
        metadata: texts to keep in the file: iTXt in PNG, JSON in the EXIF comment elsewhere; of
            them what `texts_that_fit` leaves.

    Returns:
        The file's name: `target`, or a numbered one if `target` was taken while writing.

    Raises:
        UsageError: another suffix.
        MediaError: wrong shape or dtype, `target` exists, or writing failed.
    """
    check_suffix(target, PICTURE_SUFFIXES)
    if pixels.dtype != torch.uint8 or pixels.ndim != 3 or pixels.shape[-1] != 3:
        raise MediaError(
            f"a picture must be (H, W, 3) uint8, not {tuple(pixels.shape)} {pixels.dtype}"
        )
    texts = texts_that_fit(metadata or {}, target)
    with PendingFile(target, overwrite=overwrite, numbered=numbered) as pending:
        try:
            save_picture(pixels, pending.temporary, texts)
        except (OSError, ValueError) as error:
            raise writing_failed(target, error) from error
    return pending.target


def save_picture(pixels: Tensor, path: Path, texts: Mapping[str, str]) -> None:
    """Write a picture `(H, W, 3)` uint8 RGB right to its file, as `write_picture` does.

    Raises:
        OSError, ValueError: the system or Pillow refuses.
    """
    picture = Image.fromarray(pixels.detach().cpu().contiguous().numpy())
    suffix = path.suffix.lower()
    if suffix == ".png":
        picture.save(path, "PNG", pnginfo=png_texts(texts))
    elif suffix == ".webp":
        picture.save(path, "WEBP", quality=95, exif=exif_of(texts))
    else:
        picture.save(path, "JPEG", quality=95, subsampling=0, exif=exif_of(texts))


def png_texts(texts: Mapping[str, str]) -> PngImagePlugin.PngInfo:
    """The chunks that hold texts in a PNG."""
    chunks = PngImagePlugin.PngInfo()
    for key, text in texts.items():
        chunks.add_itxt(key, text)
    return chunks


def encode_png(pixels: Tensor, metadata: Mapping[str, str] | None = None) -> bytes:
    """A picture `(H, W, 3)` uint8 RGB, and texts, as the bytes of a PNG."""
    file, texts = BytesIO(), clean_texts(metadata or {})
    picture = Image.fromarray(pixels.detach().cpu().contiguous().numpy())
    picture.save(file, "PNG", pnginfo=png_texts(texts))
    return file.getvalue()


def texts_that_fit(metadata: Mapping[str, str], target: Path) -> dict[str, str]:
    """The texts that a file can hold, cleaned.

    A JPEG holds 60 kB: what is longest in its texts is cut until all fit, an ellipsis marks the
    cuts, and a text of its own says that there are some. The texts in a text that is a JSON object
    are cut one by one.

    Args:
        metadata: as `write_picture` takes it.
        target: the file.
    """
    texts = clean_texts(metadata)
    if target.suffix.lower() not in _JPEG_SUFFIXES:
        return texts
    longest = _EXIF_BYTES
    while longest and len(exif_of(texts)) > _EXIF_BYTES:
        longest //= 2
        shortened = {key: _shortened_text(text, longest) for key, text in texts.items()}
        texts = {**shortened, CUT_MARK: "yes"}
    return texts if longest else {}


def _shortened_text(text: str, longest: int) -> str:
    try:
        table = json.loads(text)
    except ValueError:
        table = None
    if isinstance(table, dict):
        return json.dumps(_shortened(table, longest))
    return text if len(text) <= longest else text[:longest] + "…"


def _shortened(value: Any, longest: int) -> Any:
    """A JSON value with every text in it cut."""
    if isinstance(value, dict):
        return {key: _shortened(item, longest) for key, item in value.items()}
    if isinstance(value, list):
        return [_shortened(item, longest) for item in value]
    return _shortened_text(value, longest) if isinstance(value, str) else value


def exif_of(texts: Mapping[str, str]) -> bytes:
    """An EXIF block whose comment holds texts as JSON; nothing without texts."""
    if not texts:
        return b""
    exif = Image.Exif()
    comment = JSON_COMMENT + json.dumps(texts).encode("ascii")
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = comment
    return exif.tobytes()


def clean_texts(entries: Mapping[str, str]) -> dict[str, str]:
    """`entries` without what files cannot hold: NULs go, lone surrogates become question marks."""
    cleaned = {_clean(key): _clean(value) for key, value in entries.items()}
    return {key: value for key, value in cleaned.items() if key}


def _clean(text: str) -> str:
    return text.replace("\0", "").encode("utf-8", "replace").decode("utf-8")

"""Still pictures: reading any common kind as RGB, and fitting."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError
from torch import Tensor

from istar.errors import MediaError
from istar.media import jpeg, png
from istar.media.sources import open_source, source_name

PIXEL_LIMIT = 100_000_000
"""Larger pictures are refused before they are decoded."""

ANIMATION_PIXELS = 10 * PIXEL_LIMIT
"""Animations that must be converted to be read are refused if they have more."""

_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
_HEAD_BYTES = 256
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx")
_COLOURS_BYTES = 2**16
_CODE_POINTS = ((b"\0\0\0\x04cICP", 1), (b"colrnclx", 2))  # and how many bytes a number has
_PLAIN_PRIMARIES = (1, 2)  # BT.709, unsaid
_PLAIN_TRANSFERS = (1, 2, 6, 13)  # BT.709, unsaid, BT.601, sRGB
_HDR_TRANSFERS = (16, 18)  # PQ, HLG
_SUBFILE_KIND = 254  # TIFF's NewSubfileType; its lowest bit marks a small copy
_MOST_PAGES = 1000


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture as read.

    Attributes:
        pixels: `(H, W, 3)` uint8 RGB, upright.
        notes: what was changed or left out on the way, for the person to read.
    """

    pixels: Tensor
    notes: tuple[str, ...]


def read_picture(source: Path | BinaryIO) -> Picture:
    """Read a picture as upright, opaque RGB.

    PNG, JPEG, WebP, GIF, BMP, TIFF, AVIF, and HEIC where pillow-heif is installed. The EXIF
    orientation is applied, transparency is laid on white, 16-bit grey is divided by 257, CMYK,
    palettes and colour profiles are converted to sRGB, and of several pictures the first is used,
    of a TIFF's the largest.

    Args:
        source: a local file, or an open binary file read from its start.

    Raises:
        MediaError: missing, no picture, damaged, over `PIXEL_LIMIT` pixels, or of a kind whose
            white is unknown (float and 32-bit).
    """
    name = source_name(source)
    with open_source(source) as file:
        try:
            return _read(file, name)
        except MediaError:
            file.seek(0)
            data = file.read()
            pixels_alone = png.essential(data) or jpeg.essential(data)
            if pixels_alone is None:
                raise
            picture = _read(BytesIO(pixels_alone), name)
            left_out = f"{name} has damaged or very large extra data; only its pixels are used"
            return Picture(pixels=picture.pixels, notes=(*picture.notes, left_out))


def _read(file: BinaryIO, name: str) -> Picture:
    notes = []
    with opened_picture(file, name) as picture:
        notes += _choose_page(picture, name)
        if picture.width * picture.height > PIXEL_LIMIT:
            raise _too_large(name)
        picture.load()
        if picture.format == "PNG":
            notes += png.mend(picture, file, name)
        if _is_of_other_colours(picture, file):
            notes.append(f"{name} is HDR or of a wide gamut; it is not converted and may look flat")
        try:
            ImageOps.exif_transpose(picture, in_place=True)
        except Exception:  # the EXIF block is free-form bytes; anything may come of it
            notes.append(f"{name} has a damaged EXIF block; its orientation is ignored")
        opaque, has_holes = _on_white(picture, name)
        if has_holes:
            notes.append(f"{name} is transparent in places; they are white now")
        try:
            opaque = _in_srgb(picture, opaque)
        except Exception:  # so are colour profiles
            notes.append(f"{name} has a colour profile that does not fit it and is ignored")
        return Picture(pixels=torch.from_numpy(np.array(opaque)), notes=tuple(notes))


def refuse_picture(file: BinaryIO, name: str) -> None:
    """Say so if `file`, called `name`, is a picture where a video should be.

    Raises:
        MediaError: it is one.
    """
    if kind := still_kind(file, name):
        raise MediaError(f"{name} is a picture ({kind}), not a video")


def still_kind(file: BinaryIO, name: str) -> str | None:
    """The format of the one picture in `file`, called `name`; None of anything else."""
    kind = "HEIC" if _is_heif(file) else None
    with suppress(MediaError), opened_picture(file, name) as picture:
        kind = picture.format if getattr(picture, "n_frames", 1) == 1 else None
    return kind


@contextmanager
def as_video(file: BinaryIO, name: str) -> Iterator[BinaryIO]:
    """`file`, called `name`, as libav can read it: an animated WebP becomes an animated PNG.

    Raises:
        MediaError: it is an animated WebP that is damaged or too long.
    """
    head = file.read(_HEAD_BYTES)
    file.seek(0)
    if head[:4] + head[8:12] != b"RIFFWEBP" or b"ANIM" not in head:
        yield file
        return
    with tempfile.TemporaryFile() as copy:
        with opened_picture(file, name) as picture:
            count = getattr(picture, "n_frames", 1)
            if count * picture.width * picture.height > ANIMATION_PIXELS:
                raise MediaError(f"{name} is too long for an animated WebP; convert it to MP4")
            milliseconds = []
            for number in range(count):
                picture.seek(number)
                picture.load()
                milliseconds.append(picture.info["duration"])
            picture.save(copy, "PNG", save_all=True, duration=milliseconds, compress_level=1)
        yield copy


@contextmanager
def opened_picture(file: BinaryIO, name: str) -> Iterator[Image.Image]:
    """The picture in `file`, every failure of Pillow's inside the block made a MediaError."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            # Named formats only: EPS and its like would reach external programs.
            with Image.open(file, formats=_formats(file, name)) as picture:
                yield picture
        except MediaError:
            raise
        except UnidentifiedImageError as error:
            raise MediaError(
                f"{name} is not a picture that can be read; "
                "use PNG, JPEG, WebP, GIF, BMP, TIFF, AVIF or HEIC"
            ) from error
        except Image.DecompressionBombError as error:
            raise _too_large(name) from error
        except Exception as error:  # decoders fail on damaged bytes in any way they like
            raise MediaError(f"{name} is damaged or cut short; fetch or export it again") from error


def _too_large(name: str) -> MediaError:
    return MediaError(
        f"{name} has more than {PIXEL_LIMIT // 1_000_000} million pixels; make it smaller first"
    )


def _formats(file: BinaryIO, name: str) -> tuple[str, ...]:
    """The formats that `file`, called `name`, may have.

    Raises:
        MediaError: it is HEIC, for which the package is missing.
    """
    if not _is_heif(file):
        return _FORMATS
    try:
        from pillow_heif import register_heif_opener
    except ImportError as error:
        raise MediaError(
            f"{name} is HEIC, which needs the Python package pillow-heif; "
            "install it, or convert the picture to JPEG"
        ) from error
    register_heif_opener()
    return (*_FORMATS, "HEIF")


def _is_heif(file: BinaryIO) -> bool:
    file.seek(0)
    head = file.read(_HEAD_BYTES)
    file.seek(0)
    brands = head[8 : int.from_bytes(head[:4], "big")]
    return head[4:8] == b"ftyp" and any(brand in brands for brand in _HEIF_BRANDS)


def _choose_page(picture: Image.Image, name: str) -> list[str]:
    """Turn to the picture in a file, called `name`, that is meant, and say if there are others.

    Of a TIFF's pages that is the largest: the first may be a small copy of it.
    """
    sizes = []
    if picture.format == "TIFF":
        with suppress(Exception):  # the last page is followed by an error of its own, or by damage
            for number in range(_MOST_PAGES):
                picture.seek(number)
                sizes.append(picture.width * picture.height)
        picture.seek(sizes.index(max(sizes)))
    count = len(sizes) or getattr(picture, "n_frames", 1)
    notes = []
    if count > 1:
        largest = picture.tell()
        which = f"number {largest + 1}, the largest," if largest else "the first"
        notes.append(f"{name} holds {count} pictures; {which} is used")
    is_reduced = getattr(picture, "tag_v2", {}).get(_SUBFILE_KIND, 0) & 1
    if is_reduced:
        notes.append(
            f"{name} is read as its preview of {picture.width}×{picture.height}; "
            "export the picture itself as PNG or JPEG for more"
        )
    return notes


def _on_white(picture: Image.Image, name: str) -> tuple[Image.Image, bool]:
    """`picture` as opaque RGB, and whether anything in it was transparent."""
    if picture.mode.startswith("I;16"):
        grey = np.asarray(picture).astype(np.uint32)
        hidden = picture.info.get("transparency")
        picture = Image.fromarray(((grey + 128) // 257).astype(np.uint8)).convert("RGBA")
        if isinstance(hidden, int):
            picture.putalpha(Image.fromarray(np.where(grey == hidden, 0, 255).astype(np.uint8)))
    if picture.mode in ("I", "F"):
        raise MediaError(
            f"{name} holds float or 32-bit values, whose white is unknown; "
            "convert it to 8 or 16 bits first"
        )
    if not picture.has_transparency_data:
        return picture.convert("RGB"), False
    layered = picture.convert("RGBA")
    lowest, _ = layered.getchannel("A").getextrema()
    white = Image.new("RGBA", layered.size, "white")
    return Image.alpha_composite(white, layered).convert("RGB"), lowest != 255


def _is_of_other_colours(picture: Image.Image, file: BinaryIO) -> bool:
    """Whether code points in the file state colours that are not converted.

    They are those of H.273, in a PNG's cICP chunk or the colr box of AVIF and HEIC. A profile that
    is there too speaks for itself, except of HDR.
    """
    file.seek(0)
    head = file.read(_COLOURS_BYTES)
    for mark, width in _CODE_POINTS:
        _, is_coded, points = head.partition(mark)
        if is_coded and len(points) >= 2 * width:
            primaries, transfer = points[width - 1], points[2 * width - 1]
            has_profile = "icc_profile" in picture.info
            return transfer in _HDR_TRANSFERS or not (
                has_profile or (primaries in _PLAIN_PRIMARIES and transfer in _PLAIN_TRANSFERS)
            )
    return False


def _in_srgb(picture: Image.Image, opaque: Image.Image) -> Image.Image:
    """`opaque`, the RGB of `picture`, in the colours that its embedded profile means."""
    embedded = picture.info.get("icc_profile")
    if not embedded:
        return opaque
    profile = ImageCms.getOpenProfile(BytesIO(embedded))
    if "srgb" in ImageCms.getProfileDescription(profile).lower():
        return opaque
    # Profiles of inks and of greys are for pixels as they are stored.
    stored = picture if picture.mode in ("CMYK", "L") else opaque
    srgb = ImageCms.createProfile("sRGB")
    return ImageCms.profileToProfile(stored, profile, srgb, outputMode="RGB") or opaque


def cover_and_crop(pixels: Tensor, height: int, width: int) -> Tensor:
    """Scale pictures to cover a size and cut out the centre, as the released reference does.

    Args:
        pixels: `(…, H, W, 3)` uint8.
        height, width: of the result.

    Returns:
        `(…, height, width, 3)` uint8, Lanczos-filtered; `pixels` itself if it has that size.

    Raises:
        MediaError: the picture is so narrow that covering the size would take more than
            `PIXEL_LIMIT` pixels.
    """
    old_height, old_width = pixels.shape[-3:-1]
    if (old_height, old_width) == (height, width):
        return pixels
    if old_width * height <= width * old_height:
        scaled = (width, old_height * width // old_width)
    else:
        scaled = (old_width * height // old_height, height)
    if scaled[0] * scaled[1] > PIXEL_LIMIT:
        raise MediaError(
            f"a picture of {old_width}×{old_height} is too narrow to fill {width}×{height}; "
            "crop it first"
        )
    left, top = (scaled[0] - width) // 2, (scaled[1] - height) // 2
    box = (left, top, left + width, top + height)
    fitted = [
        np.array(Image.fromarray(frame).resize(scaled, Image.Resampling.LANCZOS).crop(box))
        for frame in pixels.reshape(-1, old_height, old_width, 3).cpu().numpy()
    ]
    return torch.from_numpy(np.stack(fitted)).reshape(*pixels.shape[:-3], height, width, 3)


def stretch(pixels: Tensor, height: int, width: int) -> Tensor:
    """Scale a picture `(H, W, 3)` uint8 to `(height, width, 3)`, whatever its proportions."""
    picture = Image.fromarray(pixels.detach().cpu().contiguous().numpy())
    return torch.from_numpy(np.array(picture.resize((width, height), Image.Resampling.LANCZOS)))

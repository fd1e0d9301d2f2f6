"""From decoded video frames to upright RGB pixels."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

import av
import torch
from av.video.reformatter import (
    ColorRange,
    Colorspace,
    ColorTrc,
    Interpolation,
    VideoReformatter,
)
from av.video.stream import VideoStream
from torch import Tensor

from istar.errors import MediaError
from istar.media.pictures import PIXEL_LIMIT, cover_and_crop

ACCURATE_CONVERSION = (
    Interpolation.LANCZOS
    | Interpolation.ACCURATE_RND
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.FULL_CHR_H_INP
    | Interpolation.BITEXACT
)
"""How libswscale is to convert: exact rounding, chroma at full width."""

# ITU-T H.273 matrix coefficients to libswscale's names.
_MATRICES = {
    1: Colorspace.ITU709,
    4: Colorspace.FCC,
    5: Colorspace.ITU601,
    6: Colorspace.ITU601,
    7: Colorspace.SMPTE240M,
    9: Colorspace.BT2020,
    10: Colorspace.BT2020,
}
_UNSPECIFIED_MATRIX = 2
_HD_HEIGHT = 720
_WILDEST_PIXEL = 16
_HDR_TRANSFERS = {int(ColorTrc.SMPTE2084): "PQ", int(ColorTrc.ARIB_STD_B67): "HLG"}


@dataclass(frozen=True, kw_only=True)
class FrameView:
    """How the frames of one clip become pixels.

    Attributes:
        width: of a frame as displayed: upright, with square pixels.
        height: likewise.
        pixel_aspect: width of a stored pixel divided by its height.
        size: height and width to cover and crop to; None leaves frames at their size.
        notes: what the conversion changes or leaves out.
    """

    width: int
    height: int
    pixel_aspect: Fraction
    size: tuple[int, int] | None
    notes: tuple[str, ...]
    _reformatter: VideoReformatter = field(default_factory=VideoReformatter, repr=False)

    @property
    def bytes_per_frame(self) -> int:
        """Bytes that a converted frame takes."""
        height, width = self.size or (self.height, self.width)
        return 3 * height * width

    def pixels(self, frame: av.VideoFrame, name: str) -> Tensor:
        """`frame` as `(H, W, 3)` uint8 RGB: upright, with square pixels, opaque.

        Raises:
            MediaError: the size is not the clip's, and no `size` evens them out.
        """
        rgb = torch.rot90(self._rgb(frame), _quarter_turns(frame), dims=(0, 1))
        if self.size is not None:
            return cover_and_crop(rgb, *self.size)
        if rgb.shape[:2] != (self.height, self.width):
            raise MediaError(f"{name} changes its picture size midway; re-encode it with ffmpeg")
        return rgb.contiguous()

    def _rgb(self, frame: av.VideoFrame) -> Tensor:
        has_alpha = any(component.is_alpha for component in frame.format.components)
        is_rgb = frame.format.is_rgb or frame.format.has_palette
        is_full = is_rgb or frame.color_range == ColorRange.JPEG or "yuvj" in frame.format.name
        converted = self._reformatter.reformat(
            frame,
            width=_square_width(frame.width, self.pixel_aspect),
            format="rgba" if has_alpha else "rgb24",
            src_colorspace=None if is_rgb else _matrix(frame),
            src_color_range=ColorRange.JPEG if is_full else ColorRange.MPEG,
            dst_color_range=ColorRange.JPEG,
            interpolation=ACCURATE_CONVERSION,
        )
        pixels = torch.from_numpy(converted.to_ndarray())
        if not has_alpha:
            return pixels
        alpha = pixels[..., 3:].int()
        on_white = pixels[..., :3].int() * alpha + 255 * (255 - alpha)
        return ((on_white + 127) // 255).to(torch.uint8)


def view_of(
    frame: av.VideoFrame, stream: VideoStream, size: tuple[int, int] | None, name: str
) -> FrameView:
    """How to convert the clip that begins with `frame`.

    Raises:
        MediaError: its pictures are larger than `PIXEL_LIMIT`.
    """
    aspect = stream.sample_aspect_ratio or Fraction(1)
    if not 1 <= aspect * _WILDEST_PIXEL <= _WILDEST_PIXEL**2:
        aspect = Fraction(1)
    width, height = _square_width(frame.width, aspect), frame.height
    if width * height > PIXEL_LIMIT:
        raise MediaError(f"{name} has pictures of {width}×{height}; make them smaller first")
    notes = []
    if width != frame.width:
        notes.append(f"its pixels are not square; {frame.width} columns are scaled to {width}")
    if _quarter_turns(frame) % 2:
        width, height = height, width
    if frame.rotation % 90:
        notes.append(f"its rotation by {frame.rotation}° is rounded to a quarter turn")
    if frame.interlaced_frame:
        notes.append("it is interlaced; moving edges may show combs")
    if frame.color_trc in _HDR_TRANSFERS:
        transfer = _HDR_TRANSFERS[frame.color_trc]
        notes.append(f"it is HDR ({transfer}); it is not tone-mapped and may look flat")
    return FrameView(width=width, height=height, pixel_aspect=aspect, size=size, notes=tuple(notes))


def _square_width(width: int, aspect: Fraction) -> int:
    return max(1, round(width * aspect))


def _quarter_turns(frame: av.VideoFrame) -> int:
    """Quarter turns to the left that set the frame upright."""
    return round(frame.rotation / 90) % 4


def _matrix(frame: av.VideoFrame) -> Colorspace | None:
    if frame.colorspace == _UNSPECIFIED_MATRIX:
        return Colorspace.ITU709 if frame.height >= _HD_HEIGHT else Colorspace.ITU601
    return _MATRICES.get(frame.colorspace)

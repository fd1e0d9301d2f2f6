"""From decoded video frames to upright RGB pixels."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from fractions import Fraction

import torch
from av import VideoFrame
from av.video.reformatter import ColorRange, Interpolation, VideoReformatter
from av.video.stream import VideoStream
from torch import Tensor

from istar.errors import MediaError
from istar.media.clip_container import pixel_aspect
from istar.media.pictures import cover_and_crop

ACCURATE_CONVERSION = (
    Interpolation.LANCZOS
    | Interpolation.ACCURATE_RND
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.FULL_CHR_H_INP
    | Interpolation.BITEXACT
)
"""How libswscale is to convert: exact rounding, chroma at full width."""

# ITU-T H.273 matrix coefficients to libswscale's numbers.
_MATRICES = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9, 10: 9}
_UNSPECIFIED_MATRIX = 2
_BT709, _BT601 = 1, 5
_HD_HEIGHT = 720
_HDR_TRANSFERS = {16: "PQ", 18: "HLG"}
_UPRIGHT = (1, 0, 0, 1)


@dataclass(frozen=True, kw_only=True)
class FrameConversion:
    """How the frames of one clip become pixels.

    Attributes:
        width: of a frame as displayed: upright, with square pixels.
        height: likewise.
        pixel_aspect: width of a stored pixel divided by its height.
        display_matrix: `(a, b, c, d)`: a stored point (x, y) is shown at (ax + cy, bx + dy).
        notes: what the conversion changes or leaves out.
    """

    width: int
    height: int
    pixel_aspect: Fraction
    display_matrix: tuple[int, int, int, int]
    notes: tuple[str, ...]
    _reformatter: VideoReformatter = field(default_factory=VideoReformatter, repr=False)

    def pixels(self, frame: VideoFrame, size: tuple[int, int] | None, name: str) -> Tensor:
        """`frame` as `(H, W, 3)` uint8 RGB: upright, with square pixels, opaque.

        Raises:
            MediaError: the size is not the clip's and no `size` evens them out, or the colour
                matrix is not supported.
        """
        rgb = _upright(self._rgb(frame, name), self.display_matrix)
        if size is not None:
            return cover_and_crop(rgb, *size)
        if rgb.shape[:2] != (self.height, self.width):
            raise MediaError(f"{name} changes its picture size midway; re-encode it with ffmpeg")
        return rgb.contiguous()

    def _rgb(self, frame: VideoFrame, name: str) -> Tensor:
        has_alpha = any(component.is_alpha for component in frame.format.components)
        is_rgb = _is_rgb(frame)
        is_full = is_rgb or frame.color_range == ColorRange.JPEG or "yuvj" in frame.format.name
        converted = self._reformatter.reformat(
            frame,
            width=_square_width(frame.width, self.pixel_aspect),
            format="rgba" if has_alpha else "rgb24",
            src_colorspace=None if is_rgb else _matrix(frame, name),
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


def conversion_of(frame: VideoFrame, stream: VideoStream, name: str) -> FrameConversion:
    """How to convert the clip that begins with `frame`: one orientation for all of it.

    Raises:
        MediaError: the colour matrix is not supported.
    """
    if not _is_rgb(frame):
        _matrix(frame, name)
    aspect = pixel_aspect(stream)
    width, height = _square_width(frame.width, aspect), frame.height
    notes = []
    if width != frame.width:
        notes.append(f"its pixels are not square; {frame.width} columns are scaled to {width}")
    if frame.interlaced_frame:
        notes.append("it is interlaced; moving edges may show combs")
    transfer = _HDR_TRANSFERS.get(stream.codec_context.color_trc)
    if transfer:
        notes.append(f"it is HDR ({transfer}); it is not tone-mapped and may look flat")
    matrix = _UPRIGHT
    if stated := frame.side_data.get("DISPLAYMATRIX"):
        a, b, _, c, d = struct.unpack_from("=5i", bytes(stated))
        matrix = a, b, c, d
    if _is_transposed(matrix):
        width, height = height, width
    return FrameConversion(
        width=width,
        height=height,
        pixel_aspect=aspect,
        display_matrix=matrix,
        notes=tuple(notes),
    )


def _is_rgb(frame: VideoFrame) -> bool:
    return frame.format.is_rgb or frame.format.has_palette


def _square_width(width: int, aspect: Fraction) -> int:
    return max(1, round(width * aspect))


def _is_transposed(display_matrix: tuple[int, int, int, int]) -> bool:
    a, b, _, _ = display_matrix
    return abs(b) > abs(a)


def _upright(rgb: Tensor, display_matrix: tuple[int, int, int, int]) -> Tensor:
    """`rgb` `(H, W, 3)` as displayed; an oblique angle counts as the nearest quarter turn."""
    across, b, c, down = display_matrix
    if _is_transposed(display_matrix):
        rgb, across, down = rgb.transpose(0, 1), c, b
    return rgb.flip([axis for axis, sign in enumerate((down, across)) if sign < 0])


def _matrix(frame: VideoFrame, name: str) -> int:
    """The number of the colour matrix of `frame`.

    Raises:
        MediaError: libswscale does not know it.
    """
    if frame.colorspace == _UNSPECIFIED_MATRIX:
        return _BT709 if frame.height >= _HD_HEIGHT else _BT601
    if frame.colorspace not in _MATRICES:
        raise MediaError(
            f"{name} has an unsupported colour matrix (number {frame.colorspace} of H.273); "
            "convert it to BT.709 with ffmpeg"
        )
    return _MATRICES[frame.colorspace]

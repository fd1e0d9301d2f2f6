"""From decoded video frames to upright RGB pixels."""

from __future__ import annotations

import struct
from typing import Any

import torch
from av import VideoFrame
from av.video.reformatter import ColorRange, VideoReformatter
from av.video.stream import VideoStream
from torch import Tensor

from istar.errors import MediaError
from istar.media.clip_container import pixel_aspect
from istar.media.pictures import cover_and_crop

ACCURATE_CONVERSION = 0x200 | 0x40000 | 0x2000 | 0x4000 | 0x80000
"""libswscale's LANCZOS, ACCURATE_RND, FULL_CHR_H_INT, FULL_CHR_H_INP and BITEXACT.

Exact rounding, chroma at full width. PyAV has names for all five only since 18.
"""

# ITU-T H.273 matrix coefficients to libswscale's numbers.
_MATRICES = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9, 10: 9}
_UNSPECIFIED, _BT709, _BT601 = 2, 1, 5
_HD_HEIGHT = 720
_HDR_TRANSFERS = {16: "PQ", 18: "HLG"}


class FrameConversion:
    """How the frames of one clip become pixels: one shape and orientation for all of them.

    Attributes:
        height, width: of a frame as displayed: upright, with square pixels.
        notes: what the conversion changes or leaves out.
    """

    def __init__(self, first: VideoFrame, stream: VideoStream, name: str) -> None:
        self._name = name
        self._reformatter = VideoReformatter()
        self._aspect = pixel_aspect(stream)
        # A stored point (x, y) is displayed at (ax + cy, bx + dy).
        matrix: Any = first.side_data.get("DISPLAYMATRIX")
        a, b, _, c, d = struct.unpack_from("=5i", matrix) if matrix else (1, 0, 0, 0, 1)
        self._is_transposed = abs(b) > abs(a)
        down, across = (b, c) if self._is_transposed else (d, a)
        self._flipped = [axis for axis, sign in enumerate((down, across)) if sign < 0]
        self.height, self.width = self._upright(self._rgb(first)).shape[:2]
        notes = []
        if self._aspect != 1:
            notes.append(f"its pixels are not square; it is scaled to {self.width}×{self.height}")
        if first.interlaced_frame:
            notes.append("it is interlaced; moving edges may show combs")
        transfer = _HDR_TRANSFERS.get(stream.codec_context.color_trc)
        if transfer:
            notes.append(f"it is HDR ({transfer}); it is not tone-mapped and may look flat")
        self.notes = tuple(notes)

    def pixels(self, frame: VideoFrame, size: tuple[int, int] | None) -> Tensor:
        """`frame` as `(H, W, 3)` uint8 RGB: upright, with square pixels, opaque."""
        rgb = self._upright(self._rgb(frame))
        if size is not None:
            return cover_and_crop(rgb, *size)
        if rgb.shape[:2] != (self.height, self.width):
            raise MediaError(
                f"{self._name} changes its picture size midway; re-encode it with ffmpeg"
            )
        return rgb.contiguous()

    def _upright(self, rgb: Tensor) -> Tensor:
        return (rgb.transpose(0, 1) if self._is_transposed else rgb).flip(self._flipped)

    def _rgb(self, frame: VideoFrame) -> Tensor:
        has_alpha = any(component.is_alpha for component in frame.format.components)
        is_rgb = frame.format.is_rgb or frame.format.has_palette
        is_full = is_rgb or frame.color_range == ColorRange.JPEG or "yuvj" in frame.format.name
        converted = self._reformatter.reformat(
            frame,
            width=max(1, round(frame.width * self._aspect)),
            format="rgba" if has_alpha else "rgb24",
            src_colorspace=None if is_rgb else self._matrix(frame),
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

    def _matrix(self, frame: VideoFrame) -> int:
        if frame.colorspace == _UNSPECIFIED:
            return _BT709 if frame.height >= _HD_HEIGHT else _BT601
        if frame.colorspace not in _MATRICES:
            raise MediaError(
                f"{self._name} has an unsupported colour matrix (number {frame.colorspace} of "
                "H.273); convert it to BT.709 with ffmpeg"
            )
        return _MATRICES[frame.colorspace]

"""How pictures become the frames that an encoder takes, and with which encoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction

import av
from av import VideoFormat, VideoFrame
from av.filter import Graph
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter
from av.video.stream import VideoStream

from istar.clip_format import ClipEncoding, Preset
from istar.media.clip_pixels import ACCURATE_CONVERSION

_THREADS = 4  # the bytes depend on the number, so it cannot follow the machine
_BT709 = 1  # ITU-T H.273: primaries, transfer and matrix alike
_X264_CRF = 16
_VP9_CRF = 20
_WEBP_QUALITY = 95

# Of libvpx: the deadline, and how much of the search is skipped.
_VP9_PRESETS = {
    Preset.VERYSLOW: ("good", 0),
    Preset.SLOWER: ("good", 1),
    Preset.SLOW: ("good", 1),
    Preset.MEDIUM: ("good", 2),
    Preset.FAST: ("good", 3),
    Preset.FASTER: ("good", 4),
    Preset.VERYFAST: ("good", 5),
    Preset.SUPERFAST: ("realtime", 7),
    Preset.ULTRAFAST: ("realtime", 8),
}

Conversion = Callable[[VideoFrame | None], list[VideoFrame]]
"""Takes a picture in RGB with its time, and None at the end; gives those that are ready."""


@dataclass(frozen=True, kw_only=True)
class ClipEncoder:
    """An encoder of libav's, and what holds its output.

    Attributes:
        container: the format of the file.
        codec: the encoder.
        pixels: the layout of the pixels that it takes.
        options: of the encoder, from what was asked for.
        container_options: of the file.
        is_video: it keeps brightness apart from colour, as BT.709 says, at half the size.
        start_codes: the filter that brings packets from a file back to how they were encoded.
        unsigned: the filter that takes the encoder's name and settings out of the packets.
    """

    container: str
    codec: str
    pixels: str
    options: Callable[[ClipEncoding], dict[str, str]] = lambda _: {}
    container_options: Mapping[str, str] = field(default_factory=dict)
    is_video: bool = False
    start_codes: str | None = None
    unsigned: str | None = None

    def prepare(self, stream: VideoStream) -> None:
        """Settle what every file of this kind has."""
        stream.pix_fmt = self.pixels
        if self.is_video:
            codec = stream.codec_context
            codec.thread_count = _THREADS
            codec.color_primaries = codec.color_trc = codec.colorspace = _BT709
            codec.color_range = ColorRange.MPEG

    def conversion(self, height: int, width: int, rate: Fraction) -> Conversion:
        """What turns pictures of a size, so many a second, into frames for the encoder."""
        if self.pixels == "pal8":
            return _Palettes(height, width, rate)
        reformatter = VideoReformatter()

        def convert(frame: VideoFrame | None) -> list[VideoFrame]:
            if frame is None:
                return []
            if not self.is_video:
                return [reformatter.reformat(frame, format=self.pixels)]
            return [
                reformatter.reformat(
                    frame,
                    format=self.pixels,
                    dst_colorspace=Colorspace.ITU709,
                    dst_color_range=ColorRange.MPEG,
                    interpolation=ACCURATE_CONVERSION,
                )
            ]

        return convert


class _Palettes:
    """Each picture in 256 colours of its own, with an ordered pattern between them.

    A pattern stays where it is. Errors that are spread over the pixels around them flicker, and
    collect to dots where the palette lacks a colour.
    """

    def __init__(self, height: int, width: int, rate: Fraction) -> None:
        self._graph = Graph()
        source = self._graph.add_buffer(
            width=width, height=height, format=VideoFormat("rgb24"), time_base=1 / rate
        )
        both = self._graph.add("split")
        chosen = self._graph.add("palettegen", "stats_mode=single:reserve_transparent=0")
        applied = self._graph.add("paletteuse", "new=1:dither=bayer:bayer_scale=5")
        source.link_to(both)
        both.link_to(chosen, 0, 0)
        both.link_to(applied, 1, 0)
        chosen.link_to(applied, 0, 1)
        applied.link_to(self._graph.add("buffersink"))
        self._graph.configure()

    def __call__(self, frame: VideoFrame | None) -> list[VideoFrame]:
        self._graph.push(frame)
        ready: list[VideoFrame] = []
        with suppress(av.error.BlockingIOError, av.error.EOFError):
            while isinstance(made := self._graph.pull(), VideoFrame):
                ready.append(made)
        return ready


def _x264_options(encoding: ClipEncoding) -> dict[str, str]:
    return {
        "crf": str(encoding.crf or _X264_CRF),
        "preset": (encoding.preset or Preset.MEDIUM).value,
        # x264's AVX-512 macroblock tree handles eight blocks at a time and, at a width that is no
        # multiple of 128, lets the memory behind a row into the choice of the bits; its plain C,
        # which this option asks for, does not, and is the same on every processor.
        "x264-params": "cpu-independent=1",
    }


def _vp9_options(encoding: ClipEncoding) -> dict[str, str]:
    deadline, skipped = _VP9_PRESETS[encoding.preset or Preset.MEDIUM]
    return {
        "crf": str(encoding.crf or _VP9_CRF),
        "b": "0",  # no rate is aimed at
        "deadline": deadline,
        "cpu-used": str(skipped),
        "row-mt": "1",
    }


ENCODERS = {
    ".mp4": ClipEncoder(
        container="mp4",
        codec="libx264",
        pixels="yuv420p",
        options=_x264_options,
        container_options={"movflags": "+faststart"},
        is_video=True,
        # In MP4 a picture's parts have lengths; the encoder, and so the muxer, has start codes.
        start_codes="h264_mp4toannexb",
        unsigned="filter_units=remove_types=6",
    ),
    ".webm": ClipEncoder(
        container="webm",
        codec="libvpx-vp9",
        pixels="yuv420p",
        options=_vp9_options,
        container_options={"fflags": "+bitexact"},  # no random number for the file
        is_video=True,
    ),
    ".gif": ClipEncoder(container="gif", codec="gif", pixels="pal8"),
    ".webp": ClipEncoder(
        container="webp",
        codec="libwebp_anim",
        pixels="bgra",
        options=lambda _: {"quality": str(_WEBP_QUALITY)},
        container_options={"loop": "0"},
    ),
    ".apng": ClipEncoder(
        container="apng", codec="apng", pixels="rgb24", container_options={"plays": "0"}
    ),
}
"""By the suffixes of `CLIP_FORMATS`."""

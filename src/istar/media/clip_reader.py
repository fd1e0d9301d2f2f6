"""Reading clips: any common video as upright RGB at 16 frames a second."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import islice
from math import ceil, floor
from pathlib import Path
from typing import BinaryIO, NamedTuple

import av
import torch
from av.container import InputContainer
from av.video.stream import VideoStream
from torch import Tensor

from istar.errors import MediaError
from istar.media.clip_container import (
    Survey,
    damaged,
    frame_rate,
    held_seconds,
    open_container,
    stamp,
    survey_clip,
)
from istar.media.clip_pixels import FrameConversion, conversion_of
from istar.media.sources import open_source, source_name
from istar.video_tokenizer.config import FRAMES_PER_SECOND

MAX_CLIP_BYTES = 16 * 2**30
"""Clips that would take more memory are refused before they are decoded."""

_SEEK_MARGIN = Fraction(1)
_COARSEST_ROUNDED_TICK = Fraction(1, 100)
_BRAND_KEYS = frozenset({"major_brand", "minor_version", "compatible_brands", "encoder"})


@dataclass(frozen=True, kw_only=True)
class ClipInfo:
    """What a video file holds.

    Attributes:
        width: as displayed: upright, with square pixels.
        height: likewise.
        seconds: from the first picture's appearance to the end of the last.
        notes: what reading it changes or leaves out, for the person to read.
    """

    width: int
    height: int
    seconds: float
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A clip as read.

    Attributes:
        frames: `(F, H, W, 3)` uint8 RGB, upright, exactly 16 a second.
        notes: what was changed or left out on the way, for the person to read.
    """

    frames: Tensor
    notes: tuple[str, ...]


class _Shown(NamedTuple):
    """A decoded frame and when it is on the screen, in seconds."""

    start: Fraction
    end: Fraction
    frame: av.VideoFrame


class _Sample(NamedTuple):
    """Picture number `index` at 16 a second, `(H, W, 3)` uint8, and its frame's time and state."""

    index: int
    pixels: Tensor
    start: Fraction
    is_broken: bool


class ClipReader:
    """A video that is open; `open_clip` makes one."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file = file
        self._name = name

    @cached_property
    def info(self) -> ClipInfo:
        """What the video holds: its packets are read through, one frame is decoded.

        Raises:
            MediaError: no video, without pictures, of an unsupported kind, damaged or cut short.
        """
        survey, (conversion, _) = self._survey, self._opening
        return ClipInfo(
            width=conversion.width,
            height=conversion.height,
            seconds=float(survey.end - survey.start),
            notes=conversion.notes + survey.notes,
        )

    def read(self, *, size: tuple[int, int] | None = None) -> Clip:
        """The whole video as upright RGB at 16 frames a second.

        Sampled by time: frame `k` shows what is on the screen `k / 16` seconds after the first
        frame appeared, whatever the file's rate. A rest of half a sixteenth or more counts as a
        frame.

        Args:
            size: height and width to cover and crop every frame to, while reading.

        Raises:
            MediaError: as `info`, or the clip is over `MAX_CLIP_BYTES`.
        """
        survey, info = self._survey, self.info
        height, width = size or (info.height, info.width)
        needed = 3 * height * width * ceil((survey.end - survey.start) * FRAMES_PER_SECOND)
        if needed > MAX_CLIP_BYTES:
            raise MediaError(
                f"{self._name} would take {needed / 2**30:.0f} GiB of memory; "
                "cut it to the part you need"
            )
        samples = list(self._samples(size))
        if not samples or survey.last - samples[-1].start > survey.tolerance:
            raise damaged(self._name)
        broken = sum(sample.is_broken for sample in samples)
        said = (f"{broken} of its pictures are damaged",) if broken else ()
        frames = torch.stack([sample.pixels for sample in samples])
        return Clip(frames=frames, notes=info.notes + said)

    def read_piece(
        self, *, begin: float, pictures: int, size: tuple[int, int] | None = None
    ) -> Tensor:
        """A few pictures from the middle, without reading through the rest.

        They are the very pictures that `read` gives there.

        Args:
            begin: seconds from the first picture on.
            pictures: how many.
            size: height and width to cover and crop every picture to.

        Returns:
            `(pictures, H, W, 3)`, uint8, RGB.

        Raises:
            MediaError: no video, of an unsupported kind, damaged, or it ends before that.
        """
        first = round(begin * FRAMES_PER_SECOND)
        # A file without an index may be sought in vain; then it is read from its start.
        for sought in (True, False):
            samples = list(islice(self._samples(size, first=first, sought=sought), pictures))
            if len(samples) == pictures and samples[0].index == first:
                return torch.stack([sample.pixels for sample in samples])
        raise MediaError(f"{self._name} does not have {pictures} pictures from {begin:g} s on")

    @property
    def metadata(self) -> dict[str, str]:
        """The texts in the file, but for those that libav writes of itself."""
        with open_container(self._file, self._name) as (container, _):
            texts = container.metadata.items()
            return {key: text for key, text in texts if key not in _BRAND_KEYS}

    @cached_property
    def _survey(self) -> Survey:
        return survey_clip(self._file, self._name)

    @cached_property
    def _opening(self) -> tuple[FrameConversion, Fraction]:
        """How to convert the frames, and when the first one appears."""
        with open_container(self._file, self._name) as (container, stream):
            for shown in _shown(container, stream, resumed=False):
                return conversion_of(shown.frame, stream, self._name), shown.start
        raise damaged(self._name)

    def _samples(
        self, size: tuple[int, int] | None, *, first: int = 0, sought: bool = False
    ) -> Iterator[_Sample]:
        """The pictures at 16 a second from number `first` on; if `sought`, perhaps later ones."""
        conversion, origin = self._opening
        since = origin + Fraction(first, FRAMES_PER_SECOND) - _SEEK_MARGIN
        resumed = sought and since > origin
        latest = pixels = None
        with open_container(self._file, self._name) as (container, stream):
            if resumed:
                try:
                    container.seek(floor(since / (stream.time_base or 1)), stream=stream)
                except av.FFmpegError:
                    return
            for index, shown in _sampled(container, stream, origin, resumed=resumed):
                if index < first:
                    continue
                if pixels is None or shown is not latest:
                    pixels, latest = conversion.pixels(shown.frame, size, self._name), shown
                yield _Sample(index, pixels, shown.start, shown.frame.is_corrupt)


@contextmanager
def open_clip(source: Path | BinaryIO) -> Iterator[ClipReader]:
    """A video to look at and to read; its source is opened once, a pipe copied once.

    Args:
        source: a local file, or an open binary file read from its start.

    Raises:
        MediaError: missing, empty or no file.

    Example:
        >>> with open_clip(Path("waves.mp4")) as clip:
        ...     clip.info.seconds, clip.read(size=(480, 848)).frames.shape
    """
    with open_source(source) as file:
        yield ClipReader(file, source_name(source))


def probe_clip(source: Path | BinaryIO) -> ClipInfo:
    """`ClipReader.info` of a video that is opened for it."""
    with open_clip(source) as clip:
        return clip.info


def read_clip(source: Path | BinaryIO, *, size: tuple[int, int] | None = None) -> Clip:
    """`ClipReader.read` of a video that is opened for it."""
    with open_clip(source) as clip:
        return clip.read(size=size)


def read_piece(
    source: Path | BinaryIO, *, begin: float, pictures: int, size: tuple[int, int] | None = None
) -> Tensor:
    """`ClipReader.read_piece` of a video that is opened for it."""
    with open_clip(source) as clip:
        return clip.read_piece(begin=begin, pictures=pictures, size=size)


def _shown(container: InputContainer, stream: VideoStream, *, resumed: bool) -> Iterator[_Shown]:
    """The decoded frames with their times.

    Where frames carry no times, each follows the one before; then nothing is known after a seek,
    and with `resumed` nothing is yielded.
    """
    start = end = None
    for frame in container.decode(stream):
        tick = frame.time_base or stream.time_base or Fraction(1)
        ticks = stamp(frame, container)
        if ticks is not None:
            start = ticks * tick if start is None else max(start, ticks * tick)
        elif resumed:
            return
        else:
            start = end or Fraction(0)
        end = start + (frame.duration * tick or 1 / frame_rate(stream))
        yield _Shown(start, end, frame)


def _sampled(
    container: InputContainer, stream: VideoStream, origin: Fraction, *, resumed: bool
) -> Iterator[tuple[int, _Shown]]:
    """For each `k`, in order, the frame on the screen at `origin + k / 16`.

    The first `k` is 0, or the first one not before the first frame.
    """
    tick = stream.time_base or Fraction(0)
    # A time may have been rounded up by half a tick. A clock of a few ticks a second counts whole
    # frames instead, and rounds nothing.
    slack = tick / 2 if tick <= _COARSEST_ROUNDED_TICK else Fraction(0)
    index = 0
    current: _Shown | None = None
    for shown in _shown(container, stream, resumed=resumed):
        until = (shown.start - slack - origin) * FRAMES_PER_SECOND
        if current is None:
            index = max(0, ceil(until))
        else:
            while index < until:
                yield index, current
                index += 1
        current = shown
    if current is None:
        return
    seconds = max(current.end - origin, held_seconds(container, stream))
    total = max(1, floor(seconds * FRAMES_PER_SECOND + Fraction(1, 2)))
    while index < total:
        yield index, current
        index += 1

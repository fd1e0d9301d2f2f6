"""Reading clips: any common video as upright RGB at 16 frames a second."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
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
    Timeline,
    damaged,
    decoded,
    frame_rate,
    held_seconds,
    open_container,
    stamp,
    survey_clip,
    times_may_jump,
)
from istar.media.clip_pixels import FrameConversion
from istar.media.picture_directory import holds_pictures, pictures_as_video
from istar.media.pictures import as_video
from istar.media.sources import open_source, source_name
from istar.plurals import counted
from istar.video_tokenizer.config import FRAMES_PER_SECOND

MAX_CLIP_BYTES = 16 * 2**30
"""Clips that would take more memory are refused before they are decoded."""

_SEEK_MARGIN = Fraction(1)
_MISSING_TOLERATED = Fraction(1, 8)
_COARSEST_ROUNDED_TICK = Fraction(1, 100)


@dataclass(frozen=True, kw_only=True)
class ClipInfo:
    """What a video file holds.

    Attributes:
        width, height: as displayed: upright, with square pixels.
        seconds: from the first picture's appearance to the end of the last.
        has_sound: it has sound, which is not read.
        notes: what else reading it changes or leaves out, for the person to read.
    """

    width: int
    height: int
    seconds: float
    has_sound: bool
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A clip as read.

    Attributes:
        frames: `(F, H, W, 3)` uint8 RGB, upright, exactly 16 a second.
        notes: as those of `ClipInfo`, and what was found while reading.
    """

    frames: Tensor
    notes: tuple[str, ...]


class _Sample(NamedTuple):
    """Picture `number` at 16 a second, `(H, W, 3)` uint8; when its frame appears, and its state."""

    number: int
    pixels: Tensor
    start: Fraction
    is_broken: bool


class ClipReader:
    """A video that is open, as `open_clip` gives it."""

    def __init__(self, file: BinaryIO, name: str, notes: tuple[str, ...] = ()) -> None:
        self._file = file
        self._name = name
        self._notes = notes

    @cached_property
    def info(self) -> ClipInfo:
        """What it holds: its packets are read through, one frame is decoded.

        Raises:
            MediaError: no video, of an unsupported kind, damaged or cut short.
        """
        survey = self._survey
        conversion, _ = self._opening
        return ClipInfo(
            width=conversion.width,
            height=conversion.height,
            seconds=float(survey.end - survey.start),
            has_sound=survey.has_sound,
            notes=(
                *self._notes,
                *(f"{self._name}: {note}" for note in conversion.notes + survey.notes),
            ),
        )

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of its upright pictures; one frame is decoded, as before any reading.

        Raises:
            MediaError: no video, or of an unsupported kind.
        """
        conversion, _ = self._opening
        return conversion.height, conversion.width

    def read(self, *, size: tuple[int, int] | None = None) -> Clip:
        """All of it as upright RGB at 16 frames a second.

        Sampled by time: frame `k` is the one on the screen `k / 16` seconds after the first frame
        appeared, whatever the file's rate. A rest of half a sixteenth or more counts as a frame.

        Args:
            size: height and width to cover and crop every frame to, while reading.

        Raises:
            MediaError: as `info` does, or the clip is over `MAX_CLIP_BYTES`.
        """
        info = self.info
        height, width = size or (info.height, info.width)
        needed = 3 * height * width * ceil(info.seconds * FRAMES_PER_SECOND)
        if needed > MAX_CLIP_BYTES:
            raise MediaError(
                f"{self._name} would take {needed / 2**30:.0f} GiB of memory; "
                "cut it to the part you need"
            )
        samples = list(self._samples(size))
        if not samples or self._survey.last - samples[-1].start > _MISSING_TOLERATED:
            raise damaged(self._name)
        broken = sum(sample.is_broken for sample in samples)
        said = (f"{self._name}: {broken} of its pictures are damaged",) if broken else ()
        return Clip(frames=torch.stack([item.pixels for item in samples]), notes=info.notes + said)

    def read_last(self) -> Tensor:
        """The last picture that `read` gives, `(H, W, 3)`, uint8, RGB, without the others.

        Raises:
            MediaError: as `info` does, or it cannot be decoded.
        """
        pictures = max(1, round(self.info.seconds * FRAMES_PER_SECOND))
        return self.read_piece(begin=(pictures - 1) / FRAMES_PER_SECOND, pictures=1)[0]

    def read_piece(
        self, *, begin: float, pictures: int, size: tuple[int, int] | None = None
    ) -> Tensor:
        """The very pictures that `read` gives there, without reading through the rest.

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
            if len(samples) == pictures and samples[0].number == first:
                return torch.stack([sample.pixels for sample in samples])
        raise MediaError(
            f"{self._name} does not have {counted(pictures, 'picture')} from {begin:g} s on"
        )

    @cached_property
    def _survey(self) -> Survey:
        return survey_clip(self._file, self._name)

    @cached_property
    def _opening(self) -> tuple[FrameConversion, Fraction]:
        """How to convert the frames, and when the first one appears."""
        with open_container(self._file, self._name) as (container, stream):
            for frame in container.decode(stream):  # the decoder that knows the orientation
                origin = (stamp(frame, container) or 0) * (stream.time_base or Fraction(1))
                return FrameConversion(frame, stream, self._name), origin
        raise damaged(self._name)

    def _samples(
        self, size: tuple[int, int] | None, *, first: int = 0, sought: bool = False
    ) -> Iterator[_Sample]:
        """Pictures from number `first` on; if `sought`, from where the seek leads at the latest."""
        conversion, origin = self._opening
        since = origin + Fraction(first, FRAMES_PER_SECOND) - _SEEK_MARGIN
        with open_container(self._file, self._name) as (container, stream):
            sought = sought and since > origin and not times_may_jump(container)
            if sought:
                with suppress(av.FFmpegError):
                    container.seek(floor(since / (stream.time_base or 1)), stream=stream)
            latest = pixels = None
            for number, start, frame in _sampled(container, stream, origin, sought=sought):
                if number < first:
                    continue
                if pixels is None or frame is not latest:
                    pixels, latest = conversion.pixels(frame, size), frame
                yield _Sample(number, pixels, start, frame.is_corrupt)


@contextmanager
def open_clip(source: Path | BinaryIO) -> Iterator[ClipReader]:
    """A video to look into and to read; the source is opened once, and a pipe is copied once.

    Args:
        source: a local file, an open binary file read from its start, or a directory of numbered
            pictures, see `pictures_as_video`.

    Raises:
        MediaError: missing, empty or no file.

    Example:
        >>> with open_clip(Path("waves.mp4")) as clip:
        ...     clip.info.seconds, clip.read(size=(480, 848)).frames.shape
    """
    name = source_name(source)
    if isinstance(source, Path) and holds_pictures(source):
        with pictures_as_video(source, name) as (video, notes):
            yield ClipReader(video, name, notes)
        return
    with open_source(source) as file, as_video(file, name) as video:
        yield ClipReader(video, name)


def probe_clip(source: Path | BinaryIO) -> ClipInfo:
    """`ClipReader.info`, with the video opened for it."""
    with open_clip(source) as clip:
        return clip.info


def read_clip(source: Path | BinaryIO, *, size: tuple[int, int] | None = None) -> Clip:
    """`ClipReader.read`, with the video opened for it."""
    with open_clip(source) as clip:
        return clip.read(size=size)


def read_piece(
    source: Path | BinaryIO, *, begin: float, pictures: int, size: tuple[int, int] | None = None
) -> Tensor:
    """`ClipReader.read_piece`, with the video opened for it."""
    with open_clip(source) as clip:
        return clip.read_piece(begin=begin, pictures=pictures, size=size)


def _sampled(
    container: InputContainer, stream: VideoStream, origin: Fraction, *, sought: bool
) -> Iterator[tuple[int, Fraction, av.VideoFrame]]:
    """For each `k`, in order, when the frame on the screen at `origin + k / 16` appears, and it.

    The first `k` is 0, or after a seek the first one not before the first frame. Where frames
    carry no times each follows the one before; then nothing is known after a seek, or yielded.
    """
    tick = stream.time_base or Fraction(1)
    # A time may have been rounded up by half a tick. A clock of a few ticks a second counts whole
    # frames instead, and rounds nothing.
    slack = tick / 2 if tick <= _COARSEST_ROUNDED_TICK else Fraction(0)
    number, current, start, end = 0, None, origin, origin
    timeline = Timeline(container)
    for frame in decoded(container, stream):
        ticks = stamp(frame, container)
        length = (frame.duration or 0) * tick or 1 / frame_rate(stream)
        if ticks is None and sought:
            return
        following = end if ticks is None else max(start, timeline.placed(ticks * tick, length))
        until = (following - slack - origin) * FRAMES_PER_SECOND
        if current is None:
            number = max(0, ceil(until))
        while current is not None and number < until:
            yield number, start, current
            number += 1
        current, start = frame, following
        end = start + length
    seconds = max(end - origin, held_seconds(container, stream))
    total = max(1, floor(seconds * FRAMES_PER_SECOND + Fraction(1, 2)))
    while current is not None and number < total:
        yield number, start, current
        number += 1

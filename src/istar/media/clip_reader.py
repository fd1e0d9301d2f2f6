"""Reading clips: any common video as upright RGB at 16 frames a second."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor, isfinite
from pathlib import Path
from typing import BinaryIO, NamedTuple

import av
import torch
from av.container import InputContainer
from av.video.stream import VideoStream
from torch import Tensor

from istar.errors import MediaError
from istar.media.clip_pixels import FrameView, view_of
from istar.media.clip_survey import Survey, damaged, frame_rate, open_clip, survey_clip
from istar.media.files import open_source, source_name
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
        frame_rate: pictures a second, on average.
        has_audio: it has sound.
        notes: what reading it changes or leaves out, for the person to read.
    """

    width: int
    height: int
    seconds: float
    frame_rate: float
    has_audio: bool
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
    """One frame at 16 fps: pixels `(H, W, 3)` uint8."""

    pixels: Tensor
    is_broken: bool


def probe_clip(source: Path | BinaryIO) -> ClipInfo:
    """Look at a video: its packets are read through, one frame is decoded.

    Args:
        source: a local file, or an open binary file read from its start.

    Raises:
        MediaError: missing, no video, without pictures, damaged or cut short.
    """
    name = source_name(source)
    with open_source(source) as file:
        survey = survey_clip(file, name)
        view, _ = _opening(file, name, None)
    return ClipInfo(
        width=view.width,
        height=view.height,
        seconds=float(survey.end - survey.start),
        frame_rate=float(survey.frame_rate),
        has_audio=survey.has_audio,
        notes=_notes(survey, view),
    )


def read_clip(
    source: Path | BinaryIO,
    *,
    last_seconds: float | None = None,
    size: tuple[int, int] | None = None,
) -> Clip:
    """Read a video as upright RGB at 16 frames a second.

    Sampled by time: frame `k` shows what is on the screen `k / 16` seconds after the first frame
    appeared, whatever the file's rate. A rest of half a sixteenth or more counts as a frame.

    Args:
        source: a local file, or an open binary file read from its start.
        last_seconds: keep only the last `round(16 · last_seconds)` frames, at least one: the
            very frames that the whole clip ends in.
        size: height and width to cover and crop every frame to, while reading.

    Raises:
        MediaError: missing, no video, without pictures, damaged, cut short, over
            `MAX_CLIP_BYTES`, or `last_seconds` is no positive number.
    """
    name = source_name(source)
    wanted = _frames_wanted(last_seconds)
    with open_source(source) as file:
        survey = survey_clip(file, name)
        view, origin = _opening(file, name, size)
        _check_memory(survey, view, wanted, name)
        samples: list[_Sample] | None = None
        if wanted is not None:
            since = survey.end - Fraction(wanted, FRAMES_PER_SECOND) - _SEEK_MARGIN
            if since > origin:
                samples = _samples(file, name, survey, view, origin, wanted, since)
        if samples is None:
            samples = _samples(file, name, survey, view, origin, wanted, None)
    if samples is None:
        raise damaged(name)
    notes = _notes(survey, view)
    broken = sum(sample.is_broken for sample in samples)
    if broken:
        notes = (*notes, f"{broken} of its pictures are damaged")
    return Clip(frames=torch.stack([sample.pixels for sample in samples]), notes=notes)


def read_piece(
    source: Path | BinaryIO, *, begin: float, pictures: int, size: tuple[int, int] | None = None
) -> Tensor:
    """Read a few pictures from the middle of a video, without reading through the rest.

    They are the very pictures that `read_clip` gives there.

    Args:
        source: a local file, or an open binary file read from its start.
        begin: seconds from the first picture on.
        pictures: how many.
        size: height and width to cover and crop every picture to.

    Returns:
        `(pictures, H, W, 3)`, uint8, RGB.

    Raises:
        MediaError: missing, no video, damaged, or it ends before that.
    """
    name = source_name(source)
    first = round(begin * FRAMES_PER_SECOND)
    with open_source(source) as file:
        view, origin = _opening(file, name, size)
        since = origin + Fraction(first, FRAMES_PER_SECOND) - _SEEK_MARGIN
        for place in (since, None) if since > origin else (None,):
            piece = _piece(file, name, view, origin, range(first, first + pictures), place)
            if piece is not None:
                return torch.stack(piece)
    raise MediaError(f"{name} does not have {pictures} pictures from {begin:g} s on")


def clip_metadata(file: BinaryIO, name: str) -> dict[str, str]:
    """The texts in the video `file`, called `name` in messages.

    Raises:
        MediaError: no video.
    """
    with open_clip(file, name) as (container, _):
        return {key: value for key, value in container.metadata.items() if key not in _BRAND_KEYS}


def _frames_wanted(last_seconds: float | None) -> int | None:
    if last_seconds is None:
        return None
    if not isfinite(last_seconds) or last_seconds <= 0:
        raise MediaError(f"a clip has no last {last_seconds} seconds; ask for a positive number")
    return max(1, round(last_seconds * FRAMES_PER_SECOND))


def _notes(survey: Survey, view: FrameView) -> tuple[str, ...]:
    notes = view.notes
    if not survey.is_steady:
        notes = (*notes, "its frame rate varies; it is sampled by time")
    if survey.has_audio:
        notes = (*notes, "its sound is left out")
    return notes


def _opening(file: BinaryIO, name: str, size: tuple[int, int] | None) -> tuple[FrameView, Fraction]:
    """How to convert the frames, and when the first one appears."""
    with open_clip(file, name) as (container, stream):
        for shown in _shown(container, stream, resumed=False):
            return view_of(shown.frame, stream, size, name), shown.start
    raise damaged(name)


def _check_memory(survey: Survey, view: FrameView, wanted: int | None, name: str) -> None:
    frames = ceil((survey.end - survey.start) * FRAMES_PER_SECOND)
    needed = view.bytes_per_frame * min(frames, wanted or frames)
    if needed > MAX_CLIP_BYTES:
        raise MediaError(
            f"{name} would take {needed / 2**30:.0f} GiB of memory; cut it to the part you need"
        )


def _samples(
    file: BinaryIO,
    name: str,
    survey: Survey,
    view: FrameView,
    origin: Fraction,
    wanted: int | None,
    since: Fraction | None,
) -> list[_Sample] | None:
    """The last `wanted` frames at 16 fps, or all.

    Args:
        file: the clip.
        name: what to call it.
        survey: its times.
        view: how to convert its frames.
        origin: when its first frame appears: the sampling begins there.
        wanted: how many frames to keep; None for all.
        since: decode only from about here; None for the start.

    Returns:
        None if `since` did not lead to enough frames, as in files without an index.
    """
    kept: deque[_Sample] = deque(maxlen=wanted)
    latest: _Shown | None = None
    with open_clip(file, name) as (container, stream):
        if since is not None:
            try:
                container.seek(floor(since / (stream.time_base or 1)), stream=stream)
            except av.FFmpegError:
                return None
        shown_frames = _shown(container, stream, resumed=since is not None)
        for index, shown in _sampled(shown_frames, origin, _slack(stream)):
            if since is not None and origin + Fraction(index, FRAMES_PER_SECOND) < since:
                continue
            if shown is not latest:
                pixels = view.pixels(shown.frame, name)
                latest = shown
            kept.append(_Sample(pixels, shown.frame.is_corrupt))
    if since is not None and len(kept) != wanted:
        return None
    if latest is None or survey.end - latest.end > survey.tolerance:
        raise damaged(name)
    return list(kept)


def _piece(
    file: BinaryIO,
    name: str,
    view: FrameView,
    origin: Fraction,
    wanted: range,
    since: Fraction | None,
) -> list[Tensor] | None:
    """The pictures of `wanted` numbers, as `_samples` numbers them; None if any is not found."""
    found: list[Tensor] = []
    latest: _Shown | None = None
    with open_clip(file, name) as (container, stream):
        if since is not None:
            try:
                container.seek(floor(since / (stream.time_base or 1)), stream=stream)
            except av.FFmpegError:
                return None
        shown_frames = _shown(container, stream, resumed=since is not None)
        for index, shown in _sampled(shown_frames, origin, _slack(stream)):
            if index < wanted.start:
                continue
            if index != wanted.start + len(found):
                return None
            if shown is not latest:
                pixels = view.pixels(shown.frame, name)
                latest = shown
            found.append(pixels)
            if len(found) == len(wanted):
                return found
    return None


def _shown(container: InputContainer, stream: VideoStream, *, resumed: bool) -> Iterator[_Shown]:
    """The decoded frames with their times.

    Where frames carry no times, each follows the one before; then nothing can be told after a
    seek, and with `resumed` nothing is yielded.
    """
    end = start = None
    for frame in container.decode(stream):
        tick = frame.time_base or stream.time_base or Fraction(1)
        if frame.pts is not None:
            start = frame.pts * tick if start is None else max(start, frame.pts * tick)
        elif resumed:
            return
        else:
            start = end or Fraction(0)
        end = start + (frame.duration * tick or 1 / frame_rate(stream))
        yield _Shown(start, end, frame)


def _slack(stream: VideoStream) -> Fraction:
    """How far a time may have been rounded up: half a tick of the file's clock.

    A clock of a few ticks a second counts whole frames instead, and rounds nothing.
    """
    tick = stream.time_base or Fraction(0)
    return tick / 2 if tick <= _COARSEST_ROUNDED_TICK else Fraction(0)


def _sampled(
    shown_frames: Iterator[_Shown], origin: Fraction, slack: Fraction
) -> Iterator[tuple[int, _Shown]]:
    """For each `k`, in order, the frame on the screen at `origin + k / 16`.

    The first `k` is 0, or the first one not before the first frame.
    """
    index = 0
    current: _Shown | None = None
    for shown in shown_frames:
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
    total = max(1, floor((current.end - origin) * FRAMES_PER_SECOND + Fraction(1, 2)))
    while index < total:
        yield index, current
        index += 1

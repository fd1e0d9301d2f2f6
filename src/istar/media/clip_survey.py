"""What a video file holds, from its packets alone: times, rate, sound, and whether it is whole."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import BinaryIO

import av
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from istar.errors import MediaError
from istar.media.pictures import PIXEL_LIMIT

# Containers that hold their own pictures. Others (playlists, concatenation, numbered pictures,
# text as video) would open further files or are no video at all.
_CONTAINERS = (
    "mov,mp4,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,h264,hevc,ivf,obu,ogg,flv,asf,"
    "gif,apng,nut,mxf,dv,wtv,yuv4mpegpipe"
)
_OPEN_OPTIONS = {"format_whitelist": _CONTAINERS, "protocol_whitelist": "none"}
_READ_BYTES = 2**18
_DEFAULT_RATE = Fraction(25)
_LEAST_MISSING = Fraction(1, 10)
_EBML_HEADER = b"\x1a\x45\xdf\xa3"
_MATROSKA_SEGMENT = b"\x18\x53\x80\x67"
_GIF_END = b";"


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What the packets of a video file say.

    Attributes:
        start: when the first picture appears, in seconds.
        end: when the last one goes.
        frame_rate: pictures a second, on average.
        is_steady: the pictures are evenly spaced.
        has_audio: the file has sound.
    """

    start: Fraction
    end: Fraction
    frame_rate: Fraction
    is_steady: bool
    has_audio: bool

    @property
    def tolerance(self) -> Fraction:
        """Seconds that may be missing at the end before a file counts as cut short."""
        return max(2 / self.frame_rate, _LEAST_MISSING)


@contextmanager
def open_clip(file: BinaryIO, name: str) -> Iterator[tuple[InputContainer, VideoStream]]:
    """`file`, called `name`, opened from its start, with its video stream.

    Raises:
        MediaError: no video, or libav fails inside the block.
    """
    file.seek(0)
    try:
        container = av.open(
            file,
            "r",
            container_options=_OPEN_OPTIONS,
            metadata_errors="replace",
            buffer_size=_READ_BYTES,
        )
    except av.FFmpegError as error:
        raise MediaError(
            f"{name} is no video that can be read, or it is cut short; "
            "use MP4, MOV, MKV, WebM, AVI or GIF, or convert it with ffmpeg"
        ) from error
    with container:
        try:
            yield container, _video_stream(container, name)
        except av.FFmpegError as error:
            raise damaged(name) from error


def damaged(name: str) -> MediaError:
    """The error that says a file is not whole."""
    return MediaError(f"{name} is damaged or cut short; fetch or export it again")


def frame_rate(stream: VideoStream) -> Fraction:
    """Pictures a second, on average; a guess where the file does not say."""
    return stream.average_rate or stream.guessed_rate or _DEFAULT_RATE


def survey_clip(file: BinaryIO, name: str) -> Survey:
    """Read through the packets of `file`, called `name`.

    Raises:
        MediaError: no video, or its end is missing.
    """
    with open_clip(file, name) as (container, stream):
        spans: list[tuple[Fraction, Fraction]] = []
        last_is_corrupt = False
        for packet in container.demux():
            if packet.size == 0 or packet.stream.type not in ("video", "audio"):
                continue
            last_is_corrupt = packet.is_corrupt
            if packet.stream_index != stream.index or packet.is_discard:
                continue
            stamp = packet.pts if packet.pts is not None else packet.dts
            if stamp is not None:
                start = stamp * packet.time_base
            else:
                start = spans[-1][1] if spans else Fraction(0)
            length = (packet.duration or 0) * packet.time_base or 1 / frame_rate(stream)
            spans.append((start, start + length))
        if not spans:
            raise damaged(name)
        spans.sort()
        survey = Survey(
            start=spans[0][0],
            end=max(end for _, end in spans),
            frame_rate=frame_rate(stream),
            is_steady=_is_steady([start for start, _ in spans], stream.time_base or Fraction(0)),
            has_audio=bool(container.streams.audio),
        )
        missing = _declared_seconds(container, stream) - (
            survey.end - min(survey.start, Fraction(0))
        )
        if last_is_corrupt or missing > survey.tolerance or _lacks_its_end(container, file):
            raise damaged(name)
    return survey


def _video_stream(container: InputContainer, name: str) -> VideoStream:
    for stream in container.streams.video:
        if stream.disposition & Disposition.attached_pic:  # cover art
            continue
        if stream.codec_context is None:
            raise MediaError(f"{name} has an unknown video codec; convert it with ffmpeg")
        if stream.width * stream.height > PIXEL_LIMIT:
            raise MediaError(
                f"{name} has pictures of {stream.width}×{stream.height}; make them smaller first"
            )
        stream.thread_type = "AUTO"
        return stream
    raise MediaError(f"{name} has no pictures, only sound; name a video")


def _is_steady(starts: list[Fraction], tick: Fraction) -> bool:
    gaps = [later - earlier for earlier, later in pairwise(starts) if later > earlier]
    if not gaps:
        return True
    shortest = min(gaps)
    return max(gaps) - shortest <= max(2 * tick, shortest / 10)


def _declared_seconds(container: InputContainer, stream: VideoStream) -> Fraction:
    """How long the file says its pictures last; 0 where it is only estimated."""
    if container.format.name.startswith("mov,") and stream.time_base:
        return (stream.duration or 0) * stream.time_base
    if container.format.name == "avi":
        return stream.frames / frame_rate(stream)
    return Fraction(0)


def _lacks_its_end(container: InputContainer, file: BinaryIO) -> bool:
    """Whether a Matroska file is smaller than it says, or a GIF lacks its last byte.

    libav reads both to wherever they stop and calls it the end.
    """
    length = file.seek(0, os.SEEK_END)
    if container.format.name == "gif":
        file.seek(max(0, length - _READ_BYTES))
        return not file.read().rstrip(b"\0").endswith(_GIF_END)
    if container.format.name != "matroska,webm":
        return False
    file.seek(0)
    position = 0
    for expected in (_EBML_HEADER, _MATROSKA_SEGMENT):
        file.seek(position)
        head = file.read(12)
        if not head.startswith(expected) or len(head) < 12 or head[4] == 0:
            return False
        width = 9 - head[4].bit_length()
        size = int.from_bytes(head[4 : 4 + width], "big") & ((1 << 7 * width) - 1)
        position += 4 + width + size
        if size == (1 << 7 * width) - 1:  # written live: of unknown size
            return False
    return position > length

"""Opening video files, and their packets: times, sound, and whether the file is whole."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from itertools import pairwise
from typing import Any, BinaryIO, NamedTuple

import av
from av.container import InputContainer
from av.frame import Frame
from av.packet import Packet
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
_READ_BYTES = 2**18
_HEAD_BYTES = 2**12
_DEFAULT_RATE = Fraction(25)
_WILDEST_PIXEL = 16
_MP4_BOXES = frozenset(b"ftyp styp sidx moov moof mdat mfra free skip wide uuid udta meta".split())
_MATROSKA_ELEMENTS = (b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67")
_ASF_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_OGG_LAST_PAGE = 4
_MISCOUNTED_BYTES = 8  # some writers count an AVI's own header in


class Survey(NamedTuple):
    """Seconds at which the first and last pictures appear and the last one goes, and notes."""

    start: Fraction
    last: Fraction
    end: Fraction
    notes: tuple[str, ...]


@contextmanager
def open_container(file: BinaryIO, name: str) -> Iterator[tuple[InputContainer, VideoStream]]:
    """`file`, called `name`, opened from its start; libav's failures become MediaErrors."""
    file.seek(0)
    options = {"format_whitelist": _CONTAINERS, "protocol_whitelist": "none"}
    try:
        container = av.open(
            file, "r", container_options=options, metadata_errors="replace", buffer_size=_READ_BYTES
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


def _video_stream(container: InputContainer, name: str) -> VideoStream:
    stream = container.streams.best("video")
    if not isinstance(stream, VideoStream) or stream.disposition & Disposition.attached_pic:
        raise MediaError(f"{name} has no pictures, only sound; name a video")
    if stream.codec_context is None:
        raise MediaError(f"{name} has an unknown video codec; convert it with ffmpeg")
    if stream.width * stream.height * pixel_aspect(stream) > PIXEL_LIMIT:
        raise MediaError(
            f"{name} has pictures of {stream.width}×{stream.height}; make them smaller first"
        )
    stream.thread_type = "AUTO"
    return stream


def frame_rate(stream: VideoStream) -> Fraction:
    """Pictures a second, on average; a guess where the file does not say."""
    return stream.average_rate or stream.guessed_rate or _DEFAULT_RATE


def pixel_aspect(stream: VideoStream) -> Fraction:
    """Width of a stored pixel divided by its height; 1 where the file says nothing sensible."""
    aspect = stream.sample_aspect_ratio or Fraction(1)
    return aspect if 1 <= aspect * _WILDEST_PIXEL <= _WILDEST_PIXEL**2 else Fraction(1)


def stamp(item: Packet[Any] | Frame, container: InputContainer) -> int | None:
    """When a packet or frame is shown, in ticks.

    AVI numbers its chunks and holds no times; those that libav finds for B-frames jump about.
    """
    return item.dts if item.pts is None or container.format.name == "avi" else item.pts


def held_seconds(container: InputContainer, stream: VideoStream) -> Fraction:
    """How long the pictures last at least, the last one repeated up to there.

    An AVI states it, and has no packets for pictures that repeat the one before.
    """
    is_avi = container.format.name == "avi"
    return stream.frames / frame_rate(stream) if is_avi else Fraction(0)


def survey_clip(file: BinaryIO, name: str) -> Survey:
    """Read through the packets of `file`, called `name`; refuse it if its end is missing."""
    with open_container(file, name) as (container, stream):
        spans: list[tuple[Fraction, Fraction]] = []
        last_is_corrupt = False
        for packet in container.demux():
            if packet.size == 0 or packet.stream.type not in ("video", "audio"):
                continue
            last_is_corrupt = packet.is_corrupt
            if packet.stream_index != stream.index or packet.is_discard:
                continue
            ticks = stamp(packet, container)
            previous = spans[-1][1] if spans else Fraction(0)
            start = previous if ticks is None else ticks * packet.time_base
            length = (packet.duration or 0) * packet.time_base or 1 / frame_rate(stream)
            spans.append((start, start + length))
        if not spans or last_is_corrupt or _is_cut(container.format.name, file):
            raise damaged(name)
        starts = sorted(start for start, _ in spans)
        notes = []
        if not _is_steady(starts, stream.time_base or Fraction(0)):
            notes.append("its frame rate varies; it is sampled by time")
        if container.streams.audio:
            notes.append("its sound is left out")
        if stream.metadata.get("alpha_mode") == "1":
            notes.append("its transparency is left out")
        held = starts[0] + held_seconds(container, stream)
        end = max(held, *(end for _, end in spans))
        return Survey(starts[0], starts[-1], end, tuple(notes))


def _is_steady(starts: list[Fraction], tick: Fraction) -> bool:
    gaps = [later - earlier for earlier, later in pairwise(starts) if later > earlier] or [tick]
    return max(gaps) - min(gaps) <= max(2 * tick, min(gaps) / 10)


def _is_cut(kind: str, file: BinaryIO) -> bool:
    """Whether a file of libav's format `kind` stops before the end that it states.

    libav reads most files to wherever they stop, without a word.
    """
    length = file.seek(0, os.SEEK_END)
    if kind in ("gif", "ogg"):
        file.seek(max(0, length - _READ_BYTES))
        tail = file.read()
        if kind == "gif":
            return not tail.rstrip(b"\0").endswith(b";")
        return not tail[tail.rfind(b"OggS") + 5] & _OGG_LAST_PAGE
    position = 0
    while position < length:
        file.seek(position)
        size = _element_size(kind, file.read(_HEAD_BYTES))
        if not size:
            return False
        position += size
    return position > length + _MISCOUNTED_BYTES


def _element_size(kind: str, head: bytes) -> int:
    """Bytes of the top-level element that begins with `head`; 0 if it does not state them."""
    if kind.startswith("mov,") and head[4:8] in _MP4_BOXES:
        size = int.from_bytes(head[:4], "big")
        return int.from_bytes(head[8:16], "big") if size == 1 else size
    if kind == "avi" and head.startswith(b"RIFF"):
        return 8 + int.from_bytes(head[4:8], "little")
    if kind == "asf" and _ASF_FILE_PROPERTIES in head:
        size_at = head.index(_ASF_FILE_PROPERTIES) + 40
        return int.from_bytes(head[size_at : size_at + 8], "little")  # of the whole file
    if kind == "matroska,webm" and head[:4] in _MATROSKA_ELEMENTS and head[4:5] > b"\0":
        width = 9 - head[4].bit_length()
        unknown = (1 << 7 * width) - 1  # as in files that are written live
        size = int.from_bytes(head[4 : 4 + width], "big") & unknown
        return 0 if size == unknown else 4 + width + size
    return 0

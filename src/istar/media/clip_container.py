"""Opening video files, and their packets: times, sound, and whether the file is whole."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from itertools import pairwise
from typing import Any, BinaryIO, NamedTuple

import av
from av import CodecContext, VideoFrame
from av.container import InputContainer
from av.frame import Frame
from av.packet import Packet
from av.stream import Disposition
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from istar.errors import MediaError
from istar.media.pictures import PIXEL_LIMIT, refuse_picture

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
_HEADS = {"flv": 13, "nut": 25}  # how many bytes begin each such file, and nothing else
_KIND_AT = {"avi": slice(8, 12), "asf": slice(0, 4), "matroska,webm": slice(0, 4)}
_DAMAGES = (av.error.InvalidDataError, av.error.EOFError)
_ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
_STILL_BRANDS = ("avif", "heic", "heix", "heim", "heis", "mif1")
_BROADCAST = ("mpegts", "mpeg")
_LONGEST_GAP = 10
_JITTER = Fraction(1, 2)
_MISSING = Fraction(1, 2)
_MISCOUNTED_BYTES = 8  # some writers count an AVI's own header in


class Survey(NamedTuple):
    """Seconds at which the first and last pictures appear and the last one goes; the rest is as
    in `istar.media.clip_reader.ClipInfo`."""

    start: Fraction
    last: Fraction
    end: Fraction
    has_sound: bool
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
        refuse_picture(file, name)
        raise MediaError(
            f"{name} is not a video that can be read, or it is cut short; "
            "use MP4, MOV, MKV, WebM, AVI or GIF, or convert it with ffmpeg"
        ) from error
    with container:
        if container.metadata.get("major_brand") in _STILL_BRANDS:
            refuse_picture(file, name)
        try:
            yield container, _video_stream(container, file, name)
        except _DAMAGES as error:
            raise damaged(name) from error
        except (av.FFmpegError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise MediaError(
                f"{name} cannot be decoded ({reason}); convert it with ffmpeg"
            ) from error


def damaged(name: str) -> MediaError:
    """The error that says a file is not whole."""
    return MediaError(f"{name} is damaged or cut short; fetch or export it again")


def decoded(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    """The pictures of a stream, in the order in which they are shown.

    VP8 and VP9 keep transparency beside the pictures; libav's own decoders do not look there.
    """
    decoder = _alpha_decoder(stream)
    if decoder is None:
        yield from container.decode(stream)
        return
    for packet in container.demux(stream):
        yield from decoder.decode(packet)


def _alpha_decoder(stream: VideoStream) -> VideoCodecContext | None:
    """A decoder that finds the transparency of a stream that has some, if libav was built so."""
    if stream.metadata.get("alpha_mode") != "1":
        return None
    try:
        decoder = CodecContext.create(_ALPHA_DECODERS[stream.codec_context.name], "r")
    except (av.FFmpegError, LookupError):
        return None
    assert isinstance(decoder, VideoCodecContext)
    return decoder


def times_may_jump(container: InputContainer) -> bool:
    """Whether times may leap midway, as in what a broadcast was cut from; then none is sought."""
    return container.format.name in _BROADCAST


class Timeline:
    """Times that begin anew, as in joined recordings, put one after the other.

    Attributes:
        is_joined: some did.
    """

    def __init__(self, container: InputContainer) -> None:
        self.is_joined = False
        self._longest = _LONGEST_GAP if times_may_jump(container) else None
        self._shift = Fraction(0)
        self._latest: Fraction | None = None
        self._end = Fraction(0)

    def placed(self, start: Fraction, length: Fraction) -> Fraction:
        """When a picture appears, in seconds; pictures come in the order in which they are shown.

        Args:
            start: when it appears by the file.
            length: how long it stays.
        """
        step = Fraction(0) if self._latest is None else start - self._latest
        if step < -_JITTER or (self._longest is not None and step > self._longest):
            self._shift = self._end - start
            self.is_joined = True
        self._latest = start
        self._end = max(self._end, start + self._shift + length)
        return start + self._shift


def _video_stream(container: InputContainer, file: BinaryIO, name: str) -> VideoStream:
    videos = _videos(container)
    usable = [one for one in videos if one.codec_context is not None]
    if not usable and _structure(container.format.name, file).is_cut:
        raise damaged(name)
    if not videos:
        if not container.streams.audio:
            raise MediaError(f"{name} has no pictures; it may be cut short, or is not a video")
        raise MediaError(f"{name} has no pictures, only sound; name a video")
    stream = max(videos, key=_precedence)
    if stream.codec_context is None:
        raise MediaError(f"{name} has an unknown video codec; convert it with ffmpeg")
    if stream.width * stream.height * pixel_aspect(stream) > PIXEL_LIMIT:
        raise MediaError(
            f"{name} has pictures of {stream.width}×{stream.height}; make them smaller first"
        )
    stream.thread_type = "AUTO"
    return stream


def _videos(container: InputContainer) -> list[VideoStream]:
    """The streams of moving pictures, without covers."""
    streams = container.streams.video
    return [one for one in streams if not one.disposition & Disposition.attached_pic]


def _precedence(stream: VideoStream) -> tuple[bool, bool, int]:
    """What ranks the streams of a file: moving pictures, the default one, the largest."""
    is_default = bool(stream.disposition & Disposition.default)
    area = 0 if stream.codec_context is None else stream.width * stream.height
    return stream.frames != 1, is_default, area


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


class _Stamped(NamedTuple):
    """Seconds at which a packet is decoded and its picture appears by the file, and how long."""

    order: Fraction
    start: Fraction | None
    length: Fraction


def _spans(packets: list[_Stamped], timeline: Timeline) -> list[tuple[Fraction, Fraction]]:
    """When each picture appears and goes, on one timeline.

    Pictures are placed in the order in which they are shown, as the decoder gives them; a new
    recording begins where the order of decoding does.
    """
    recordings: list[list[_Stamped]] = [[]]
    for earlier, packet in zip([None, *packets], packets, strict=False):
        if earlier and packet.order - earlier.order < -_JITTER:
            recordings.append([])
        recordings[-1].append(packet)
    spans: list[tuple[Fraction, Fraction]] = []
    for recording in recordings:
        for packet in sorted(recording, key=lambda one: one.start or 0):
            if packet.start is None:
                start = spans[-1][1] if spans else Fraction(0)
            else:
                start = timeline.placed(packet.start, packet.length)
            spans.append((start, start + packet.length))
    return spans


def survey_clip(file: BinaryIO, name: str) -> Survey:
    """Read through the packets of `file`, called `name`; refuse it if its end is missing."""
    with open_container(file, name) as (container, stream):
        packets: list[_Stamped] = []
        last_is_corrupt = False
        reached = Fraction(0)
        for packet in container.demux():
            if packet.size == 0 or packet.stream.type not in ("video", "audio"):
                continue
            last_is_corrupt = packet.is_corrupt
            reached = max(reached, (packet.dts or 0) * packet.time_base)
            if packet.stream_index != stream.index or packet.is_discard:
                continue
            ticks, tick = stamp(packet, container), packet.time_base
            length = (packet.duration or 0) * tick or 1 / frame_rate(stream)
            order = ticks if packet.dts is None else packet.dts
            start = None if ticks is None else ticks * tick
            packets.append(_Stamped((order or 0) * tick, start, length))
        timeline = Timeline(container)
        spans = _spans(packets, timeline)
        structure = _structure(container.format.name, file)
        is_short = container.format.name == "flv" and _stated(container) > reached + _MISSING
        if not spans or last_is_corrupt or structure.is_cut or is_short:
            raise damaged(name)
        starts = sorted(start for start, _ in spans)
        notes = []
        if not _is_steady(starts, stream.time_base or Fraction(0)):
            notes.append("its frame rate varies; it is sampled by time")
        if stream.metadata.get("alpha_mode") == "1" and _alpha_decoder(stream) is None:
            notes.append("its transparency is left out")
        if timeline.is_joined:
            notes.append("its times begin anew midway; the parts follow each other")
        elif structure.is_joined:
            notes.append("it is several files in one, of which the first is used")
        count = sum(one.frames != 1 for one in _videos(container))
        if count > 1:
            notes.append(
                f"it has {count} videos; the one of {stream.width}×{stream.height} is used"
            )
        held = starts[0] + held_seconds(container, stream)
        end = max(held, *(end for _, end in spans))
        return Survey(starts[0], starts[-1], end, bool(container.streams.audio), tuple(notes))


def _is_steady(starts: list[Fraction], tick: Fraction) -> bool:
    gaps = [later - earlier for earlier, later in pairwise(starts) if later > earlier] or [tick]
    return max(gaps) - min(gaps) <= max(2 * tick, min(gaps) / 10)


def _stated(container: InputContainer) -> Fraction:
    """How many seconds a file says that it lasts; 0 if it does not."""
    return Fraction(container.duration or 0, av.time_base)


class _Structure(NamedTuple):
    """Whether a file stops before the end that it states, and whether another one follows."""

    is_cut: bool
    is_joined: bool = False


def _structure(kind: str, file: BinaryIO) -> _Structure:
    """What the outermost parts of a file of libav's format `kind` say.

    libav reads most files to wherever they stop, without a word.
    """
    length = file.seek(0, os.SEEK_END)
    if kind in _HEADS:
        file.seek(0)
        head = file.read(_HEADS[kind])
        pieces = iter(lambda: file.read(_READ_BYTES), b"")
        return _Structure(False, any(head in piece for piece in pieces))
    if kind in ("gif", "ogg"):
        file.seek(max(0, length - _READ_BYTES))
        tail = file.read()
        if kind == "gif":
            return _Structure(not tail.rstrip(b"\0").endswith(b";"))
        return _Structure(not tail[tail.rfind(b"OggS") + 5] & _OGG_LAST_PAGE)
    position, heads = 0, []
    while position < length:
        file.seek(position)
        head = file.read(_HEAD_BYTES)
        heads.append(head[_KIND_AT.get(kind, slice(4, 8))])
        size = _element_size(kind, head)
        if not size:
            break
        position += size
    # Of these libav reads the first, unless it is the head of a stream's pieces.
    reads_first = kind.startswith(("mov,", "asf")) and b"moof" not in heads
    is_joined = reads_first and heads[0] in heads[1:]
    return _Structure(position > length + _MISCOUNTED_BYTES, is_joined)


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

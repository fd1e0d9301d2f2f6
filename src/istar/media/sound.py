"""The sound of a video, copied beside other pictures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.packet import Packet

from istar.clip_format import CLIP_FORMATS, clip_format
from istar.errors import MediaError, UsageError
from istar.media.clip_container import open_container, survey_clip, times_may_jump
from istar.media.sources import open_source, source_name

_RUN_UP = Fraction(1, 10)
"""Sound before the first picture that a decoder may need; players do not play it."""


class Sound:
    """The sound of a video that is open, as `open_sound` gives it.

    Attributes:
        name: what messages call the video.
        end: seconds from its first picture at which what has been copied ends.
        is_cut: there was more.
    """

    def __init__(
        self, container: InputContainer, stream: AudioStream, name: str, start: Fraction
    ) -> None:
        self.name = name
        self.end = Fraction(0)
        self.is_cut = False
        self._stream = stream
        self._start = start
        self._packets = _timed(container, stream)
        self._next = next(self._packets, None)
        self._copy: AudioStream | None = None

    def add_to(self, container: OutputContainer) -> None:
        """Add a stream for it to a file that is written."""
        copy = container.add_stream_from_template(self._stream)
        assert isinstance(copy, AudioStream)
        self._copy = copy

    def packets(self, *, until: Fraction) -> Iterator[Packet[Any]]:
        """What has not been copied yet and begins before a time.

        Args:
            until: seconds from the first picture on.
        """
        while self._next is not None:
            packet, shown = self._next
            tick = packet.time_base
            start = shown * tick - self._start
            if start >= until:
                break
            self._next = next(self._packets, None)
            length = (packet.duration or 0) * tick
            if start + length < -_RUN_UP:
                continue
            self.end = start + length
            packet.pts = packet.dts = shown - round(self._start / tick)
            packet.stream = self._copy
            yield packet
        self.is_cut = self._next is not None


@contextmanager
def open_sound(source: Path, target: Path) -> Iterator[Sound]:
    """The sound of a video, to be copied into another file.

    Args:
        source: a local file with a video.
        target: what it is copied into; its suffix says the format.

    Raises:
        UsageError: the target's format holds no sound.
        MediaError: the video cannot be read, has no sound, or one that cannot be copied.
    """
    check_holds_sound(target)
    kind, name = clip_format(target), source_name(source)
    with open_source(source) as file:
        start = survey_clip(file, name).start
        with open_container(file, name) as (container, _):
            stream = next(iter(container.streams.audio), None)
            if stream is None:
                raise MediaError(f"{name} has no sound that could be kept")
            codec = stream.codec_context.name if stream.codec_context else "unknown"
            if codec not in kind.sounds or times_may_jump(container):
                raise MediaError(
                    f"the sound of {name} ({codec}) cannot be copied into {kind.name}; "
                    "convert it first, or leave it out"
                )
            yield Sound(container, stream, name, start)


def check_holds_sound(target: Path) -> None:
    """Refuse a file whose format holds no sound.

    Raises:
        UsageError: it is one.
    """
    kind = clip_format(target)
    if not kind.sounds:
        able = " or ".join(one.name for one in CLIP_FORMATS.values() if one.sounds)
        raise UsageError(f"'{target}': {kind.name} holds no sound; choose {able}")


def check_sound(source: Path, target: Path) -> None:
    """Refuse a sound that cannot be copied; see `open_sound`."""
    with open_sound(source, target):
        pass


def _timed(container: InputContainer, stream: AudioStream) -> Iterator[tuple[Packet[Any], int]]:
    """The packets that hold something, and when they are heard, in ticks."""
    for packet in container.demux(stream):
        if packet.size and packet.pts is not None:
            yield packet, packet.pts

"""Writing clips frame by frame, whole or not at all: MP4, WebM and animations."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import torch
from av.bitstream import BitStreamFilterContext
from av.packet import Packet
from av.video.stream import VideoStream
from torch import Tensor

from istar.clip_format import (
    CLIP_FORMATS,
    STREAMED_SUFFIX,
    ClipEncoding,
    clip_format,
    is_numbered,
)
from istar.errors import MediaError, UsageError
from istar.files import PendingFile, writing_failed
from istar.media.animation_texts import add_texts
from istar.media.clip_encoders import ENCODERS
from istar.media.numbered_pictures import NumberedPicturesWriter
from istar.media.picture_writer import clean_texts
from istar.media.sound import Sound, open_sound
from istar.video_tokenizer.config import FRAMES_PER_SECOND

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

_FRAGMENTS = {
    # A reader that cannot seek knows the clip from its beginning, whose first picture is at 0.
    "movflags": "+frag_keyframe+empty_moov+default_base_moof+negative_cts_offsets",
    "frag_duration": "1000000",  # microseconds: shorter than from one key frame to the next
}
_BUFFER_BYTES = 65_536
_PLAIN_KEYS = frozenset({"title", "comment", "artist", "description", "copyright", "date"})


class ClipWriter:
    """Writes a clip while it is made, in the format that its name ends in.

    H.264 in MP4, VP9 in WebM (both 4:2:0, BT.709, limited range), GIF with a palette for every
    picture, animated WebP, APNG; at 16 pictures a second unless `encoding` says otherwise. Of an
    animated WebP what is encoded stays in memory until the end; of the others a few pictures do.

    A context manager. The file appears under its name when the block ends cleanly; on any
    exception, `KeyboardInterrupt` included, nothing remains. Equal frames give equal bytes.

    Args:
        target: ends in one of `istar.output_names.CLIP_SUFFIXES`.
        height, width: of every frame; even for MP4 and WebM.
        encoding: how it is encoded, and how fast it plays.
        stream: where the bytes go as they are made, of MP4 only, which is in fragments then;
            `target` is no more than a name in messages, and what was sent stays sent.
        after: a file that a `ClipWriter` of this size, format and speed wrote; its pictures come
            first, copied and not encoded again. It may be `target` itself. MP4 and WebM only. Its
            last part must have several pictures: after a single one the encoder's order of
            decoding does not fit.
        kept: no more than so many pictures of that file come; another `ClipWriter` had begun the
            next one.
        sound: a video whose sound is copied beside the pictures, from its first picture on; what
            is longer than they are is cut. MP4 and WebM only.
        metadata: texts to keep in the file; `title` and `comment` show in players. A file without
            texts does not say either what encoded it, as far as its format allows.
        overwrite: an existing file may be replaced.
        numbered: beside an existing file it gets a numbered name.

    Raises:
        UsageError: another suffix, or what its format does not know.
        MediaError: an odd size, wrong frames, no frames, `target` exists, a sound that does not
            fit, or writing failed.
        OSError: `stream` took no more.
    """

    def __init__(
        self,
        target: Path,
        height: int,
        width: int,
        *,
        encoding: ClipEncoding | None = None,
        stream: SupportsWrite[bytes] | None = None,
        after: Path | None = None,
        kept: int | None = None,
        sound: Path | None = None,
        metadata: Mapping[str, str] | None = None,
        overwrite: bool = False,
        numbered: bool = False,
    ) -> None:
        encoding = encoding or ClipEncoding()
        encoding.check(target)
        kind = clip_format(target)
        if is_numbered(target):
            raise UsageError(f"'{target}' stands for numbered pictures, not for a file")
        if stream is not None and kind is not CLIP_FORMATS[STREAMED_SUFFIX]:
            raise UsageError(f"{kind.name} cannot be written piece by piece; choose MP4")
        if after is not None and not kind.continues:
            raise UsageError(f"{kind.name} cannot be continued; choose MP4 or WebM")
        if height < 2 or width < 2 or (kind.even and (height % 2 or width % 2)):
            raise MediaError(
                f"a clip of {width}×{height} cannot be written: {kind.name} needs even sizes; "
                "crop or scale it first"
            )
        self._size = (height, width)
        self._encoding = encoding
        self._encoder = ENCODERS[target.suffix.lower()]
        self._rate = encoding.rate(FRAMES_PER_SECOND)
        self._pipe = stream
        self._after = after
        self._kept = kept
        self._sound_source = sound
        self._sound: Sound | None = None
        self._metadata = clean_texts(metadata or {})
        self._pending = PendingFile(target, overwrite=overwrite, numbered=numbered)
        self._convert = self._encoder.conversion(height, width, self._rate)
        self._frames = 0
        self._unsigned: BitStreamFilterContext | None = None
        self._is_whole = False
        self._block = ExitStack()

    @property
    def target(self) -> Path:
        """The file's name: as given, or after the block a numbered one if that was taken."""
        return self._pending.target

    @property
    def sound(self) -> Sound | None:
        """What has been copied of the sound."""
        return self._sound

    def __enter__(self) -> ClipWriter:
        self._block.enter_context(self._file())
        return self

    def __exit__(self, *failure: Any) -> None:
        self._block.__exit__(*failure)

    @contextmanager
    def _file(self) -> Iterator[None]:
        with ExitStack() as block:
            if self._pipe is None:
                block.enter_context(self._pending)
            if self._sound_source is not None:
                self._sound = block.enter_context(open_sound(self._sound_source, self.target))
            with self._failures_named():
                self._open()
            try:
                if self._after is not None:
                    with self._failures_named():
                        self._copy(self._after)
                yield
                self.finish()
            finally:
                with suppress(av.FFmpegError, OSError):
                    self._container.close()

    def finish(self) -> Path:
        """Make the file whole before the block ends; nothing can be written to it any more.

        Returns:
            where it lies until the block ends: only its name changes then.

        Raises:
            MediaError: it was given no frames, or writing failed.
        """
        if not self._frames:
            raise MediaError(f"'{self.target}' would be empty: it was given no frames")
        if not self._is_whole:
            with self._failures_named():
                self._encode(None)
                self._mux(self._stream.encode(None))
                self._mux_sound()
                self._container.close()
                self._add_texts()
            self._is_whole = True
        return self._pending.temporary

    def _open(self) -> None:
        encoder = self._encoder
        options = dict(encoder.container_options if self._pipe is None else _FRAGMENTS)
        if encoder.container == "mp4" and not self._metadata.keys() <= _PLAIN_KEYS:
            options["movflags"] += "+use_metadata_tags"
        if encoder.is_video and not self._metadata:
            options["fflags"] = "+bitexact"  # no version of libav
        # An absolute path behind `file:` is never taken for another protocol.
        url = f"file:{self._pending.temporary.absolute()}"
        # Sizes of the parts of a head are put in when it is complete: it stays in memory till then.
        texts = sum(len(text.encode()) for entry in self._metadata.items() for text in entry)
        self._container = av.open(
            url if self._pipe is None else self._pipe,
            "w",
            format=encoder.container,
            options=options,
            buffer_size=_BUFFER_BYTES + texts,
        )
        stream = self._container.add_stream(
            encoder.codec, rate=self._rate, options=encoder.options(self._encoding)
        )
        assert isinstance(stream, VideoStream)
        stream.height, stream.width = self._size
        encoder.prepare(stream)
        self._stream = stream
        if encoder.is_video:
            self._container.metadata.update(self._metadata)
        if self._sound is not None:
            self._sound.add_to(self._container)
        if encoder.unsigned and not self._metadata:
            self._container.start_encoding()  # before, the filter would know nothing of the stream
            self._unsigned = BitStreamFilterContext(encoder.unsigned, stream)

    def _add_texts(self) -> None:
        if not self._encoder.is_video:
            add_texts(self._pending.temporary, self._metadata)

    def _copy(self, source: Path) -> None:
        """Take the packets of another file; the next picture follows its last."""
        with av.open(f"file:{source.absolute()}") as container:
            stream = container.streams.video[0]
            name = self._encoder.start_codes
            start_codes = BitStreamFilterContext(name, stream) if name else None
            for packet in container.demux(stream):
                if not packet.size or not self._keeps(packet):
                    continue
                packets: list[Packet[Any]] = [packet]
                if start_codes:
                    packets = list(start_codes.filter(packet))
                self._mux(packets)
                self._frames += len(packets)

    def _keeps(self, packet: av.Packet[Any]) -> bool:
        """Whether a packet of the file that comes first is one of those that are kept."""
        if self._kept is None or packet.pts is None:
            return True
        assert packet.time_base is not None
        return packet.pts * packet.time_base * FRAMES_PER_SECOND < self._kept

    @contextmanager
    def _failures_named(self) -> Iterator[None]:
        try:
            yield
        except (av.FFmpegError, OSError) as error:
            if self._pipe is not None and not isinstance(error, av.FFmpegError):
                raise
            raise writing_failed(self.target, error) from error

    def write(self, frames: Tensor) -> None:
        """Append `frames` `(F, H, W, 3)` uint8 RGB.

        Raises:
            MediaError: another shape or dtype, or writing failed.
        """
        if frames.dtype != torch.uint8 or frames.shape[1:] != (*self._size, 3):
            height, width = self._size
            raise MediaError(
                f"frames must be (F, {height}, {width}, 3) uint8, "
                f"not {tuple(frames.shape)} {frames.dtype}"
            )
        with self._failures_named():
            for pixels in frames.detach().cpu().contiguous().numpy():
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                frame.pts = self._frames
                frame.time_base = 1 / self._rate
                self._frames += 1
                self._encode(frame)
            self._mux_sound()

    def _encode(self, frame: av.VideoFrame | None) -> None:
        for converted in self._convert(frame):
            self._mux(self._stream.encode(converted))

    def _mux(self, packets: Iterable[Packet[Any]]) -> None:
        """Put pictures that are encoded into the file."""
        for packet in packets:
            for kept in self._unsigned.filter(packet) if self._unsigned else (packet,):
                kept.stream = self._stream
                self._container.mux(kept)

    def _mux_sound(self) -> None:
        """Put in the sound of the pictures so far."""
        if self._sound is not None:
            for packet in self._sound.packets(until=self._frames / self._rate):
                self._container.mux(packet)


def open_clip_writer(
    target: Path,
    height: int,
    width: int,
    *,
    encoding: ClipEncoding | None = None,
    stream: SupportsWrite[bytes] | None = None,
    after: Path | None = None,
    kept: int | None = None,
    sound: Path | None = None,
    metadata: Mapping[str, str] | None = None,
    overwrite: bool = False,
    numbered: bool = False,
) -> AbstractContextManager[ClipWriter | NumberedPicturesWriter]:
    """The writer for a name, as `ClipWriter` describes it: `boat/%04d.png` is for pictures."""
    if not is_numbered(target):
        return ClipWriter(
            target,
            height,
            width,
            encoding=encoding,
            stream=stream,
            after=after,
            kept=kept,
            sound=sound,
            metadata=metadata,
            overwrite=overwrite,
            numbered=numbered,
        )
    (encoding or ClipEncoding()).check(target)
    if after is not None or sound is not None:
        raise UsageError(f"'{target}': a directory of pictures holds no sound and is not continued")
    return NumberedPicturesWriter(target, metadata=metadata, overwrite=overwrite, numbered=numbered)


def write_clip(
    frames: Tensor,
    target: Path,
    *,
    encoding: ClipEncoding | None = None,
    sound: Path | None = None,
    overwrite: bool = False,
    numbered: bool = False,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write a whole clip `(F, H, W, 3)` uint8 RGB, as `open_clip_writer` does.

    Returns:
        The file's name: `target`, or a numbered one if `target` was taken while writing; of
        numbered pictures their directory.
    """
    if frames.ndim != 4:
        raise MediaError(f"a clip must be (F, H, W, 3), not {tuple(frames.shape)}")
    height, width = frames.shape[1:3]
    with open_clip_writer(
        target,
        height,
        width,
        encoding=encoding,
        sound=sound,
        metadata=metadata,
        overwrite=overwrite,
        numbered=numbered,
    ) as writer:
        writer.write(frames)
    return writer.target

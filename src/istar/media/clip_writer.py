"""Writing clips: H.264 in MP4, frame by frame, whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import torch
from av.bitstream import BitStreamFilterContext
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter
from torch import Tensor

from istar.errors import MediaError
from istar.files import CLIP_SUFFIXES, PendingFile, check_suffix, writing_failed
from istar.media.clip_pixels import ACCURATE_CONVERSION
from istar.media.picture_writer import clean_texts
from istar.video_tokenizer.config import FRAMES_PER_SECOND

_X264_OPTIONS = {
    "crf": "16",
    "preset": "medium",
    # x264's AVX-512 macroblock tree handles eight blocks at a time and, at a width that is no
    # multiple of 128, lets the memory behind a row into the choice of the bits; its plain C, which
    # this option asks for, does not, and is the same on every processor.
    "x264-params": "cpu-independent=1",
}
_X264_THREADS = 4  # the bytes depend on the number, so it cannot follow the machine
_BT709 = 1  # ITU-T H.273: primaries, transfer and matrix alike
_PLAIN_KEYS = frozenset({"title", "comment", "artist", "description", "copyright", "date"})


class ClipWriter:
    """Writes a clip while it is made: H.264 (4:2:0, BT.709, limited range) in MP4 at 16 fps.

    A context manager. The file appears under its name when the block ends cleanly; on any
    exception, `KeyboardInterrupt` included, nothing remains. Equal frames give equal bytes.

    Args:
        target: ends in `.mp4`.
        height, width: of every frame; even.
        after: a file that a `ClipWriter` of this size wrote; its pictures come first, copied and
            not encoded again. It may be `target` itself. Its last part must have several pictures:
            after a single one the encoder's order of decoding does not fit.
        kept: no more than so many pictures of that file come; another `ClipWriter` had begun the
            next one.
        metadata: texts to keep in the file; `title` and `comment` show in players.
        overwrite: an existing file may be replaced.
        numbered: beside an existing file it gets a numbered name.

    Raises:
        UsageError: another suffix.
        MediaError: an odd size, wrong frames, no frames, `target` exists, or writing failed.
    """

    def __init__(
        self,
        target: Path,
        height: int,
        width: int,
        *,
        after: Path | None = None,
        kept: int | None = None,
        metadata: Mapping[str, str] | None = None,
        overwrite: bool = False,
        numbered: bool = False,
    ) -> None:
        check_suffix(target, CLIP_SUFFIXES)
        if height < 2 or width < 2 or height % 2 or width % 2:
            raise MediaError(
                f"a clip of {width}×{height} cannot be written: H.264 needs even sizes; "
                "crop or scale it first"
            )
        self._size = (height, width)
        self._after = after
        self._kept = kept
        self._metadata = clean_texts(metadata or {})
        self._pending = PendingFile(target, overwrite=overwrite, numbered=numbered)
        self._reformatter = VideoReformatter()
        self._frames = 0
        self._block = ExitStack()

    @property
    def target(self) -> Path:
        """The file's name: as given, or after the block a numbered one if that was taken."""
        return self._pending.target

    def __enter__(self) -> ClipWriter:
        self._block.enter_context(self._file())
        return self

    def __exit__(self, *failure: Any) -> None:
        self._block.__exit__(*failure)

    @contextmanager
    def _file(self) -> Iterator[None]:
        with self._pending:
            with self._failures_named():
                self._open()
            try:
                if self._after is not None:
                    with self._failures_named():
                        self._copy(self._after)
                yield
                if not self._frames:
                    raise MediaError(f"'{self.target}' would be empty: it was given no frames")
                with self._failures_named():
                    self._container.mux(self._stream.encode(None))
                    self._container.close()
            finally:
                with suppress(av.FFmpegError, OSError):
                    self._container.close()

    def _open(self) -> None:
        movflags = "+faststart"
        if not self._metadata.keys() <= _PLAIN_KEYS:
            movflags += "+use_metadata_tags"
        # An absolute path behind `file:` is never taken for another protocol.
        url = f"file:{self._pending.temporary.absolute()}"
        self._container = av.open(url, "w", format="mp4", options={"movflags": movflags})
        self._container.metadata.update(self._metadata)
        self._stream = self._container.add_stream(
            "libx264", rate=FRAMES_PER_SECOND, options=dict(_X264_OPTIONS)
        )
        self._stream.height, self._stream.width = self._size
        self._stream.pix_fmt = "yuv420p"
        codec = self._stream.codec_context
        codec.thread_count = _X264_THREADS
        codec.color_primaries = codec.color_trc = codec.colorspace = _BT709
        codec.color_range = ColorRange.MPEG

    def _copy(self, source: Path) -> None:
        """Take the packets of another file; the next picture follows its last."""
        with av.open(f"file:{source.absolute()}") as container:
            stream = container.streams.video[0]
            # In MP4 a picture's parts have lengths; the encoder, and so the muxer, has start codes.
            convert = BitStreamFilterContext("h264_mp4toannexb", stream)
            for packet in container.demux(stream):
                if not self._keeps(packet):
                    continue
                for converted in convert.filter(packet) if packet.size else ():
                    converted.stream = self._stream
                    self._container.mux(converted)
                    self._frames += 1

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
                frame = self._reformatter.reformat(
                    av.VideoFrame.from_ndarray(pixels, format="rgb24"),
                    format="yuv420p",
                    dst_colorspace=Colorspace.ITU709,
                    dst_color_range=ColorRange.MPEG,
                    interpolation=ACCURATE_CONVERSION,
                )
                frame.pts = self._frames
                frame.time_base = Fraction(1, FRAMES_PER_SECOND)
                self._frames += 1
                self._container.mux(self._stream.encode(frame))


def write_clip(
    frames: Tensor,
    target: Path,
    *,
    overwrite: bool = False,
    numbered: bool = False,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write a whole clip `(F, H, W, 3)` uint8 RGB at 16 fps, as `ClipWriter` does.

    Returns:
        The file's name: `target`, or a numbered one if `target` was taken while writing.
    """
    if frames.ndim != 4:
        raise MediaError(f"a clip must be (F, H, W, 3), not {tuple(frames.shape)}")
    height, width = frames.shape[1:3]
    with ClipWriter(
        target, height, width, metadata=metadata, overwrite=overwrite, numbered=numbered
    ) as writer:
        writer.write(frames)
    return writer.target

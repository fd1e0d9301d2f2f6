"""Clips as istar writes them, read back and looked into."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from istar.errors import MediaError, UsageError
from istar.media import ClipWriter, probe_clip, read_clip, write_clip
from media_files import grey_clip, levels_of, psnr, smooth_clip, texts_in

C_LIBRARY = ctypes.CDLL(None)
M_PERTURB = -6
"""glibc's option that fills fresh memory with a byte, and freed memory with its complement."""


def test_81_frames_come_back_as_81_with_small_error(tmp_path: Path) -> None:
    frames = smooth_clip(81)
    path = write_clip(frames, tmp_path / "clip.mp4")
    clip = read_clip(path)
    assert (clip.frames.shape, clip.frames.dtype, clip.notes) == (frames.shape, torch.uint8, ())
    assert min(psnr(*pair) for pair in zip(clip.frames, frames, strict=True)) > 34
    # A shift by one frame would cost far more than the codec does.
    assert psnr(clip.frames[1:], frames[:-1]) < 25


@pytest.mark.parametrize("count", [1, 2, 13, 161])
def test_any_count_comes_back_exactly(tmp_path: Path, count: int) -> None:
    levels = [index % 100 for index in range(count)]
    path = write_clip(grey_clip(levels), tmp_path / "clip.mp4")
    assert levels_of(read_clip(path).frames) == pytest.approx(levels, abs=1)
    info = probe_clip(path)
    assert (info.height, info.width, info.seconds) == (32, 48, count / 16)


@pytest.mark.parametrize("height", [64, 720])
@pytest.mark.parametrize(
    "colour", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (10, 200, 77), (255, 255, 255), (0, 0, 0)]
)
def test_colours_survive(tmp_path: Path, colour: tuple[int, int, int], height: int) -> None:
    frames = torch.tensor(colour, dtype=torch.uint8).expand(3, height, 64, 3).contiguous()
    path = write_clip(frames, tmp_path / "clip.mp4")
    assert (read_clip(path).frames.int() - frames.int()).abs().max() <= 3


def test_the_file_is_tagged_bt709_and_truly_converted_with_it(tmp_path: Path) -> None:
    red = torch.tensor((255, 0, 0), dtype=torch.uint8).expand(2, 32, 32, 3).contiguous()
    path = write_clip(red, tmp_path / "clip.mp4")
    with av.open(str(path)) as container:
        codec = container.streams.video[0].codec_context
        assert (codec.color_primaries, codec.color_trc, codec.colorspace) == (1, 1, 1)
        assert (codec.color_range, codec.name, codec.pix_fmt) == (1, "h264", "yuv420p")
        frame = next(container.decode(video=0))
    # BT.709 by its own formula: Y = 16 + 219 · 0.2126, Cb, Cr = 128 + 224 · (B-Y, R-Y) / ….
    planes = [np.frombuffer(bytes(plane), np.uint8)[0] for plane in frame.planes]
    assert planes == pytest.approx([62.6, 102.3, 240.0], abs=1.5)


def test_the_index_comes_before_the_data(tmp_path: Path) -> None:
    data = write_clip(grey_clip([1, 2, 3]), tmp_path / "clip.mp4").read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")


def test_equal_input_gives_equal_bytes(tmp_path: Path) -> None:
    frames = smooth_clip(20)
    metadata = {"title": "a cat", "comment": "{}"}
    with ClipWriter(tmp_path / "pieces.mp4", 64, 96, metadata=metadata) as writer:
        for piece in frames.split(7):
            writer.write(piece)
    whole = write_clip(frames, tmp_path / "whole.mp4", metadata=metadata)
    assert writer.target.read_bytes() == whole.read_bytes()
    assert write_clip(frames, tmp_path / "other.mp4").read_bytes() != whole.read_bytes()


@pytest.mark.skipif(not hasattr(C_LIBRARY, "mallopt"), reason="the C library is not glibc")
@pytest.mark.parametrize("width", [32, 96, 144])
def test_the_bytes_do_not_depend_on_what_memory_held(tmp_path: Path, width: int) -> None:
    frames = smooth_clip(20, width=width)
    written = set()
    try:
        for filler in (1, 85, 170):
            C_LIBRARY.mallopt(M_PERTURB, filler)
            written.add(write_clip(frames, tmp_path / f"{filler}.mp4").read_bytes())
    finally:
        C_LIBRARY.mallopt(M_PERTURB, 0)
    assert len(written) == 1


def test_the_encoder_does_not_follow_the_number_of_cores(tmp_path: Path) -> None:
    frames = smooth_clip(30, 256, 256)
    cores = os.sched_getaffinity(0)
    path = write_clip(frames, tmp_path / "all.mp4")
    os.sched_setaffinity(0, {min(cores)})
    try:
        alone = write_clip(frames, tmp_path / "one.mp4")
    finally:
        os.sched_setaffinity(0, cores)
    assert alone.read_bytes() == path.read_bytes()


def test_odd_sizes_and_wrong_frames_are_refused(tmp_path: Path) -> None:
    for height, width in ((33, 48), (32, 47), (0, 16)):
        with pytest.raises(MediaError, match="even"):
            ClipWriter(tmp_path / "odd.mp4", height, width)
    wrong = [
        torch.zeros(1, 32, 48, 3),
        torch.zeros(1, 32, 50, 3, dtype=torch.uint8),
        torch.zeros(32, 48, 3, dtype=torch.uint8),
        torch.zeros(1, 32, 48, 4, dtype=torch.uint8),
    ]
    for frames in wrong:
        with (
            pytest.raises(MediaError, match="uint8"),
            ClipWriter(tmp_path / "wrong.mp4", 32, 48) as writer,
        ):
            writer.write(frames)
    with pytest.raises(MediaError, match="no frames"), ClipWriter(tmp_path / "no.mp4", 32, 48):
        pass
    with pytest.raises(UsageError, match=r"\.mp4"):
        ClipWriter(tmp_path / "clip.avi", 32, 48)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", [OSError, KeyboardInterrupt, SystemExit])
def test_an_interrupted_clip_leaves_the_old_file_or_nothing(
    tmp_path: Path, kind: type[BaseException]
) -> None:
    target = tmp_path / "clip.mp4"

    def write_and_fail() -> None:
        with ClipWriter(target, 64, 96, overwrite=True) as writer:
            writer.write(smooth_clip(60))
            assert not target.exists() or target.read_bytes() == b"old"
            raise kind("stop")

    for old in ([], [target]):
        with pytest.raises(kind, match="stop"):
            write_and_fail()
        assert list(tmp_path.iterdir()) == old
        target.write_bytes(b"old")
    write_clip(grey_clip([1, 2]), target, overwrite=True)
    assert len(read_clip(target).frames) == 2
    assert list(tmp_path.iterdir()) == [target]


def test_a_clip_is_continued_and_what_was_there_is_not_encoded_again(tmp_path: Path) -> None:
    parts = smooth_clip(60).split([33, 16, 11])
    path = write_clip(parts[0], tmp_path / "clip.mp4", metadata={"title": "one"})
    shown = read_clip(path).frames
    for number, frames in enumerate(parts[1:]):
        with ClipWriter(
            path, 64, 96, after=path, overwrite=True, metadata={"title": f"{number} more"}
        ) as writer:
            for piece in frames.split(4):
                writer.write(piece)
        clip = read_clip(path)
        assert clip.notes == ()
        assert len(clip.frames) == len(shown) + len(frames)
        assert torch.equal(clip.frames[: len(shown)], shown)
        new = clip.frames[len(shown) :]
        assert min(psnr(*pair) for pair in zip(new, frames, strict=True)) > 34
        shown = clip.frames
    assert probe_clip(path).seconds == 60 / 16
    assert texts_in(path)["title"] == "1 more"


@pytest.mark.parametrize("kept", [16, 33])
def test_the_last_parts_of_a_clip_are_taken_away(tmp_path: Path, kept: int) -> None:
    path = write_clip(smooth_clip(16), tmp_path / "clip.mp4")
    for count in (17, 16):
        with ClipWriter(path, 64, 96, after=path, overwrite=True) as writer:
            writer.write(smooth_clip(count, seed=count))
    shown = read_clip(path).frames
    assert len(shown) == 49
    for more in (0, 5):
        with ClipWriter(path, 64, 96, after=path, kept=kept, overwrite=True) as writer:
            writer.write(smooth_clip(more, seed=1))
        clip = read_clip(path)
        assert clip.notes == ()
        assert len(clip.frames) == kept + more
        assert torch.equal(clip.frames[:kept], shown[:kept])


def test_a_clip_that_is_not_continued_stays_as_it_was(tmp_path: Path) -> None:
    path = write_clip(grey_clip([1, 2]), tmp_path / "clip.mp4")
    before = path.read_bytes()
    writer = ClipWriter(path, 32, 48, after=path, overwrite=True)
    with pytest.raises(MediaError, match="frames must be"), writer:
        writer.write(grey_clip([3]).float())
    assert path.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == ["clip.mp4"]


class Pipe:
    """Takes bytes, and so many at most."""

    def __init__(self, most: int = 1 << 30) -> None:
        self.taken = b""
        self.pictures = 0
        self.after: list[int] = []
        self._most = most

    def write(self, piece: bytes) -> int:
        if len(self.taken) + len(piece) > self._most:
            raise BrokenPipeError
        self.taken += bytes(piece)
        self.after.append(self.pictures)
        return len(piece)


def test_a_clip_goes_into_a_pipe_while_it_is_made(tmp_path: Path) -> None:
    frames, pipe, texts = smooth_clip(161), Pipe(), {"title": "a boat", "istar": "x" * 70_000}
    with ClipWriter(tmp_path / "a.mp4", 64, 96, stream=pipe, metadata=texts) as writer:
        for pictures in frames.split(8):
            writer.write(pictures)
            pipe.pictures += len(pictures)
    assert list(tmp_path.iterdir()) == []
    assert max(pipe.after) > min(pipe.after[2:]) + 16
    file = write_clip(frames, tmp_path / "b.mp4", metadata=texts)
    piped = tmp_path / "piped.mp4"
    piped.write_bytes(pipe.taken)
    clip = read_clip(piped)
    assert (clip.notes, probe_clip(piped).seconds) == ((), probe_clip(file).seconds)
    assert torch.equal(clip.frames, read_clip(file).frames)
    assert texts_in(piped) == texts_in(file) == texts


def test_a_pipe_that_breaks_ends_the_clip(tmp_path: Path) -> None:
    for most in (10, 100_000):
        with (
            pytest.raises(BrokenPipeError),
            ClipWriter(tmp_path / "a.mp4", 64, 96, stream=Pipe(most)) as writer,
        ):
            writer.write(smooth_clip(161))
    with pytest.raises(UsageError, match="WebM cannot be written piece by piece"):
        ClipWriter(tmp_path / "a.webm", 64, 96, stream=Pipe())
    assert list(tmp_path.iterdir()) == []

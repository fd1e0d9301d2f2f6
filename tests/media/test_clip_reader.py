"""Clips sampled by time, whole and in pieces, from files, bytes and pipes."""

from __future__ import annotations

import os
import threading
from fractions import Fraction
from io import BytesIO
from itertools import islice
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from istar.errors import MediaError
from istar.media import (
    clip_reader,
    open_clip,
    probe_clip,
    read_clip,
    read_piece,
    write_clip,
)
from media_files import encode, grey_clip, levels_of, smooth_clip, spoil_packet

DATA = Path(__file__).parent / "data"
LEVELS_APART = 4


def picked(frames: torch.Tensor, step: int = LEVELS_APART) -> list[int]:
    """Which source frame each frame is, where source `i` has the level `step · i`."""
    return [round(level / step) for level in frames.float().mean(dim=(1, 2, 3)).tolist()]


@pytest.mark.parametrize(("name", "codec"), [("clip.mp4", "libx264"), ("coarse.avi", "ffv1")])
def test_30_fps_is_sampled_by_time(tmp_path: Path, name: str, codec: str) -> None:
    path = encode(tmp_path / name, grey_clip([LEVELS_APART * i for i in range(60)]), codec=codec)
    clip = read_clip(path)
    # At k/16 s the frame on the screen is number floor(30 k / 16).
    assert picked(clip.frames) == [30 * k // 16 for k in range(32)]
    assert clip.notes == ()


def test_8_fps_repeats_every_frame_once(tmp_path: Path) -> None:
    path = encode(tmp_path / "clip.mp4", grey_clip([4 * i for i in range(8)]), rate=8)
    assert picked(read_clip(path).frames) == [k // 2 for k in range(16)]


@pytest.mark.parametrize("ending", [".mp4", ".mkv"])
def test_variable_timestamps_are_sampled_by_time(tmp_path: Path, ending: str) -> None:
    milliseconds = [0, 40, 50, 300, 310, 700, 720, 1000, 1490]
    path = encode(
        tmp_path / f"clip{ending}",
        grey_clip([20 * i for i in range(len(milliseconds))]),
        times=milliseconds,
        time_base=Fraction(1, 1000),
        rate=16,
        last_duration=260,
    )
    clip = read_clip(path)
    expected = [
        max(i for i, shown in enumerate(milliseconds) if shown <= 62.5 * k)
        for k in range(len(clip.frames))
    ]
    assert picked(clip.frames, 20) == expected
    if ending == ".mp4":  # 1490 + 260 ms: the last frame's own duration counts
        assert len(clip.frames) == 28
    assert "varies" in clip.notes[0]
    assert probe_clip(path).notes == clip.notes


@pytest.mark.parametrize(
    ("name", "codec", "pixels"),
    [
        ("clip.mkv", "libx264", "yuv420p"),
        ("clip.webm", "libvpx-vp9", "yuv420p"),
        ("clip.avi", "mpeg4", "yuv420p"),
        ("clip.mov", "libx264", "yuv420p"),
        ("clip.ts", "libx264", "yuv420p"),
        ("clip.flv", "flv1", "yuv420p"),
        ("clip.wmv", "wmv2", "yuv420p"),
        ("clip.gif", "gif", "rgb8"),
        ("clip.png", "apng", "rgb24"),
    ],
)
def test_16_fps_reads_exactly_from_clocks_that_round(
    tmp_path: Path, name: str, codec: str, pixels: str
) -> None:
    levels = [0 if k % 2 else 255 for k in range(81)]
    path = encode(tmp_path / name, grey_clip(levels), rate=16, codec=codec, pixels=pixels)
    clip = read_clip(path)
    assert [0 if level < 128 else 255 for level in levels_of(clip.frames)] == levels
    assert probe_clip(path).seconds == pytest.approx(81 / 16, abs=0.01)
    assert clip.notes == ()


def test_b_frames_in_avi_come_in_even_steps() -> None:
    with av.open(str(DATA / "h264_bframes.avi")) as container:
        stored = [frame.to_ndarray(format="gray")[::4, ::4] for frame in container.decode(video=0)]
    frames = read_clip(DATA / "h264_bframes.avi").frames[:, ::4, ::4].float().mean(-1).numpy()
    nearest = [int(np.argmin([np.abs(one - frame).mean() for one in stored])) for frame in frames]
    assert nearest == [30 * k // 16 for k in range(80)]


def test_pictures_without_data_repeat_the_one_before() -> None:
    clip = read_clip(DATA / "avi_empty_chunks_at_end.avi")
    assert len(clip.frames) == 64
    assert all(torch.equal(frame, clip.frames[-1]) for frame in clip.frames[27:])
    piece = read_piece(DATA / "avi_empty_chunks_at_end.avi", begin=3, pictures=16)
    assert torch.equal(piece, clip.frames[48:])


@pytest.mark.parametrize(
    "name", ["clip.mp4", "clip.mkv", "clip.ts", "clip.h264", "clip.avi", "a.gif"]
)
def test_a_piece_is_a_piece_of_the_whole(tmp_path: Path, name: str) -> None:
    codec, pixels = ("gif", "gray") if name.endswith(".gif") else ("libx264", "yuv420p")
    frames = grey_clip([2 * i for i in range(120)])
    path = encode(tmp_path / name, frames, codec=codec, pixels=pixels)
    whole = read_clip(path).frames
    for begin, pictures in ((0, 5), (0.25, 1), (2.0, 20), (3.0, 16), (3.9375, 1)):
        first = round(16 * begin)
        piece = read_piece(path, begin=begin, pictures=pictures)
        assert torch.equal(piece, whole[first : first + pictures]), begin


def test_a_piece_is_sought_and_read_no_further_than_needed(tmp_path: Path) -> None:
    path = encode(tmp_path / "clip.mp4", smooth_clip(180))
    expected = read_clip(path).frames[64:72]
    spoil_packet(path, 20)
    spoil_packet(path, 170)
    assert torch.equal(read_piece(path, begin=4, pictures=8), expected)


def test_a_seek_that_lands_too_late_is_made_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = encode(tmp_path / "clip.mp4", grey_clip([2 * i for i in range(120)]), gop=10)
    whole = read_clip(path).frames
    monkeypatch.setattr(clip_reader, "_SEEK_MARGIN", Fraction(-1))
    assert torch.equal(read_piece(path, begin=2, pictures=8), whole[32:40])


def test_a_piece_that_is_not_there_is_refused(tmp_path: Path) -> None:
    path = encode(tmp_path / "clip.mp4", smooth_clip(20))
    with pytest.raises(MediaError, match=r"does not have 40 pictures from 0\.5 s on"):
        read_piece(path, begin=0.5, pictures=40)


def test_bytes_and_pipes_are_read_and_a_source_is_opened_once(tmp_path: Path) -> None:
    path = write_clip(grey_clip([10, 20, 30]), tmp_path / "clip.mp4")
    expected = read_clip(path).frames
    assert torch.equal(read_clip(BytesIO(path.read_bytes())).frames, expected)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    feeder = threading.Thread(target=fifo.write_bytes, args=(path.read_bytes(),))
    feeder.start()
    with open_clip(fifo) as clip:
        feeder.join()
        assert clip.info == probe_clip(path)
        assert torch.equal(clip.read().frames, expected)
        assert torch.equal(clip.read_piece(begin=0, pictures=2), expected[:2])


def test_non_utf8_and_colon_names_work(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9 http:x.mp4")
    write_clip(grey_clip([10, 20]), path)
    assert len(read_clip(path).frames) == 2


def test_a_decoder_that_stops_early_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_clip(grey_clip([1] * 40), tmp_path / "clip.mp4")
    sampled = clip_reader._sampled
    monkeypatch.setattr(clip_reader, "_sampled", lambda *a, **k: islice(sampled(*a, **k), 30))
    with pytest.raises(MediaError, match="damaged"):
        read_clip(path)


def test_a_clip_too_long_for_memory_is_refused_unless_made_smaller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_clip(grey_clip([1] * 40), tmp_path / "clip.mp4")
    monkeypatch.setattr(clip_reader, "MAX_CLIP_BYTES", 20 * 32 * 48 * 3)
    with pytest.raises(MediaError, match="memory"):
        read_clip(path)
    assert len(read_piece(path, begin=1, pictures=16)) == 16
    assert len(read_clip(path, size=(16, 24)).frames) == 40

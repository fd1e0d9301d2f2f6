"""Pictures and clips, in and out, with real files made on the spot."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import struct
import subprocess
import sys
import zlib
from fractions import Fraction
from io import BytesIO
from itertools import islice
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from av.video.reformatter import Colorspace
from PIL import Image, PngImagePlugin
from torch import Tensor

from istar import media
from istar.errors import MediaError, UsageError
from istar.files import output_path
from istar.media import (
    ClipWriter,
    clip_reader,
    cover_and_crop,
    probe_clip,
    read_clip,
    read_metadata,
    read_picture,
    read_piece,
    write_clip,
    write_picture,
)

LEVELS_APART = 4
C_LIBRARY = ctypes.CDLL(None)
M_PERTURB = -6
"""glibc's option that fills fresh memory with a byte, and freed memory with its complement."""


def smooth_clip(frames: int, height: int = 64, width: int = 96, seed: int = 0) -> Tensor:
    """`(F, H, W, 3)` uint8: coarse random colours, smoothed, changing from frame to frame."""
    noise = torch.rand(frames, 3, 4, 6, generator=torch.Generator().manual_seed(seed))
    smooth = torch.nn.functional.interpolate(noise, size=(height, width), mode="bicubic")
    return (smooth.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def grey_clip(levels: list[int], height: int = 32, width: int = 48) -> Tensor:
    return torch.tensor(levels, dtype=torch.uint8)[:, None, None, None].repeat(1, height, width, 3)


def levels_of(frames: Tensor) -> list[int]:
    return [round(value) for value in frames.float().mean(dim=(1, 2, 3)).tolist()]


def picked(frames: Tensor, step: int = LEVELS_APART) -> list[int]:
    """Which source frame each frame shows, where source `i` has the level `step · i`."""
    return [round(level / step) for level in frames.float().mean(dim=(1, 2, 3)).tolist()]


def psnr(one: Tensor, other: Tensor) -> float:
    return float(10 * torch.log10(255**2 / (one.float() - other.float()).square().mean()))


def encode(
    path: Path,
    frames: Tensor,
    *,
    times: list[int] | None = None,
    time_base: Fraction = Fraction(1, 30),
    rate: int = 30,
    codec: str = "libx264",
    container: str | None = None,
    pixels: str = "yuv420p",
    colorspace: int | None = None,
    rotation: int | None = None,
    aspect: Fraction | None = None,
    transfer: int | None = None,
    interlaced: bool = False,
    options: dict[str, str] | None = None,
    gop: int | None = None,
    last_duration: int | None = None,
    sound: bool = False,
) -> Path:
    """A video by way of libav alone, so that reading is tested against another writer."""
    with av.open(str(path), "w", format=container, options=options or {}) as output:
        stream = output.add_stream(codec, rate=rate)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pixels
        if codec == "libx264":
            stream.options = {"crf": "8", "bf": "0"}
            if interlaced:
                stream.options = {"crf": "8", "x264-params": "interlaced=1"}
        if gop is not None:
            stream.gop_size = gop
        stream.codec_context.time_base = time_base
        if colorspace is not None:
            stream.codec_context.colorspace = colorspace
        if transfer is not None:
            stream.codec_context.color_trc = transfer
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        if rotation is not None:
            stream.set_display_rotation(rotation)
        audio = output.add_stream("aac", rate=48_000) if sound else None
        packets = []
        for index, picture in enumerate(frames.numpy()):
            matrix = {5: Colorspace.ITU601, 6: Colorspace.ITU601}.get(colorspace or 1)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(
                format=pixels, dst_colorspace=matrix or Colorspace.ITU709, dst_color_range=1
            )
            frame.pts = index if times is None else times[index]
            frame.time_base = time_base
            packets += stream.encode(frame)
        packets += stream.encode(None)
        if last_duration is not None:
            packets[-1].duration = last_duration
        output.mux(packets)
        if audio is not None:
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            silence.rate = 48_000
            output.mux(audio.encode(silence))
            output.mux(audio.encode(None))
    return path


# Clips: what is written comes back


def test_81_frames_come_back_as_81_with_small_error(tmp_path: Path) -> None:
    frames = smooth_clip(81)
    path = write_clip(frames, tmp_path / "clip.mp4")
    clip = read_clip(path)
    assert clip.frames.shape == frames.shape
    assert clip.frames.dtype == torch.uint8
    assert clip.notes == ()
    assert min(psnr(*pair) for pair in zip(clip.frames, frames, strict=True)) > 34
    # A shift by one frame would cost far more than the codec does.
    assert psnr(clip.frames[1:], frames[:-1]) < 25


@pytest.mark.parametrize("count", [1, 2, 13, 161])
def test_any_count_comes_back_exactly(tmp_path: Path, count: int) -> None:
    path = write_clip(grey_clip([index % 100 for index in range(count)]), tmp_path / "clip.mp4")
    assert levels_of(read_clip(path).frames) == pytest.approx(
        [index % 100 for index in range(count)], abs=1
    )
    info = probe_clip(path)
    assert (info.height, info.width, info.has_audio, info.frame_rate) == (32, 48, False, 16)
    assert info.seconds == count / 16


@pytest.mark.parametrize("height", [64, 720])
@pytest.mark.parametrize(
    "colour", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (10, 200, 77), (255, 255, 255), (0, 0, 0)]
)
def test_colours_survive(tmp_path: Path, colour: tuple[int, int, int], height: int) -> None:
    frames = torch.tensor(colour, dtype=torch.uint8).expand(3, height, 64, 3).contiguous()
    path = write_clip(frames, tmp_path / "clip.mp4")
    error = (read_clip(path).frames.int() - frames.int()).abs().max()
    assert error <= 3


def test_the_file_is_tagged_bt709_and_truly_converted_with_it(tmp_path: Path) -> None:
    red = torch.tensor((255, 0, 0), dtype=torch.uint8).expand(2, 32, 32, 3).contiguous()
    path = write_clip(red, tmp_path / "clip.mp4")
    with av.open(str(path)) as container:
        codec = container.streams.video[0].codec_context
        assert (codec.color_primaries, codec.color_trc, codec.colorspace) == (1, 1, 1)
        assert codec.color_range == 1
        assert (codec.name, codec.pix_fmt) == ("h264", "yuv420p")
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
            path = write_clip(frames, tmp_path / f"{filler}.mp4")
            written.add(path.read_bytes())
    finally:
        C_LIBRARY.mallopt(M_PERTURB, 0)
    assert len(written) == 1


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


# Clips: sampling by time


@pytest.mark.parametrize(("name", "codec"), [("clip.mp4", "libx264"), ("coarse.avi", "ffv1")])
def test_30_fps_is_sampled_by_time(tmp_path: Path, name: str, codec: str) -> None:
    frames = grey_clip([LEVELS_APART * i for i in range(60)])
    path = encode(tmp_path / name, frames, codec=codec)
    clip = read_clip(path)
    # At k/16 s the frame on the screen is number floor(30 k / 16).
    assert picked(clip.frames) == [30 * k // 16 for k in range(32)]
    assert clip.notes == ()


def test_8_fps_shows_every_frame_twice(tmp_path: Path) -> None:
    path = encode(
        tmp_path / "clip.mp4",
        grey_clip([4 * i for i in range(8)]),
        time_base=Fraction(1, 8),
        rate=8,
    )
    assert picked(read_clip(path).frames, 4) == [k // 2 for k in range(16)]


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
    ("name", "codec", "container", "pixels"),
    [
        ("clip.mkv", "libx264", "matroska", "yuv420p"),
        ("clip.webm", "libvpx-vp9", "webm", "yuv420p"),
        ("clip.avi", "mpeg4", "avi", "yuv420p"),
        ("clip.mov", "libx264", "mov", "yuv420p"),
        ("clip.ts", "libx264", "mpegts", "yuv420p"),
        ("clip.flv", "flv1", "flv", "yuv420p"),
        ("clip.gif", "gif", "gif", "rgb8"),
        ("clip.png", "apng", "apng", "rgb24"),
    ],
)
def test_16_fps_reads_exactly_from_clocks_that_round(
    tmp_path: Path, name: str, codec: str, container: str, pixels: str
) -> None:
    levels = [0 if k % 2 else 255 for k in range(81)]
    path = encode(
        tmp_path / name,
        grey_clip(levels),
        time_base=Fraction(1, 16),
        rate=16,
        codec=codec,
        container=container,
        pixels=pixels,
    )
    clip = read_clip(path)
    assert [0 if level < 128 else 255 for level in levels_of(clip.frames)] == levels
    assert probe_clip(path).seconds == pytest.approx(81 / 16, abs=0.01)
    assert clip.notes == ()


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.ts", "clip.h264", "clip.gif"])
@pytest.mark.parametrize("seconds", [0.001, 0.25, 2.0, 3.7, 60.0])
def test_the_last_seconds_are_what_the_whole_ends_in(
    tmp_path: Path, name: str, seconds: float
) -> None:
    is_gif = name.endswith(".gif")
    path = encode(
        tmp_path / name,
        grey_clip([2 * i for i in range(120)]),
        codec="gif" if is_gif else "libx264",
        pixels="gray" if is_gif else "yuv420p",
        gop=120 if name.endswith(".ts") else 30,
    )
    whole = read_clip(path).frames
    last = read_clip(path, last_seconds=seconds).frames
    count = min(len(whole), max(1, round(16 * seconds)))
    assert len(last) == count
    assert torch.equal(last, whole[-count:])


def test_the_last_seconds_are_sought_not_decoded_from_the_start(tmp_path: Path) -> None:
    path = encode(tmp_path / "clip.mp4", smooth_clip(180), gop=30)
    expected = read_clip(path, last_seconds=1).frames
    spoil_packet(path, 20)
    with pytest.raises(MediaError, match="damaged"):
        read_clip(path)
    assert torch.equal(read_clip(path, last_seconds=1).frames, expected)


def spoil_packet(path: Path, index: int, filler: bytes = b"\xff") -> None:
    """Overwrite the packet with that number, in the file's order."""
    with av.open(str(path)) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][index]
        position, size = packet.pos, packet.size
    data = bytearray(path.read_bytes())
    data[position : position + size] = filler * size
    path.write_bytes(data)


def test_a_seek_that_lands_too_late_is_made_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = encode(tmp_path / "clip.mp4", grey_clip([2 * i for i in range(120)]), gop=10)
    whole = read_clip(path).frames
    monkeypatch.setattr(clip_reader, "_SEEK_MARGIN", Fraction(-1))
    assert torch.equal(read_clip(path, last_seconds=2).frames, whole[-32:])


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.ts", "clip.h264"])
@pytest.mark.parametrize(("begin", "pictures"), [(0, 5), (0.25, 1), (2.0, 20), (3.0, 16)])
def test_a_piece_is_a_piece_of_the_whole(
    tmp_path: Path, name: str, begin: float, pictures: int
) -> None:
    path = encode(tmp_path / name, grey_clip([2 * i for i in range(120)]), gop=30)
    whole = read_clip(path).frames
    first = round(16 * begin)
    piece = read_piece(path, begin=begin, pictures=pictures)
    assert torch.equal(piece, whole[first : first + pictures])


def test_a_piece_is_sought_and_read_no_further_than_needed(tmp_path: Path) -> None:
    path = encode(tmp_path / "clip.mp4", smooth_clip(180), gop=30)
    expected = read_clip(path).frames[64:72]
    spoil_packet(path, 20)
    spoil_packet(path, 170)
    assert torch.equal(read_piece(path, begin=4, pictures=8), expected)


def test_a_piece_that_is_not_there_is_refused(tmp_path: Path) -> None:
    path = encode(tmp_path / "clip.mp4", smooth_clip(20), gop=30)
    with pytest.raises(MediaError, match=r"does not have 40 pictures from 0\.5 s on"):
        read_piece(path, begin=0.5, pictures=40)


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_senseless_last_seconds_are_refused(tmp_path: Path, seconds: float) -> None:
    path = write_clip(grey_clip([1, 2]), tmp_path / "clip.mp4")
    with pytest.raises(MediaError, match="positive"):
        read_clip(path, last_seconds=seconds)


# Clips: geometry, colour and what is said about them


def quadrants(height: int = 32, width: int = 48) -> Tensor:
    """One frame, black but for a white top left corner."""
    frames = torch.zeros(4, height, width, 3, dtype=torch.uint8)
    frames[:, : height // 2, : width // 2] = 255
    return frames


@pytest.mark.parametrize(
    ("matrix", "corner"),
    [
        # QuickTime's track matrix (a b c d): a point (x, y) lands on (a x + c y, b x + d y).
        ((0, 1, -1, 0), "top right"),
        ((-1, 0, 0, -1), "bottom right"),
        ((0, -1, 1, 0), "bottom left"),
    ],
)
def test_rotation_is_applied(
    tmp_path: Path, matrix: tuple[int, int, int, int], corner: str
) -> None:
    path = write_clip(quadrants(), tmp_path / "clip.mp4")
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 44
    a, b, c, d = (value * 65536 for value in matrix)
    data[start : start + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    frame = read_clip(path).frames[0]
    info = probe_clip(path)
    assert (info.height, info.width) == tuple(frame.shape[:2])
    assert (info.width < info.height) == (corner != "bottom right")
    vertical, horizontal = corner.split()
    row = 4 if vertical == "top" else -5
    column = 4 if horizontal == "left" else -5
    assert frame[row, column].min() > 240
    assert frame.float().mean() == pytest.approx(255 / 4, abs=6)


def test_non_square_pixels_are_widened(tmp_path: Path) -> None:
    path = encode(tmp_path / "clip.mp4", quadrants(), aspect=Fraction(4, 3))
    clip = read_clip(path)
    assert clip.frames.shape[1:3] == (32, 64)
    assert clip.frames[0, 8, 30].min() > 200
    assert clip.frames[0, 8, 34].max() < 55
    assert "not square" in clip.notes[0]
    info = probe_clip(path)
    assert (info.height, info.width) == (32, 64)


def test_sizes_are_covered_and_cropped_while_reading(tmp_path: Path) -> None:
    path = write_clip(smooth_clip(5, 64, 96), tmp_path / "clip.mp4")
    whole = read_clip(path).frames
    small = read_clip(path, size=(30, 20)).frames
    assert torch.equal(small, cover_and_crop(whole, 30, 20))


@pytest.mark.parametrize(
    ("height", "tag", "matrix"),
    [(64, None, 5), (720, None, 1), (64, 1, 1), (720, 5, 5)],
)
def test_the_matrix_follows_the_tag_and_without_one_the_height(
    tmp_path: Path, height: int, tag: int | None, matrix: int
) -> None:
    green = torch.tensor((30, 200, 60), dtype=torch.uint8).expand(2, height, 64, 3).contiguous()
    path = tmp_path / "clip.mkv"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=16, options={"crf": "1"})
        stream.height, stream.width, stream.pix_fmt = height, 64, "yuv420p"
        if tag is not None:
            stream.codec_context.colorspace = tag
        for picture in green.numpy():
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(
                format="yuv420p", dst_colorspace=matrix, dst_color_range=1
            )
            frame.colorspace = 2 if tag is None else tag
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    assert (read_clip(path).frames.int() - green.int()).abs().max() <= 4


@pytest.mark.parametrize("codec", ["libx264", "ffv1"])
def test_full_range_is_not_stretched(tmp_path: Path, codec: str) -> None:
    path = encode_full_range(tmp_path / "clip.mkv", [0, 16, 128, 235, 255], codec)
    assert levels_of(read_clip(path).frames) == pytest.approx([0, 16, 128, 235, 255], abs=2)


def encode_full_range(path: Path, levels: list[int], codec: str) -> Path:
    with av.open(str(path), "w") as output:
        stream = output.add_stream(codec, rate=16)
        if codec == "libx264":
            stream.options = {"crf": "1"}
        stream.height, stream.width, stream.pix_fmt = 32, 32, "yuv420p"
        stream.codec_context.color_range = 2
        for level in levels:
            planes = np.full((48, 32), level, np.uint8)
            planes[32:] = 128
            frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
            frame.color_range = 2
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def test_transparent_video_is_laid_on_white(tmp_path: Path) -> None:
    pictures = [Image.new("RGBA", (16, 16), (255, 0, 9 * index, 255)) for index in range(3)]
    for picture in pictures:
        picture.paste((0, 0, 0, 0), (0, 0, 8, 16))
    path = tmp_path / "clip.png"
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=125)
    frame = read_clip(path).frames[0]
    assert frame[8, 4].tolist() == [255, 255, 255]
    assert frame[8, 12].tolist() == [255, 0, 0]


def test_sound_hdr_and_interlacing_are_said(tmp_path: Path) -> None:
    plain = grey_clip([50] * 4, 64, 64)
    sound = encode(tmp_path / "sound.mp4", plain, sound=True)
    assert any("sound" in note for note in read_clip(sound).notes)
    assert probe_clip(sound).has_audio
    for transfer, label in ((16, "PQ"), (18, "HLG")):
        hdr = encode(tmp_path / f"{label}.mkv", plain, transfer=transfer)
        assert any(label in note for note in read_clip(hdr).notes)
    interlaced = encode(tmp_path / "interlaced.mkv", plain, interlaced=True)
    assert any("interlaced" in note for note in probe_clip(interlaced).notes)


# Clips: faults


def test_binary_files_and_pipes_are_read(tmp_path: Path) -> None:
    path = write_clip(grey_clip([10, 20, 30]), tmp_path / "clip.mp4")
    expected = read_clip(path).frames
    assert torch.equal(read_clip(BytesIO(path.read_bytes())).frames, expected)
    reader, writer = os.pipe()
    with os.fdopen(writer, "wb") as sink:
        sink.write(path.read_bytes())
    with os.fdopen(reader, "rb") as pipe:
        assert torch.equal(read_clip(pipe).frames, expected)


def test_non_utf8_and_colon_names_work(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9 http:x.mp4")
    write_clip(grey_clip([10, 20]), path)
    assert len(read_clip(path).frames) == 2


TRUNCATED = [
    ("clip.mp4", "libx264", "mp4", {"movflags": "+faststart"}, "yuv420p"),
    ("tail.mp4", "libx264", "mp4", {}, "yuv420p"),
    ("fragments.mp4", "libx264", "mp4", {"movflags": "frag_keyframe+empty_moov"}, "yuv420p"),
    ("clip.mkv", "libx264", "matroska", {}, "yuv420p"),
    ("clip.webm", "libvpx-vp9", "webm", {}, "yuv420p"),
    ("clip.avi", "mpeg4", "avi", {}, "yuv420p"),
    ("clip.gif", "gif", "gif", {}, "rgb8"),
    ("clip.png", "apng", "apng", {}, "rgb24"),
]


@pytest.mark.parametrize(("name", "codec", "container", "options", "pixels"), TRUNCATED)
def test_truncated_clips_raise_wherever_they_are_cut(
    tmp_path: Path, name: str, codec: str, container: str, options: dict[str, str], pixels: str
) -> None:
    path = encode(
        tmp_path / name,
        smooth_clip(33),
        time_base=Fraction(1, 16),
        rate=16,
        codec=codec,
        container=container,
        options=options,
        pixels=pixels,
    )
    data = path.read_bytes()
    assert len(read_clip(path).frames) == 33
    for share in (0.05, 0.3, 0.5, 0.75, 0.9):
        path.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(MediaError, match="cut short") as caught:
            read_clip(path)
        assert "\n" not in str(caught.value)
        assert str(path) in str(caught.value)
        with pytest.raises(MediaError):
            probe_clip(path)


def test_a_faststart_clip_cut_between_packets_raises(tmp_path: Path) -> None:
    path = write_clip(smooth_clip(33), tmp_path / "clip.mp4")
    with av.open(str(path)) as container:
        positions = sorted(packet.pos for packet in container.demux(video=0) if packet.size)
    data = path.read_bytes()
    path.write_bytes(data[: positions[-5]])
    with pytest.raises(MediaError, match="cut short"):
        read_clip(path)


def test_a_clip_with_a_spoilt_packet_raises(tmp_path: Path) -> None:
    path = write_clip(smooth_clip(33), tmp_path / "clip.mp4")
    spoil_packet(path, 16)
    with pytest.raises(MediaError, match="damaged"):
        read_clip(path)


@pytest.mark.parametrize("filler", [b"\0", b"\xff"])
@pytest.mark.parametrize(("name", "codec"), [("clip.avi", "mpeg4"), ("clip.mp4", "libx264")])
def test_a_clip_whose_last_packets_are_spoilt_raises(
    tmp_path: Path, name: str, codec: str, filler: bytes
) -> None:
    path = encode(tmp_path / name, smooth_clip(33), time_base=Fraction(1, 16), rate=16, codec=codec)
    for index in range(20, 33):
        spoil_packet(path, index, filler)
    with pytest.raises(MediaError, match="damaged"):
        read_clip(path)


def test_a_decoder_that_stops_early_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_clip(grey_clip([1] * 40), tmp_path / "clip.mp4")
    shown = clip_reader._shown
    monkeypatch.setattr(clip_reader, "_shown", lambda *a, **k: islice(shown(*a, **k), 30))
    with pytest.raises(MediaError, match="damaged"):
        read_clip(path)


def test_what_is_no_video_is_refused_in_one_line(tmp_path: Path) -> None:
    cases: dict[str, tuple[bytes | None, str]] = {
        "missing.mp4": (None, "No such file"),
        "empty.mp4": (b"", "is empty"),
        "text.mp4": (b"just some words\n" * 100, "no video"),
        "text.txt": (b"just some words\n" * 100, "no video"),
        "list.m3u8": (b"#EXTM3U\n#EXTINF:5,\nclip.mp4\n#EXT-X-ENDLIST\n", "no video"),
        "list.ffconcat": (b"ffconcat version 1.0\nfile clip.mp4\n", "no video"),
        "noise.mp4": (np.random.default_rng(0).bytes(20_000), "no video"),
    }
    write_clip(grey_clip([1, 2, 3]), tmp_path / "clip.mp4")
    for name, (data, reason) in cases.items():
        if data is not None:
            (tmp_path / name).write_bytes(data)
        for read in (read_clip, probe_clip, read_metadata):
            with pytest.raises(MediaError, match=reason) as caught:
                read(tmp_path / name)
            assert "\n" not in str(caught.value)
            assert name in str(caught.value)
    with pytest.raises(MediaError, match="is a directory"):
        read_clip(tmp_path)
    with pytest.raises(MediaError, match="device"):
        read_clip(Path("/dev/zero"))
    with pytest.raises(MediaError, match="NUL"):
        read_clip(Path("a\0b.mp4"))


@pytest.mark.parametrize("name", ["sound.m4a", "sound.mkv"])
def test_sound_alone_is_refused(tmp_path: Path, name: str) -> None:
    with av.open(str(tmp_path / name), "w", format="mp4" if name[-1] == "a" else None) as output:
        stream = output.add_stream("aac", rate=48_000)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), "fltp", "mono")
        silence.rate = 48_000
        output.mux(stream.encode(silence))
        output.mux(stream.encode(None))
    with pytest.raises(MediaError, match="only sound"):
        read_clip(tmp_path / name)


def test_a_clip_too_long_for_memory_is_refused_unless_made_smaller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_clip(grey_clip([1] * 40), tmp_path / "clip.mp4")
    monkeypatch.setattr("istar.media.clip_reader.MAX_CLIP_BYTES", 20 * 32 * 48 * 3)
    with pytest.raises(MediaError, match="memory"):
        read_clip(path)
    assert len(read_clip(path, last_seconds=1).frames) == 16
    assert len(read_clip(path, size=(16, 24)).frames) == 40


# Outputs appear whole or not at all


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_interrupted_clip_leaves_nothing(tmp_path: Path, kind: type[BaseException]) -> None:
    def write_and_fail() -> None:
        with ClipWriter(tmp_path / "clip.mp4", 64, 96) as writer:
            writer.write(smooth_clip(60))
            assert [path.suffix for path in tmp_path.iterdir()] == [".mp4"]
            assert not (tmp_path / "clip.mp4").exists()
            raise kind("stop")

    with pytest.raises(kind, match="stop"):
        write_and_fail()
    assert list(tmp_path.iterdir()) == []


def test_a_failed_replacement_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"old")

    def replace_and_stop() -> None:
        with ClipWriter(path, 32, 48, overwrite=True) as writer:
            writer.write(grey_clip([1, 2]))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replace_and_stop()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    write_clip(grey_clip([1, 2]), path, overwrite=True)
    assert len(read_clip(path).frames) == 2
    assert list(tmp_path.iterdir()) == [path]


def test_a_killed_process_leaves_no_file_under_the_name(tmp_path: Path) -> None:
    code = (
        "import sys, time, torch; from pathlib import Path; from istar.media import ClipWriter\n"
        "with ClipWriter(Path(sys.argv[1]), 64, 96) as writer:\n"
        "    writer.write(torch.zeros(200, 64, 96, 3, dtype=torch.uint8))\n"
        "    print('written', flush=True); time.sleep(60)\n"
    )
    target = tmp_path / "clip.mp4"
    process = subprocess.Popen([sys.executable, "-c", code, target], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"written\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert not target.exists()
    assert all(path.name.startswith(".clip.") for path in tmp_path.iterdir())


def test_nothing_is_replaced_unasked(tmp_path: Path) -> None:
    for path in (tmp_path / "clip.mp4", tmp_path / "picture.png"):
        path.write_bytes(b"precious")
    with pytest.raises(MediaError, match="exists"):
        write_clip(grey_clip([1]), tmp_path / "clip.mp4")
    with pytest.raises(MediaError, match="exists"):
        write_picture(grey_clip([1])[0], tmp_path / "picture.png")
    assert sorted(path.read_bytes() for path in tmp_path.iterdir()) == [b"precious"] * 2


@pytest.mark.parametrize("has_links", [True, False])
def test_a_name_taken_meanwhile_is_left_alone_and_the_work_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_links: bool
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    if not has_links:
        monkeypatch.setattr(os, "link", refuse)
    target = tmp_path / "clip.mp4"
    with ClipWriter(target, 32, 48) as writer:
        writer.write(grey_clip([1, 2, 3]))
        target.write_bytes(b"precious")
        (tmp_path / "clip-1.mp4").write_bytes(b"precious")
    assert target.read_bytes() == (tmp_path / "clip-1.mp4").read_bytes() == b"precious"
    assert writer.target == tmp_path / "clip-2.mp4"
    assert len(read_clip(writer.target).frames) == 3
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.95, 0.999])
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, share: float) -> None:
    noise = torch.randint(256, (12, 64, 96, 3), generator=torch.Generator().manual_seed(0))
    frames = noise.to(torch.uint8)
    for write, pixels, name in (
        (write_clip, frames, "clip.mp4"),
        (write_picture, frames[0], "picture.png"),
    ):
        size = write(pixels, tmp_path / name).stat().st_size
        (tmp_path / name).unlink()
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(size * share), hard))
        try:
            with pytest.raises(MediaError, match="File too large; free some space") as caught:
                write(pixels, tmp_path / name)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert "\n" not in str(caught.value)
        assert list(tmp_path.iterdir()) == []


# Names


def test_output_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def named(wanted: Path | None, overwrite: bool = False, suffix: str = ".mp4") -> Path:
        return output_path(wanted, default_stem="video", suffix=suffix, overwrite=overwrite)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert named(None) == Path("video-0001.mp4")
    Path("video-0001.mp4").touch()
    assert named(None) == Path("video-0002.mp4")
    assert named(tmp_path) == tmp_path / "video-0002.mp4"
    assert named(Path("~/cat.mp4")) == tmp_path / "cat.mp4"
    assert named(Path("cat")) == Path("cat.mp4")
    assert named(Path("CAT.MP4")) == Path("CAT.MP4")
    assert named(Path("cat.jpeg"), suffix=".png") == Path("cat.jpeg")
    Path("cat.mp4").touch()
    Path("cat-1.mp4").symlink_to("nowhere")
    assert named(Path("cat.mp4")) == Path("cat-2.mp4")
    assert named(Path("cat")) == Path("cat-2.mp4")
    assert named(Path("cat.mp4"), overwrite=True) == Path("cat.mp4")
    for wrong in ("cat.txt", "cat.png", "v1.0", "a\0.mp4", "~nobody-of-this-name/cat.mp4"):
        with pytest.raises(UsageError):
            named(Path(wrong))
    with pytest.raises(UsageError):
        named(Path("cat.mp4"), suffix=".png")
    for impossible in ("absent/cat.mp4", "/dev/null", "cat.mp4/x.mp4", "c" * 300 + ".mp4"):
        with pytest.raises(MediaError):
            named(Path(impossible))
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(MediaError, match="not writable"):
        named(Path("dog.mp4"))


def test_a_device_is_never_replaced(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo.png"
    os.mkfifo(fifo)
    with pytest.raises(MediaError, match="no plain file"):
        write_picture(grey_clip([1])[0], fifo, overwrite=True)
    assert list(tmp_path.iterdir()) == [fifo]


def test_long_names_get_short_temporary_ones(tmp_path: Path) -> None:
    target = tmp_path / ("é" * 120 + ".mp4")
    assert write_clip(grey_clip([1]), target) == target
    assert list(tmp_path.iterdir()) == [target]


# Pictures


def gradient(height: int = 40, width: int = 60) -> Tensor:
    return smooth_clip(1, height, width)[0]


@pytest.mark.parametrize(
    ("suffix", "least"), [(".png", float("inf")), (".jpg", 40), (".JPEG", 40), (".webp", 35)]
)
def test_pictures_come_back(tmp_path: Path, suffix: str, least: float) -> None:
    pixels = gradient()
    path = write_picture(pixels, tmp_path / f"picture{suffix}")
    picture = read_picture(path)
    assert picture.pixels.dtype == torch.uint8
    assert psnr(picture.pixels, pixels) >= least
    assert picture.notes == ()
    again = write_picture(pixels, tmp_path / f"again{suffix}")
    assert again.read_bytes() == path.read_bytes()


def test_wrong_pictures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="uint8"):
        write_picture(torch.zeros(4, 4, 3), tmp_path / "picture.png")
    with pytest.raises(UsageError):
        write_picture(gradient(), tmp_path / "picture.bmp")
    wide = torch.zeros(1, 70_000, 3, dtype=torch.uint8)
    with pytest.raises(MediaError, match="cannot write"):
        write_picture(wide, tmp_path / "picture.jpg")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    upright = gradient(40, 60).numpy()
    # Storing undoes what the tag asks the reader to do (EXIF 2.3, tag 0x0112).
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "picture.jpg"
    Image.fromarray(np.ascontiguousarray(stored)).save(path, quality=98, exif=exif)
    assert psnr(read_picture(path).pixels, torch.from_numpy(upright)) > 38


def test_transparency_is_laid_on_white_and_hides_no_colours(tmp_path: Path) -> None:
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[:2] = (255, 0, 0, 255)
    pixels[2:] = (0, 200, 0, 0)
    pixels[3] = (0, 0, 0, 51)
    Image.fromarray(pixels).save(tmp_path / "alpha.png")
    picture = read_picture(tmp_path / "alpha.png")
    assert [row[0].tolist() for row in picture.pixels] == [
        [255, 0, 0],
        [255, 0, 0],
        [255, 255, 255],
        [204, 204, 204],
    ]
    assert "transparent" in picture.notes[0]
    pixels[..., 3] = 255
    Image.fromarray(pixels).save(tmp_path / "opaque.png")
    assert read_picture(tmp_path / "opaque.png").notes == ()


def test_other_modes_become_rgb(tmp_path: Path) -> None:
    grey = Image.new("L", (3, 2), 77)
    palette = Image.new("P", (3, 2), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    with_alpha = Image.new("LA", (3, 2), (0, 0))
    cases = {
        "grey.png": (grey, {}, (77, 77, 77)),
        "bits.png": (Image.new("1", (3, 2), 1), {}, (255, 255, 255)),
        "palette.png": (palette, {}, (10, 20, 30)),
        "holes.png": (palette, {"transparency": 1}, (255, 255, 255)),
        "alpha.png": (with_alpha, {}, (255, 255, 255)),
        "grey.bmp": (grey, {}, (77, 77, 77)),
        "grey.tiff": (grey, {}, (77, 77, 77)),
        "palette.gif": (palette, {}, (10, 20, 30)),
        "rgb.avif": (Image.new("RGB", (16, 16), (10, 20, 30)), {"quality": 100}, (10, 20, 30)),
    }
    for name, (image, options, expected) in cases.items():
        image.save(tmp_path / name, **options)
        pixels = read_picture(tmp_path / name).pixels
        assert pixels.shape[-1] == 3
        assert (pixels.int() - torch.tensor(expected)).abs().max() <= 1, name


def test_cmyk_jpegs_have_their_colours(tmp_path: Path) -> None:
    for colour in ((255, 0, 0), (0, 255, 0), (255, 255, 255), (0, 0, 0)):
        path = tmp_path / "cmyk.jpg"
        Image.new("RGB", (16, 16), colour).convert("CMYK").save(path, quality=100)
        with Image.open(path) as image:
            assert image.mode == "CMYK"
        assert (read_picture(path).pixels.int() - torch.tensor(colour)).abs().max() <= 4


def png_bytes(
    depth: int, colour_type: int, rows: bytes, width: int, *, extra: bytes = b""
) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", width, 1, depth, colour_type, 0, 0, 0)
    body = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(b"\0" + rows))
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b"")


def test_16_bit_png_is_divided_by_257(tmp_path: Path) -> None:
    values = [0, 128, 129, 257, 32_768, 65_406, 65_407, 65_535]
    path = tmp_path / "deep.png"
    path.write_bytes(png_bytes(16, 0, struct.pack(">8H", *values), len(values)))
    expected = [(value + 128) // 257 for value in values]
    assert read_picture(path).pixels[0, :, 0].tolist() == expected
    path.write_bytes(png_bytes(16, 2, struct.pack(">6H", 0, 32_768, 65_535, 257, 514, 771), 2))
    assert read_picture(path).pixels[0].tolist() == [[0, 128, 255], [1, 2, 3]]
    path = tmp_path / "deep.tiff"
    Image.fromarray(np.array([values], np.uint16)).save(path)
    assert read_picture(path).pixels[0, :, 0].tolist() == expected


def test_16_bit_transparency_counts(tmp_path: Path) -> None:
    hole = b"\0\0\0\x02tRNS" + struct.pack(">H", 1000)
    hole += struct.pack(">I", zlib.crc32(hole[4:]))
    path = tmp_path / "deep.png"
    path.write_bytes(png_bytes(16, 0, struct.pack(">2H", 1000, 1001), 2, extra=hole))
    picture = read_picture(path)
    assert picture.pixels[0, :, 0].tolist() == [255, 4]
    assert "transparent" in picture.notes[0]


def test_the_first_of_several_pictures_is_used(tmp_path: Path) -> None:
    first, second = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    for name in ("moving.gif", "moving.webp", "moving.png", "pages.tiff"):
        options = {"lossless": True} if name.endswith("webp") else {}
        first.save(tmp_path / name, save_all=True, append_images=[second], **options)
        picture = read_picture(tmp_path / name)
        assert picture.pixels[0, 0].tolist() == [255, 0, 0]
        assert "2 pictures" in picture.notes[0]


def test_what_is_no_picture_is_refused_in_one_line(tmp_path: Path) -> None:
    write_picture(gradient(), tmp_path / "whole.png")
    write_picture(gradient(), tmp_path / "whole.jpg")
    write_picture(gradient(), tmp_path / "whole.webp")
    Image.new("F", (2, 2), 0.5).save(tmp_path / "float.tiff")
    Image.new("I", (2, 2), 70_000).save(tmp_path / "integer.tiff")
    Image.new("RGB", (20, 20)).save(tmp_path / "drawing.eps")
    Image.new("RGB", (20, 20)).save(tmp_path / "drawing.pdf")
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "empty.png").touch()
    for kind in ("png", "jpg", "webp"):
        data = (tmp_path / f"whole.{kind}").read_bytes()
        (tmp_path / f"cut.{kind}").write_bytes(data[: len(data) // 2])
        (tmp_path / f"end.{kind}").write_bytes(data[: len(data) - 40])
    cases = {
        "float.tiff": "white is unknown",
        "integer.tiff": "white is unknown",
        "drawing.eps": "no picture",
        "drawing.pdf": "no picture",
        "text.png": "no picture",
        "empty.png": "is empty",
        "missing.png": "No such file",
        **{
            f"{cut}.{kind}": "cut short|no picture"
            for cut in ("cut", "end")
            for kind in ("png", "jpg", "webp")
        },
    }
    for name, reason in cases.items():
        with pytest.raises(MediaError, match=reason) as caught:
            read_picture(tmp_path / name)
        assert "\n" not in str(caught.value)
        assert name in str(caught.value)
    with pytest.raises(MediaError, match="is a directory"):
        read_picture(tmp_path)


@pytest.mark.parametrize("side", [9_800, 10_100, 20_000, 60_000])
def test_the_pixel_cap_comes_before_decoding_and_without_warnings(
    tmp_path: Path, side: int
) -> None:
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + header
    chunk += struct.pack(">I", zlib.crc32(chunk[4:]))
    path = tmp_path / "bomb.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 9) + b"IDAT" + b"123456789")
    # Below the cap, but above Pillow's warning, the missing data is what is wrong.
    reason = "cut short" if side == 9_800 else "million pixels"
    with pytest.raises(MediaError, match=reason):
        read_picture(path)


def test_a_damaged_exif_block_does_not_cost_the_picture(tmp_path: Path) -> None:
    path = tmp_path / "picture.jpg"
    Image.fromarray(gradient().numpy()).save(path, exif=b"Exif\0\0II*\0\xff\xff\xff\x7fjunk")
    assert read_picture(path).pixels.shape == (40, 60, 3)


def test_binary_pictures_are_read() -> None:
    buffer = BytesIO()
    Image.new("RGB", (4, 4), (1, 2, 3)).save(buffer, "PNG")
    assert read_picture(buffer).pixels[0, 0].tolist() == [1, 2, 3]


# Fitting


def test_the_right_size_is_left_alone() -> None:
    pixels = gradient()
    assert cover_and_crop(pixels, 40, 60) is pixels


def test_covering_crops_the_centre() -> None:
    columns = torch.arange(90).div(30, rounding_mode="floor").mul(100).to(torch.uint8)
    wide = columns[None, :, None].repeat(30, 1, 3)
    assert torch.equal(cover_and_crop(wide, 30, 30), wide[:, 30:60])
    tall = wide.transpose(0, 1).contiguous()
    assert torch.equal(cover_and_crop(tall, 30, 30), tall[30:60])
    assert (cover_and_crop(wide, 10, 6)[:, 1:-1].int() - 100).abs().max() <= 3


@pytest.mark.parametrize(
    ("old", "new"),
    [((40, 60), (17, 90)), ((40, 61), (40, 30)), ((61, 33), (480, 848)), ((7, 9), (3, 5))],
)
def test_fitting_is_the_released_references_and_any_leading_sizes_do(
    old: tuple[int, int], new: tuple[int, int]
) -> None:
    clip = smooth_clip(3, *old)
    height, width = new
    scale = max(Fraction(height, old[0]), Fraction(width, old[1]))
    scaled = (int(old[1] * scale), int(old[0] * scale))
    left, top = (scaled[0] - width) // 2, (scaled[1] - height) // 2
    expected = []
    for frame in clip:
        image = Image.fromarray(frame.numpy()).resize(scaled, Image.Resampling.LANCZOS)
        expected.append(np.asarray(image)[top : top + height, left : left + width])
    assert np.array_equal(cover_and_crop(clip, *new).numpy(), np.stack(expected))
    assert torch.equal(cover_and_crop(clip[0], *new), cover_and_crop(clip[None], *new)[0, 0])


def test_slivers_are_refused() -> None:
    with pytest.raises(MediaError, match="crop it first"):
        cover_and_crop(torch.zeros(1, 60_000, 3, dtype=torch.uint8), 480, 848)


# Texts in files

SETTINGS = {
    "title": "猫 and \N{CAT FACE} \u202emirrored",
    "comment": json.dumps({"seed": 2**64 - 1, "prompt": 'a "cat"\n; # = \\'}),
}


@pytest.mark.parametrize("name", ["clip.mp4", "picture.png", "picture.jpg", "picture.webp"])
@pytest.mark.parametrize("more", [{}, {"istar_seed": "7", "own": "x"}])
def test_texts_come_back(tmp_path: Path, name: str, more: dict[str, str]) -> None:
    metadata = {**SETTINGS, **more}
    path = write_any(tmp_path / name, metadata)
    assert read_metadata(path) == metadata
    assert read_metadata(BytesIO(path.read_bytes())) == metadata


def write_any(path: Path, metadata: dict[str, str]) -> Path:
    if path.suffix == ".mp4":
        return write_clip(grey_clip([1, 2]), path, metadata=metadata)
    return write_picture(gradient(), path, metadata=metadata)


@pytest.mark.parametrize("name", ["clip.mp4", "picture.png", "picture.jpg", "picture.webp"])
def test_awkward_texts_do_not_break_the_file(tmp_path: Path, name: str) -> None:
    path = write_any(tmp_path / name, {"title": "a\0b\udce9c", "comment": "x", "\0": "nothing"})
    assert read_metadata(path) == {"title": "ab?c", "comment": "x"}


def test_long_texts_come_back_but_for_jpeg(tmp_path: Path) -> None:
    metadata = {"title": "short", "comment": "猫" * 100_000}
    for name in ("clip.mp4", "picture.png", "picture.webp"):
        assert read_metadata(write_any(tmp_path / name, metadata)) == metadata
    path = write_any(tmp_path / "picture.jpg", metadata)
    assert read_metadata(path) == {"title": "short"}


def test_foreign_texts_do_not_break_reading(tmp_path: Path) -> None:
    path = write_clip(grey_clip([1, 2]), tmp_path / "clip.mp4", metadata={"title": "caf??"})
    path.write_bytes(path.read_bytes().replace(b"caf??", b"caf\xe9!"))
    assert read_metadata(path)["title"].startswith("caf")
    assert len(read_clip(path).frames) == 2
    info = PngImagePlugin.PngInfo()
    info.add_text("Author", "somebody")
    Image.new("RGB", (2, 2)).save(tmp_path / "foreign.png", pnginfo=info)
    assert read_metadata(tmp_path / "foreign.png") == {"Author": "somebody"}
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = b"ASCII\0\0\0no json"
    Image.new("RGB", (2, 2)).save(tmp_path / "foreign.jpg", exif=exif)
    assert read_metadata(tmp_path / "foreign.jpg") == {}


def test_public_names_are_sorted_and_there() -> None:
    assert media.__all__ == sorted(media.__all__)
    assert all(hasattr(media, name) for name in media.__all__)


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

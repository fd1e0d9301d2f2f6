"""Orientation, shape and colour of a clip's frames, and the notes about them."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from istar.errors import MediaError
from istar.media import cover_and_crop, probe_clip, read_clip, write_clip
from media_files import encode, grey_clip, levels_of, smooth_clip

DATA = Path(__file__).parent / "data"
COLOURS = {
    "red": (254, 0, 0),
    "green": (0, 254, 0),
    "blue": (0, 0, 254),
    "yellow": (254, 254, 0),
}


def corners(frame: Tensor) -> str:
    """The colours of a frame's corners: top left and right, bottom left and right."""
    found = []
    for row, column in ((8, 8), (8, -8), (-8, 8), (-8, -8)):
        pixel = frame[row, column].float()
        distance = {name: (pixel - torch.tensor(of)).norm() for name, of in COLOURS.items()}
        found.append(min(distance, key=lambda name: distance[name]))
    return " ".join(found)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("upright_reference.mp4", "red green blue yellow"),
        ("mirror_h.mp4", "green red yellow blue"),
        ("mirror_v.mp4", "blue yellow red green"),
        ("sei_rotate90.mp4", "green yellow red blue"),
        ("second_stream_is_default.mkv", "red green blue yellow"),
    ],
)
def test_the_whole_orientation_of_the_default_stream_is_applied_to_every_frame(
    name: str, expected: str
) -> None:
    clip = read_clip(DATA / name)
    assert {corners(frame) for frame in clip.frames} == {expected}
    info = probe_clip(DATA / name)
    assert (info.height, info.width) == tuple(clip.frames.shape[1:3])


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        # QuickTime's track matrix (a b c d): a point (x, y) lands on (a x + c y, b x + d y).
        ((0, 1, -1, 0), "blue red yellow green"),
        ((-1, 0, 0, -1), "yellow blue green red"),
        ((0, -1, 1, 0), "green yellow red blue"),
        ((0, 1, 1, 0), "red blue green yellow"),
        ((0, -1, -1, 0), "yellow green blue red"),
    ],
)
def test_turns_and_transpositions_are_applied(
    tmp_path: Path, matrix: tuple[int, int, int, int], expected: str
) -> None:
    data = bytearray((DATA / "upright_reference.mp4").read_bytes())
    start = data.index(b"tkhd") + 44
    a, b, c, d = (value * 65536 for value in matrix)
    data[start : start + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path = tmp_path / "clip.mp4"
    path.write_bytes(data)
    frame = read_clip(path).frames[0]
    assert corners(frame) == expected
    assert frame.shape == ((96, 160, 3) if a else (160, 96, 3))


def test_non_square_pixels_are_widened(tmp_path: Path) -> None:
    frames = torch.zeros(4, 32, 48, 3, dtype=torch.uint8)
    frames[:, :16, :24] = 255
    path = encode(tmp_path / "clip.mp4", frames, aspect=Fraction(4, 3))
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
    assert torch.equal(read_clip(path, size=(30, 20)).frames, cover_and_crop(whole, 30, 20))


@pytest.mark.parametrize(("height", "colorspace"), [(64, 2), (720, 2), (64, 1), (720, 5)])
def test_the_matrix_follows_the_tag_and_without_one_the_height(
    tmp_path: Path, height: int, colorspace: int
) -> None:
    green = torch.tensor((30, 200, 60), dtype=torch.uint8).expand(2, height, 64, 3).contiguous()
    path = encode(tmp_path / "clip.mkv", green, rate=16, colorspace=colorspace)
    assert (read_clip(path).frames.int() - green.int()).abs().max() <= 4


def test_an_unknown_matrix_is_named() -> None:
    for read in (read_clip, probe_clip):
        with pytest.raises(MediaError, match="unsupported colour matrix"):
            read(DATA / "ycgco.mp4")


@pytest.mark.parametrize("codec", ["libx264", "ffv1"])
def test_full_range_is_not_stretched(tmp_path: Path, codec: str) -> None:
    levels, path = [0, 16, 128, 235, 255], tmp_path / "clip.mkv"
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
    assert levels_of(read_clip(path).frames) == pytest.approx(levels, abs=2)


def test_transparent_video_is_laid_on_white(tmp_path: Path) -> None:
    pictures = [Image.new("RGBA", (16, 16), (255, 0, 9 * index, 255)) for index in range(3)]
    for picture in pictures:
        picture.paste((0, 0, 0, 0), (0, 0, 8, 16))
    path = tmp_path / "clip.png"
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=125)
    frame = read_clip(path).frames[0]
    assert frame[8, 4].tolist() == [255, 255, 255]
    assert frame[8, 12].tolist() == [255, 0, 0]


@pytest.mark.parametrize(
    ("options", "note"),
    [
        ({"transfer": 16}, "PQ"),
        ({"transfer": 18}, "HLG"),
        ({"interlaced": True}, "interlaced"),
    ],
)
def test_what_is_lost_is_said(tmp_path: Path, options: dict[str, object], note: str) -> None:
    path = encode(tmp_path / "clip.mkv", grey_clip([50] * 4, 64, 64), **options)
    (said,) = read_clip(path).notes
    assert note in said
    assert probe_clip(path).notes == (said,)


def test_sound_is_known_without_a_note(tmp_path: Path) -> None:
    for has_sound in (True, False):
        path = encode(tmp_path / "clip.mkv", grey_clip([50] * 4, 64, 64), sound=has_sound)
        assert (probe_clip(path).has_sound, probe_clip(path).notes) == (has_sound, ())


@pytest.mark.parametrize("name", ["vp8_alpha.webm", "vp9_alpha.webm"])
def test_transparency_beside_the_main_stream_is_laid_on_white(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = read_clip(DATA / name)
    assert clip.frames[:, 10:30, 90:].min() == 255
    assert clip.frames[0, 10, 10].tolist() == pytest.approx([255, 0, 0], abs=8)
    assert clip.notes == ()
    monkeypatch.setattr("istar.media.clip_container._ALPHA_DECODERS", {})
    assert any("transparency is left out" in note for note in read_clip(DATA / name).notes)


TURNED = {
    (1, 0, 0, 1): "red green blue yellow",
    (-1, 0, 0, 1): "green red yellow blue",
    (1, 0, 0, -1): "blue yellow red green",
    (-1, 0, 0, -1): "yellow blue green red",
    (0, 1, -1, 0): "blue red yellow green",
    (0, -1, 1, 0): "green yellow red blue",
    (0, 1, 1, 0): "red blue green yellow",
    (0, -1, -1, 0): "yellow green blue red",
}
NAMES = {(1, 0, 0): "red", (0, 1, 0): "green", (0, 0, 1): "blue", (1, 1, 0): "yellow"}


@pytest.mark.parametrize("matrix", TURNED)
def test_the_whole_display_matrix_counts(tmp_path: Path, matrix: tuple[int, int, int, int]) -> None:
    data = (DATA / "upright_reference.mp4").read_bytes()
    at = data.index(b"tkhd") + 44  # the nine numbers of a version-0 track header
    a, b, c, d = (number << 16 for number in matrix)
    path = tmp_path / "clip.mp4"
    path.write_bytes(
        data[:at] + struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30) + data[at + 36 :]
    )
    frame = read_clip(path).frames[0].permute(2, 0, 1)[None].float()
    corners = torch.nn.functional.adaptive_avg_pool2d(frame, 4)[0, :, ::3, ::3].flatten(1).T
    assert (
        " ".join(NAMES[tuple((corner > 128).int().tolist())] for corner in corners)
        == TURNED[matrix]
    )

"""Clips in every format that istar writes, looked into with the libraries that others use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from istar.clip_format import CLIP_FORMATS, ClipEncoding, Preset
from istar.errors import MediaError, UsageError
from istar.media import ClipWriter, open_clip_writer, read_clip, write_clip
from media_files import psnr, smooth_clip, texts_in

ANIMATIONS = ("clip.gif", "clip.webp", "clip.apng")
NAMES = ("clip.mp4", "clip.webm", *ANIMATIONS, "clip/%04d.png")
LOWEST_PSNR = {"clip.gif": 25.0, "clip.apng": float("inf"), "clip/%04d.png": float("inf")}


def files_of(path: Path) -> list[Path]:
    return sorted(path.iterdir()) if path.is_dir() else [path]


def pictures_by_pillow(path: Path) -> Iterator[tuple[Tensor, float]]:
    """The pictures of an animation, and how many milliseconds each stays."""
    with Image.open(path) as animation:
        for number in range(animation.n_frames):
            animation.seek(number)
            animation.load()
            pixels = torch.from_numpy(np.array(animation.convert("RGB")))
            yield pixels, animation.info["duration"]


def test_every_format_is_tested() -> None:
    assert {Path(name).suffix for name in NAMES} == {*CLIP_FORMATS, ".png"}


@pytest.mark.parametrize("name", NAMES)
def test_pictures_and_texts_come_back(tmp_path: Path, name: str) -> None:
    frames = smooth_clip(20)
    texts = {"title": "a café ☃", "comment": '{"istar": {"seed": 7}}'}
    path = write_clip(frames, tmp_path / name, metadata=texts)
    clip = read_clip(path)
    assert (clip.frames.shape, clip.notes) == (frames.shape, ())
    pairs = zip(clip.frames, frames, strict=True)
    assert min(psnr(*pair) for pair in pairs) >= LOWEST_PSNR.get(name, 33)
    assert [texts_in(file) for file in files_of(path)] == [texts] * len(files_of(path))
    assert len(files_of(path)) == (20 if path.is_dir() else 1)


@pytest.mark.parametrize("name", ANIMATIONS)
def test_animations_play_for_ever_and_as_long_in_pillow(tmp_path: Path, name: str) -> None:
    frames = smooth_clip(16)
    path = write_clip(frames, tmp_path / name)
    shown = list(pictures_by_pillow(path))
    assert sum(milliseconds for _, milliseconds in shown) == pytest.approx(1000, abs=5)
    lowest = LOWEST_PSNR.get(name, 33)
    assert min(psnr(one, own) for (one, _), own in zip(shown, frames, strict=True)) >= lowest
    with Image.open(path) as animation:
        assert animation.info["loop"] == 0


@pytest.mark.parametrize("name", ANIMATIONS)
def test_long_texts_change_no_pixel_of_an_animation(tmp_path: Path, name: str) -> None:
    side = 120 if name == "clip.gif" else 400  # of noise over a megabyte, but GIF takes its time
    frames = torch.randint(256, (4, side, side, 3), generator=torch.Generator().manual_seed(0))
    frames = frames.to(torch.uint8)
    plain = write_clip(frames, tmp_path / f"plain-{name}")
    texts = {"comment": "x" * 3001}
    target = write_clip(frames, tmp_path / name, metadata=texts)
    assert texts_in(target) == texts
    shown = zip(pictures_by_pillow(target), pictures_by_pillow(plain), strict=True)
    assert all(torch.equal(one, other) for (one, _), (other, _) in shown)
    assert torch.equal(read_clip(target).frames, read_clip(plain).frames)


@pytest.mark.parametrize("name", NAMES[1:])
def test_pieces_and_the_whole_give_equal_bytes(tmp_path: Path, name: str) -> None:
    frames = smooth_clip(9)
    whole = write_clip(frames, tmp_path / f"whole-{name}", metadata={"title": "a cat"})
    target = tmp_path / name
    with open_clip_writer(target, 64, 96, metadata={"title": "a cat"}) as writer:
        for piece in frames.split(4):
            writer.write(piece)
    pairs = zip(files_of(writer.target), files_of(whole), strict=True)
    assert all(one.read_bytes() == other.read_bytes() for one, other in pairs)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name == "clip.gif" else ())
        for name in NAMES[:-1]
    ],
)
def test_the_speed_changes_times_alone(tmp_path: Path, name: str) -> None:
    frames = smooth_clip(24)
    plain = write_clip(frames, tmp_path / f"plain-{name}")
    path = write_clip(frames, tmp_path / name, encoding=ClipEncoding(fps=24))
    if name in ANIMATIONS:
        shown = list(pictures_by_pillow(path))
        assert sum(milliseconds for _, milliseconds in shown) == pytest.approx(1000, abs=7)
        pairs = zip(shown, pictures_by_pillow(plain), strict=True)
        assert all(torch.equal(one, other) for (one, _), (other, _) in pairs)
        return
    with av.open(str(path)) as new:
        assert new.duration == pytest.approx(av.time_base, rel=0.01)
        assert new.streams.video[0].average_rate == 24
        shown = [frame.to_ndarray(format="rgb24") for frame in new.decode(video=0)]
    pairs = zip(torch.from_numpy(np.stack(shown)), frames, strict=True)
    assert min(psnr(*pair) for pair in pairs) > 30


def test_uncommon_speeds_are_exact(tmp_path: Path) -> None:
    path = write_clip(smooth_clip(24), tmp_path / "film.mp4", encoding=ClipEncoding(fps=23.976))
    with av.open(str(path)) as container:
        assert float(container.streams.video[0].average_rate) == pytest.approx(23.976, rel=1e-6)


@pytest.mark.parametrize("name", NAMES[:2])
def test_crf_and_preset_reach_the_encoder(tmp_path: Path, name: str) -> None:
    frames = smooth_clip(12, 128, 192)
    sizes = []
    for number, encoding in enumerate(
        (ClipEncoding(crf=10), ClipEncoding(crf=45), ClipEncoding(preset=Preset.ULTRAFAST), None)
    ):
        path = write_clip(frames, tmp_path / f"{number}{name}", encoding=encoding)
        sizes.append(path.stat().st_size)
    fine, coarse, quick, usual = sizes
    assert fine > usual > coarse
    assert quick != usual


@pytest.mark.parametrize("preset", Preset)
def test_every_preset_is_known_to_both_encoders(tmp_path: Path, preset: Preset) -> None:
    for name in NAMES[:2]:
        path = write_clip(smooth_clip(2), tmp_path / name, encoding=ClipEncoding(preset=preset))
        assert len(read_clip(path).frames) == 2


@pytest.mark.parametrize(
    ("name", "encoding", "said"),
    [
        ("clip.gif", ClipEncoding(crf=20), "GIF has no rate factor .crf.; MP4 and WebM do"),
        ("clip.apng", ClipEncoding(preset=Preset.FAST), "APNG has no preset"),
        ("clip.mp4", ClipEncoding(crf=52), "of MP4 is 1 to 51, not 52"),
        ("clip.webm", ClipEncoding(crf=0), "of WebM is 1 to 63, not 0"),
        ("clip.gif", ClipEncoding(fps=60), "GIF plays 50 pictures a second at most"),
        ("clip/%d.png", ClipEncoding(fps=24), "a directory of pictures has no speed"),
        ("clip.avi", None, r"must end in .mp4 or .webm or .gif or .webp or .apng, or hold"),
        ("clip.png", None, "must end in"),
    ],
)
def test_what_a_format_does_not_know_is_refused(
    tmp_path: Path, name: str, encoding: ClipEncoding | None, said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        write_clip(smooth_clip(2), tmp_path / name, encoding=encoding)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fps", [0, -1, 61, float("nan"), float("inf")])
def test_impossible_speeds_are_refused(fps: float) -> None:
    with pytest.raises(UsageError, match="1 to 60 pictures a second"):
        ClipEncoding(fps=fps)


@pytest.mark.parametrize("name", NAMES[1:])
def test_an_interrupted_clip_leaves_nothing(tmp_path: Path, name: str) -> None:
    target = tmp_path / name

    def write_and_fail() -> None:
        with open_clip_writer(target, 64, 96) as writer:
            writer.write(smooth_clip(20))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_and_fail()
    with pytest.raises(MediaError, match="no frames"), open_clip_writer(target, 64, 96):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_webm_is_continued_and_what_was_there_is_not_encoded_again(tmp_path: Path) -> None:
    parts = smooth_clip(40).split([17, 12, 11])
    path = write_clip(parts[0], tmp_path / "clip.webm")
    shown = read_clip(path).frames
    for frames in parts[1:]:
        with ClipWriter(path, 64, 96, after=path, overwrite=True) as writer:
            writer.write(frames)
        clip = read_clip(path)
        assert (clip.notes, len(clip.frames)) == ((), len(shown) + len(frames))
        assert torch.equal(clip.frames[: len(shown)], shown)
        pairs = zip(clip.frames[len(shown) :], frames, strict=True)
        assert min(psnr(*pair) for pair in pairs) > 33
        shown = clip.frames


@pytest.mark.parametrize("name", NAMES[2:])
def test_animations_and_pictures_are_not_continued(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="continued"):
        open_clip_writer(tmp_path / name, 64, 96, after=tmp_path / "clip.mp4")


def test_animations_may_have_odd_sizes(tmp_path: Path) -> None:
    for name in ANIMATIONS:
        frames = smooth_clip(3, 33, 47)
        assert read_clip(write_clip(frames, tmp_path / name)).frames.shape == frames.shape

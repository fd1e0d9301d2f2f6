"""The sound of a video, copied beside new pictures."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from istar.errors import MediaError, UsageError
from istar.media import ClipWriter, check_sound, probe_clip, write_clip
from media_files import encode, grey_clip, smooth_clip

RATE = 48_000


def with_tone(path: Path, *, seconds: float, codec: str = "aac", begins: float = 0) -> Path:
    """A video of a second whose tone jumps up in the middle of it; another writer than istar."""
    samples = np.arange(int(seconds * RATE)) / RATE
    tone = (np.sin(2 * np.pi * 440 * samples) * np.where(samples < 0.5, 0.05, 0.6)).astype("f4")
    with av.open(str(path), "w") as output:
        video = output.add_stream("libx264" if path.suffix != ".webm" else "libvpx-vp9", rate=16)
        video.width, video.height, video.pix_fmt = 48, 32, "yuv420p"
        audio = output.add_stream(codec, rate=RATE)
        audio.layout = "mono"
        for index, picture in enumerate(grey_clip([10] * 16).numpy()):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = index + round(begins * 16), Fraction(1, 16)
            output.mux(video.encode(frame))
        output.mux(video.encode(None))
        fifo = av.AudioFifo()
        depth = {"s16": 15, "s16p": 15, "s32": 31, "s32p": 31}.get(audio.codec_context.format.name)
        if depth:
            tone = (tone.astype("f8") * 2**depth).astype(f"i{(depth + 1) // 8}")
        whole = av.AudioFrame.from_ndarray(tone[None], audio.codec_context.format.name, "mono")
        whole.rate, whole.pts, whole.time_base = RATE, 0, Fraction(1, RATE)
        fifo.write(whole)
        size = audio.codec_context.frame_size or 1024
        while piece := fifo.read(size, partial=True):
            output.mux(audio.encode(piece))
        output.mux(audio.encode(None))
    return path


def heard(path: Path) -> tuple[np.ndarray, float]:
    """Samples of a file's sound, and when the first one is heard."""
    with av.open(str(path)) as container:
        frames = list(container.decode(audio=0))
    samples = np.concatenate([frame.to_ndarray().reshape(1, -1)[0] for frame in frames])
    return samples.astype(float), float(frames[0].pts * frames[0].time_base)


def jump(path: Path) -> float:
    """When the tone becomes loud, in seconds."""
    samples, begin = heard(path)
    loud = np.abs(samples) > 0.3 * np.abs(samples).max()
    return begin + int(loud.argmax()) / RATE


def written(target: Path, source: Path, pictures: int) -> ClipWriter:
    with ClipWriter(target, 64, 96, sound=source) as writer:
        for piece in smooth_clip(pictures).split(5):
            writer.write(piece)
    return writer


@pytest.mark.parametrize(
    ("source", "codec", "target"),
    [
        ("a.mp4", "aac", "b.mp4"),
        ("a.mov", "alac", "b.mp4"),
        ("a.mkv", "libopus", "b.webm"),
        ("a.webm", "libopus", "b.mp4"),
        ("a.mkv", "flac", "b.mp4"),
    ],
)
def test_the_sound_is_copied_in_time(tmp_path: Path, source: str, codec: str, target: str) -> None:
    original = with_tone(tmp_path / source, seconds=1, codec=codec)
    writer = written(tmp_path / target, original, 32)
    assert jump(writer.target) == pytest.approx(jump(original), abs=0.01)
    copied, own = heard(writer.target)[0], heard(original)[0]
    assert len(copied) == pytest.approx(len(own), abs=2048)
    assert probe_clip(writer.target).seconds == pytest.approx(2, abs=0.01)
    assert writer.sound is not None
    assert (float(writer.sound.end), writer.sound.is_cut) == (pytest.approx(1, abs=0.05), False)


def test_it_starts_with_the_first_picture(tmp_path: Path) -> None:
    original = with_tone(tmp_path / "a.mkv", seconds=1, begins=0.25)
    writer = written(tmp_path / "b.mp4", original, 24)
    assert jump(writer.target) == pytest.approx(0.25, abs=0.01)


def test_what_is_longer_than_the_pictures_is_cut(tmp_path: Path) -> None:
    original = with_tone(tmp_path / "a.mp4", seconds=3)
    writer = written(tmp_path / "b.mp4", original, 32)
    samples, begin = heard(writer.target)
    assert begin + len(samples) / RATE == pytest.approx(2, abs=0.05)
    assert writer.sound is not None
    assert writer.sound.is_cut


def test_what_cannot_be_copied_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    silent = write_clip(smooth_clip(4), tmp_path / "silent.mp4")
    spoken = with_tone(tmp_path / "spoken.mp4", seconds=1)
    pcm = with_tone(tmp_path / "pcm.mov", seconds=1, codec="pcm_s16le")
    broadcast = encode(tmp_path / "broadcast.ts", smooth_clip(4), sound=True)
    before = sorted(tmp_path.iterdir())
    for source, name, kind, said in (
        (silent, "b.mp4", MediaError, "no sound that could be kept"),
        (spoken, "b.gif", UsageError, "GIF holds no sound; choose MP4 or WebM"),
        (spoken, "p/%d.png", UsageError, "a directory of pictures holds no sound"),
        (spoken, "b.webm", MediaError, r"\(aac\) cannot be copied into WebM"),
        (pcm, "b.mp4", MediaError, r"\(pcm_s16le\) cannot be copied into MP4"),
        (broadcast, "b.mp4", MediaError, "cannot be copied into MP4"),
    ):
        with pytest.raises(kind, match=said):
            check_sound(source, tmp_path / name)
        if "%" not in name:
            with pytest.raises(kind, match=said):
                written(tmp_path / name, source, 4)
    assert sorted(tmp_path.iterdir()) == before

"""Formats, speed, sound and single pictures, on the command line."""

from __future__ import annotations

import json
import shlex
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import NamedTuple

import av
import pytest
import torch
from PIL import Image

from istar.cli.app import run as istar
from istar.media import read_clip, read_picture, write_clip
from media_files import encode, grey_clip, smooth_clip, texts_in
from processes import run_here


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


def run(*arguments: str) -> Done:
    done = run_here(*arguments)
    return Done(done.returncode, done.stdout.decode(), done.stderr.decode())


pytestmark = pytest.mark.usefixtures("quick_tiny")
TINY = ("--model", "tiny", "--seconds", "1", "--seed", "3", "--no-take")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("clip.webm", ["--crf", "40", "--preset", "ultrafast", "--fps", "24"]),
        ("clip.gif", ["--fps", "24"]),
        ("clip.webp", ["--fps", "24"]),
        ("clip.apng", ["--fps", "24"]),
    ],
)
def test_a_video_is_made_in_the_format_of_its_name(
    tmp_path: Path, name: str, options: list[str]
) -> None:
    done = run("t2v", "a red circle", *TINY, "-o", str(tmp_path / name), *options)
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / name}\n"), done.stderr
    texts = texts_in(tmp_path / name)
    assert texts["title"] == "a red circle"
    assert json.loads(texts["comment"])["istar"]["fps"] == 24
    looked = run("info", "--json", str(tmp_path / name))
    found = json.loads(looked.stdout)
    assert found["istar"]["seed"] == 3
    assert found["istar"]["fps"] == 24


def test_a_video_is_made_as_numbered_pictures(tmp_path: Path) -> None:
    pattern = str(tmp_path / "circle" / "%04d.png")
    done = run("t2v", "a red circle", *TINY, "-o", pattern)
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'circle'}\n"), done.stderr
    whole = run("t2v", "a red circle", *TINY, "-o", str(tmp_path / "clip.apng"))
    assert whole.returncode == 0, whole.stderr
    pictures = sorted((tmp_path / "circle").iterdir())
    frames = read_clip(tmp_path / "clip.apng").frames
    assert [path.name for path in pictures[:2]] == ["0001.png", "0002.png"]
    assert torch.equal(torch.stack([read_picture(path).pixels for path in pictures]), frames)
    comment = json.loads(texts_in(pictures[-1])["comment"])["istar"]
    assert (comment["seed"], "fps" in comment) == (3, False)


def test_what_a_format_does_not_know_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", TextIOWrapper(BytesIO(b"a cat\n")))
    video = encode(tmp_path / "spoken.mp4", smooth_clip(16), rate=16, sound=True)
    for arguments, said in (
        (("t2v", "x", "--crf", "20", "-o", "a.gif"), "GIF has no rate factor (crf)"),
        (("t2v", "x", "--fps", "0", "-o", "a.mp4"), "1 to 60 pictures a second, not 0"),
        (("t2v", "x", "-o", "a.png"), "its name must end in .mp4 or .webm"),
        (("t2v", "x", "-o", "%d.png"), "a directory of their own"),
        (("interact", "-o", "a.gif", "--script", "-"), "which GIF does not allow"),
        (("extend", str(video), "--audio", "copy", "-o", "a.gif"), "GIF holds no sound"),
        (("extend", str(video), "--audio", "copy", "--fps", "8"), "--audio drop"),
        (("extend", "-", "--audio", "copy"), "stdin is read once"),
    ):
        done = run(*arguments, "--model", "tiny")
        assert done.returncode == 2, done.stderr
        assert said in done.stderr
        assert done.stderr.count("\n") <= 2
    assert [path.name for path in tmp_path.iterdir()] == ["spoken.mp4"]


def test_sound_is_kept_where_it_is_asked_for(tmp_path: Path) -> None:
    video = encode(tmp_path / "spoken.mp4", smooth_clip(16), rate=16, sound=True)
    for audio, said, streams in (
        ("copy", "is kept; after", 1),
        ("drop", "its sound is left out", 0),
    ):
        target = tmp_path / f"{audio}.mp4"
        done = run("extend", str(video), *TINY, "--audio", audio, "-o", str(target))
        assert done.returncode == 0, done.stderr
        assert said in done.stderr
        assert ("left out" in done.stderr) == (audio == "drop")
        with av.open(str(target)) as container:
            assert len(container.streams.audio) == streams


def test_sound_comes_along_when_an_extension_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)

    def sounds(name: str) -> int:
        with av.open(name) as container:
            return len(container.streams.audio)

    video = encode(tmp_path / "spoken.mp4", smooth_clip(16), rate=16, sound=True)
    made = ["extend", "spoken.mp4", "--model", "tiny", "--seconds", "1", "--audio", "copy"]
    assert istar([*made, "--deadline", "0.001", "-o", "a.mp4"]) == 0
    said = capfd.readouterr().err
    command = said.split("`")[1]
    assert f"--audio copy -o {tmp_path / 'a.mp4'}" in command
    (tmp_path / "away").mkdir()
    monkeypatch.chdir("away")
    # The take says that sound is kept.
    assert istar(shlex.split(command.replace("--audio copy", ""))[1:]) == 0
    assert f"the sound of '{video}' is kept" in capfd.readouterr().err
    monkeypatch.chdir(tmp_path)
    assert (sounds("a.mp4"), sounds("a-1.mp4")) == (1, 1)
    take = shlex.split(command)[-1]
    assert istar(["finish", take, "-o", "a.gif"]) == 2
    assert istar(["finish", take, "--fps", "8"]) == 2
    encode(video, smooth_clip(17), rate=16, sound=True)
    for more in ([], ["-q"], ["--dry-run"]):
        capfd.readouterr()
        with monkeypatch.context() as patched:
            patched.setattr("istar.cli.take_options.load_for_take", None)
            assert istar(["finish", take, "-o", "b.mp4", *more]) == 1
        out, said = capfd.readouterr()
        assert f"'{video}' is not there as it was, so its sound cannot be copied" in said
        assert (out, Path("b.mp4").exists(), Path(take).exists()) == ("", False, True)
    assert istar(["finish", take, "--audio", "drop", "-o", "b.mp4"]) == 0
    assert sounds("b.mp4") == 0


def test_numbered_pictures_are_continued(tmp_path: Path) -> None:
    pictures = write_clip(smooth_clip(16), tmp_path / "boat" / "%04d.png")
    target = tmp_path / "more.apng"
    done = run("extend", str(pictures), *TINY, "-o", str(target))
    assert done.returncode == 0, done.stderr
    assert len(read_clip(target).frames) > 16


@pytest.mark.parametrize("name", ["clip.mp4", "clip.gif", "clip/%02d.png"])
def test_a_picture_is_taken_out_of_a_video(tmp_path: Path, name: str) -> None:
    texts = {"title": "greys", "comment": '{"istar": {"seed": 5}}'}
    clip = write_clip(grey_clip([10, 20, 30, 40, 50]), tmp_path / name, metadata=texts)
    for at, level in (([], 50), (["--at", "last"], 50), (["--at", "first"], 10)):
        target = tmp_path / "picture.png"
        done = run("frame", str(clip), *at, "-o", str(target), "--overwrite")
        assert (done.returncode, done.stdout) == (0, f"{target}\n"), done.stderr
        with Image.open(target) as picture:
            assert picture.size == (48, 32)
            assert picture.convert("L").getpixel((5, 5)) == pytest.approx(level, abs=2)
        if clip.is_file():
            assert texts_in(target) == texts
    done = run("frame", str(clip), "--at", "0.125", "-o", str(tmp_path / "third.jpg"))
    with Image.open(tmp_path / "third.jpg") as picture:
        assert picture.getpixel((5, 5))[0] == pytest.approx(30, abs=3)
    for at, code, said in (
        ("9", 1, "does not have 1 picture from 9 s on"),
        ("-1", 2, "--at is first, last or seconds"),
        ("nan", 2, "--at is first, last or seconds"),
    ):
        done = run("frame", str(clip), "--at", at, "-o", str(tmp_path / "none.png"))
        assert (done.returncode, done.stdout) == (code, "")
        assert said in done.stderr
        assert not (tmp_path / "none.png").exists()

"""Names for outputs, and outputs that appear whole or not at all, with the texts kept in them."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from istar.errors import MediaError, UsageError
from istar.files import PendingFile
from istar.media import ClipWriter, read_clip, read_picture, write_clip, write_picture
from istar.output_names import output_path
from media_files import grey_clip, smooth_clip, texts_in

KINDS = ["clip.mp4", "picture.png", "picture.jpg", "picture.webp"]
SETTINGS = {
    "title": "猫 and \N{CAT FACE} \u202emirrored",
    "comment": json.dumps({"seed": 2**64 - 1, "prompt": 'a "cat"\n; # = \\'}),
}


def write_any(path: Path, metadata: dict[str, str] | None = None) -> Path:
    if path.suffix == ".mp4":
        return write_clip(grey_clip([1, 2]), path, metadata=metadata)
    return write_picture(smooth_clip(1)[0], path, metadata=metadata)


@pytest.mark.signals
def test_a_killed_process_leaves_no_file_under_the_name(tmp_path: Path) -> None:
    code = (
        "import sys, torch; from pathlib import Path; from istar.media import ClipWriter\n"
        "with ClipWriter(Path(sys.argv[1]), 64, 96) as writer:\n"
        "    writer.write(torch.zeros(200, 64, 96, 3, dtype=torch.uint8))\n"
        "    print('written', flush=True); sys.stdin.read()\n"
    )
    target = tmp_path / "clip.mp4"
    process = subprocess.Popen(
        [sys.executable, "-c", code, target], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"written\n"
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert not target.exists()
    assert all(path.name.startswith(".clip.") for path in tmp_path.iterdir())


@pytest.mark.parametrize("name", KINDS)
def test_nothing_is_replaced_unasked(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"precious")
    with pytest.raises(MediaError, match="exists"):
        write_any(tmp_path / name)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"precious"]


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
    with pytest.raises(MediaError, match="not a plain file"):
        write_picture(grey_clip([1])[0], fifo, overwrite=True)
    assert list(tmp_path.iterdir()) == [fifo]


def test_long_names_get_short_temporary_ones(tmp_path: Path) -> None:
    target = tmp_path / ("é" * 120 + ".mp4")
    assert write_any(target) == target
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        (SETTINGS, SETTINGS),
        ({**SETTINGS, "istar_seed": "7"}, {**SETTINGS, "istar_seed": "7"}),
        (
            {"title": "a\0b\udce9c", "comment": "x", "\0": "nothing"},
            {"title": "ab?c", "comment": "x"},
        ),
    ],
)
def test_texts_come_back(
    tmp_path: Path, name: str, metadata: dict[str, str], expected: dict[str, str]
) -> None:
    assert texts_in(write_any(tmp_path / name, metadata)) == expected


@pytest.mark.parametrize("name", [name for name in KINDS if name != "picture.jpg"])
def test_long_texts_come_back(tmp_path: Path, name: str) -> None:
    metadata = {"title": "short", "comment": "猫" * 100_000}
    path = write_any(tmp_path / name, metadata)
    assert texts_in(path) == metadata
    (read_clip if name.endswith("mp4") else read_picture)(path)


def test_a_jpeg_cuts_what_is_longest_and_keeps_the_rest(tmp_path: Path) -> None:
    prompt = "猫" * 70_000
    comment = json.dumps({"istar": {"prompt": [prompt, "x"], "seed": 7}})
    path = write_any(tmp_path / "a.jpg", {"title": prompt, "comment": comment})
    found = texts_in(path)
    settings = json.loads(found["comment"])["istar"]
    assert settings["seed"] == 7
    for cut in (found["title"], settings["prompt"][0]):
        assert cut == "猫" * (len(cut) - 1) + "…"
        assert len(cut) > 1000
    assert settings["prompt"][1] == "x"
    read_picture(path)
    numbers = json.dumps({"seeds": list(range(70_000))})
    assert texts_in(write_any(tmp_path / "b.jpg", {"title": "a", "comment": numbers})) == {}


def test_a_long_name_makes_room_for_its_number(tmp_path: Path) -> None:
    target = tmp_path / ("é" * 125 + ".png")
    target.write_bytes(b"taken")
    with PendingFile(target, overwrite=False, numbered=True) as pending:
        pending.temporary.write_bytes(b"new")
    assert pending.target.name.endswith("é-1.png")
    assert len(os.fsencode(pending.target.name)) <= 255
    assert pending.target.read_bytes() == b"new"
    assert target.read_bytes() == b"taken"


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_directory_that_takes_the_name_loses_nothing(tmp_path: Path, overwrite: bool) -> None:
    target = tmp_path / "a.png"
    with PendingFile(target, overwrite=overwrite, numbered=True) as pending:
        pending.temporary.write_bytes(b"new")
        target.mkdir()
    assert pending.target == tmp_path / "a-1.png"
    assert pending.target.read_bytes() == b"new"

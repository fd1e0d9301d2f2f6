"""Disks, names, prompts, terminals and locales that are not as usual."""

from __future__ import annotations

import json
import os
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from istar.cli import display
from istar.cli.app import run
from istar.media import read_clip, write_clip, write_picture
from media_files import smooth_clip, texts_in
from processes import ISTAR
from terminal import written_to_terminal

pytestmark = pytest.mark.usefixtures("quick_tiny")
MAKE = ("--model", "tiny", "--seed", "1", "--no-take")


@pytest.fixture(autouse=True)
def own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty current directory, and takes elsewhere."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def one_line(capfd: pytest.CaptureFixture[str]) -> str:
    """The only line on stderr besides that of a drawn seed; nothing is on stdout."""
    out, err = capfd.readouterr()
    assert out == ""
    (line,) = (line for line in err.splitlines() if not line.startswith("istar: seed "))
    assert line.startswith("istar: error: ")
    return line


# --- Disks ----------------------------------------------------------------------------------------


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("name", ["a.png", "a.mp4", "a.webp", "a/%02d.png"])
def test_a_full_disk_is_one_line_and_leaves_nothing(
    name: str, brief_checkpoint: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    mode = ["t2i", "x"] if name == "a.png" else ["t2v", "x", "--seconds", "1"]
    command = [*mode, "--model", str(brief_checkpoint), "--seed", "1", "--no-take", "-o", name]
    assert run(command) == 0
    capfd.readouterr()
    (made,) = Path().iterdir()
    for file in (made, *made.glob("*")):
        size = file.stat().st_size
    if made.is_dir():
        subprocess.run(["rm", "-r", made], check=True)
    else:
        made.unlink()
    with files_of_at_most(size // 2):
        assert run(command) == 1
    *notes, line = capfd.readouterr().err.splitlines()
    assert all("random" in note for note in notes)
    assert line.startswith("istar: error: cannot write 'a")
    assert "File too large; free some space or choose another directory" in line
    assert list(Path().iterdir()) == []


@contextmanager
def small_disk(size: int) -> Iterator[Path]:
    """The current directory's `disk`, with so many bytes in all; skips where none is allowed."""
    disk = Path("disk").absolute()
    disk.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={size}", "tmpfs"]
    try:
        mounted = subprocess.run(["mount", *options, disk], capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount")
    if mounted.returncode:
        pytest.skip("nothing may be mounted")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


def test_what_was_made_outlasts_a_disk_that_is_full(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    command = ["t2v", "x", "--model", "tiny", "--seed", "1", "--seconds", "1", "-o"]
    with small_disk(4096) as disk:
        assert run([*command, str(disk / "a.mp4")]) == 1
        kept, line = capfd.readouterr().err.splitlines()[-2:]
        assert list(disk.iterdir()) == []
        assert "No space left on device; free some space" in line
        assert "what was made is kept; `istar finish " in kept
        # Nor is a result lost for a take that finds no room.
        monkeypatch.setenv("XDG_STATE_HOME", str(disk))
        (disk / "filler").write_bytes(bytes(4096))
        assert run([*command, "b.mp4", "-q"]) == 0
    out, err = capfd.readouterr()
    assert out == "b.mp4\n"
    assert err.count("no take of this run is kept: ") == 1
    assert len(read_clip(Path("b.mp4")).frames) == 17


# --- Names and prompts ----------------------------------------------------------------------------


def test_names_of_any_bytes_and_of_many(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    deep = Path(*(character * 100 for character in "abcd"))
    deep.mkdir(parents=True)
    picture = write_picture(smooth_clip(1, 80, 80)[0], deep / os.fsdecode(b"\xff\xe9.png"))
    for name in (os.fsdecode(b"caf\xe9 \xff.mp4"), f"{deep}/-\N{CAT FACE}\u202e.mp4"):
        assert run(["i2v", str(picture), "--seconds", "1", *MAKE, "-o", name]) == 0
        out, err = capfdbinary.readouterr()
        assert out == os.fsencode(name) + b"\n"
        assert b"\xff" not in err
        assert len(read_clip(Path(name)).frames) == 17
        assert run(["info", name]) == 0
        assert b"\xe2\x80\xae" not in capfdbinary.readouterr().out.replace(os.fsencode(name), b"")
    assert run(["t2i", "x", *MAKE, "-o", "a" * 300 + ".png"]) == 1
    out, err = capfdbinary.readouterr()
    assert (out, err.count(b"\n")) == (b"", 1)
    assert b"choose a shorter name" in err


PROMPTS = {
    "right to left": "\u202eקרוב \u05d0\u05d1 mirrored",
    "emoji": "\N{CAT FACE}\N{ZERO WIDTH JOINER}\N{WOMAN} e\u0301",
    "markup": "[/oops] [bold]x[/bold] [link=file:///etc/passwd]y",
    "controls": "\x1b]0;title\x07\x1b[2J red\r\nboat",
    "options": "--seed 5 -o /etc/passwd; $(reboot)",
    "long": "boat " * 19_999 + "boat.",
}


@pytest.mark.parametrize("name", PROMPTS)
def test_a_prompt_is_kept_as_it_is_and_steers_nothing(
    name: str, brief_checkpoint: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    prompt = PROMPTS[name]
    command = ["t2i", "--model", str(brief_checkpoint), "--seed", "1", "-o", "a.png", "--", prompt]
    assert run(command) == 0
    out, err = capfd.readouterr()
    assert out == "a.png\n"
    assert "\x1b" not in err
    assert texts_in(Path("a.png"))["title"] == prompt
    assert run(["info", "--json", "a.png"]) == 0
    assert json.loads(capfd.readouterr().out)["istar"]["prompt"] == prompt
    for shown in (["info", "a.png"], ["takes", "list"]):
        assert run(shown) == 0
        out, err = capfd.readouterr()
        assert not {"\x1b", "\x07", "\u202e"} & {*out, *err}
        if name == "markup":
            assert "[/oops] [bold]x" in out


# --- Media ----------------------------------------------------------------------------------------


def test_files_that_are_not_whole_are_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    frames = smooth_clip(33)
    picture = write_picture(frames[0], Path("picture.png")).read_bytes()
    video = write_clip(frames, Path("video.mp4")).read_bytes()
    for number, content in enumerate(
        (picture[: len(picture) // 2], video[: len(video) // 2], picture[:60], b"\0" * 9999)
    ):
        Path("bad").write_bytes(content)
        for command in (
            ["i2v", "bad", *MAKE, "-o", "a.mp4"],
            ["extend", "bad", *MAKE, "-o", "a.mp4"],
            ["interact", "bad", "--script", "picture.png", *MAKE, "-o", "a.mp4"],
            ["frame", "bad", "-o", "a.png"],
            ["finish", "bad", "-o", "a.mp4"],
        ):
            assert run(command) in (1, 2), (number, command)
            assert "bad" in one_line(capfd) or "picture.png" in command
        assert {path.name for path in Path().iterdir()} == {"bad", "picture.png", "video.mp4"}


# --- Terminals and locales ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variables", "unwanted"),
    [({"TERM": "xterm", "NO_COLOR": "1"}, b"\x1b[3"), ({"TERM": "dumb"}, b"\x1b")],
)
def test_colours_and_movements_are_for_terminals_that_want_them(
    variables: dict[str, str], unwanted: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    monkeypatch.setattr(display, "SECONDS_BETWEEN_LINES", 0)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    def show(terminal: int) -> None:
        with os.fdopen(os.dup(terminal), "w") as stream, monkeypatch.context() as patch:
            patch.setattr("sys.stderr", stream)
            with display.StepDisplay() as steps:
                for done in range(1, 5):
                    steps.show(done, 4)

    shown = written_to_terminal(show)
    assert shown
    assert unwanted not in shown


def test_nobody_at_stdin() -> None:
    """A plain locale is tested where a process of its own makes a clip."""
    command = ["sh", "-c", '"$@" <&-', "sh", *ISTAR, "t2i", "-", "--model", "tiny", "-o", "a.png"]
    done = subprocess.run(command, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (2, b"", 1), done.stderr

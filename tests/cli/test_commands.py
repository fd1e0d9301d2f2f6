from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from istar.cli.app import run
from istar.media import read_clip, read_picture, write_clip, write_picture
from media_files import texts_in
from processes import ISTAR, run_warm

pytestmark = pytest.mark.usefixtures("quick_tiny")


@pytest.fixture(autouse=True)
def own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty current directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ISTAR_MODEL", raising=False)
    # An empty cache, and nobody to ask: no test here fetches anything.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


@pytest.fixture
def model(brief_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISTAR_MODEL", str(brief_checkpoint))


def clip_file(name: str = "clip.mp4", frames: int = 81) -> Path:
    generator = torch.Generator().manual_seed(frames)
    noise = torch.randint(0, 256, (frames, 2, 3, 3), generator=generator, dtype=torch.uint8)
    pixels = noise.repeat_interleave(16, 1).repeat_interleave(16, 2)
    return write_clip(pixels, Path(name))


def picture_file(name: str = "picture.png") -> Path:
    return write_picture(torch.full((36, 64, 3), 80, dtype=torch.uint8), Path(name))


@pytest.mark.usefixtures("model")
def test_every_command_writes_what_it_says(capfd: pytest.CaptureFixture[str]) -> None:
    picture, clip = picture_file(), clip_file(frames=33)
    Path("story.txt").write_text("one\n\ntwo\n", encoding="utf-8")
    long = clip_file("long.mp4", 16)
    for arguments, name, frames in (
        (["t2i", "a cat"], "istar-t2i-0001.png", 0),
        (["t2v", "a cat", "--seconds", "1"], "istar-t2v-0001.mp4", 17),
        (["i2v", str(picture), "--seconds", "1"], "istar-i2v-0001.mp4", 17),
        (["extend", str(clip), "--seconds", "0.25"], "istar-extend-0001.mp4", 37),
        (["interact", "--script", "story.txt"], "istar-interact-0001.mp4", 33),
        (["interact", str(long), "--script", "story.txt"], "istar-interact-0002.mp4", 48),
    ):
        assert run([*arguments, "--seed", "3"]) == 0, capfd.readouterr().err
        out, err = capfd.readouterr()
        assert out == f"{name}\n"
        assert "random" in err
        if frames:
            assert len(read_clip(Path(name)).frames) == frames
        else:
            assert read_picture(Path(name)).pixels.shape == (32, 48, 3)


@pytest.mark.usefixtures("model")
def test_the_seed_decides_the_file(capfd: pytest.CaptureFixture[str]) -> None:
    for seed, name in (("7", "a.png"), ("7", "b.png"), ("8", "c.png")):
        assert run(["t2i", "a cat", "--seed", seed, "-o", name]) == 0
    a, b, c = (Path(name).read_bytes() for name in ("a.png", "b.png", "c.png"))
    assert a == b
    assert a != c
    capfd.readouterr()
    assert run(["t2i", "a cat"]) == 0
    told = [line for line in capfd.readouterr().err.splitlines() if "seed" in line]
    assert len(told) == 1
    assert told[0].split()[-1].isdigit()


@pytest.mark.usefixtures("model")
def test_an_existing_file_is_kept_unless_told(capfd: pytest.CaptureFixture[str]) -> None:
    Path("a.png").write_text("mine")
    assert run(["t2i", "a cat", "-o", "a.png"]) == 0
    assert capfd.readouterr().out == "a-1.png\n"
    assert Path("a.png").read_text() == "mine"
    assert run(["t2i", "a cat", "-o", "a.png", "--overwrite"]) == 0
    assert capfd.readouterr().out == "a.png\n"
    assert Path("a.png").read_bytes().startswith(b"\x89PNG")


USAGE = {
    "no prompt": ["t2v"],
    "an empty prompt": ["t2v", "  "],
    "a prompt with a NUL": ["t2v", "a\0b"],
    "a prompt of half a surrogate pair": ["t2v", "\udce4"],
    "a prompt without end": ["t2v", "x" * 100_001],
    "no seconds": ["t2v", "x", "--seconds", "0"],
    "seconds below one": ["t2v", "x", "--seconds", "0.5"],
    "seconds that are no quarters": ["t2v", "x", "--seconds", "1.1"],
    "seconds that are no number": ["t2v", "x", "--seconds", "nan"],
    "seconds without end": ["t2v", "x", "--seconds", "1e300"],
    "endless seconds": ["t2v", "x", "--seconds", "inf"],
    "a seed of 2^64": ["t2v", "x", "--seed", str(2**64)],
    "a negative seed": ["t2v", "x", "--seed", "-1"],
    "guidance that is no number": ["t2v", "x", "--guidance", "nan"],
    "tau of zero": ["t2v", "x", "--tau", "0"],
    "tau in words": ["t2v", "x", "--tau", "1,warm"],
    "three taus": ["t2v", "x", "--tau", "1,1,1"],
    "no such ratio": ["t2v", "x", "--aspect", "16x9"],
    "a ratio of nothing": ["t2v", "x", "--aspect", "0:0"],
    "a negative ratio": ["t2v", "x", "--aspect", "-16:-9"],
    "no such resolution": ["t2v", "x", "--res", "1080p"],
    "no such dtype": ["t2v", "x", "--dtype", "int4"],
    "no such option": ["t2v", "x", "--sec", "5"],
    "no such command": ["t2x", "x"],
    "a picture's name for a clip": ["t2v", "x", "-o", "a.png"],
    "a clip's name for a picture": ["t2i", "x", "-o", "a.mp4"],
    "a name of no kind": ["t2v", "x", "-o", "a.txt"],
    "a script without prompts": ["interact", "--script", "empty.txt"],
    "nobody to ask": ["interact"],
}


@pytest.mark.usefixtures("model")
@pytest.mark.parametrize("name", USAGE)
def test_usage_errors_are_one_line_and_exit_2(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    Path("empty.txt").write_text("\n \n")
    assert_refused(USAGE[name], 2, capfd)


WITHOUT_TORCH = {
    "a missing picture": (["i2v", "nowhere.png"], "nowhere.png"),
    "a picture in no home": (["i2v", "~nobody-of-this-name/a.png"], "home directory"),
    "a picture's name without end": (["i2v", "a" * 300], "name too long"),
    "a directory for a picture": (["i2v", "."], "directory"),
    "an empty picture": (["i2v", "empty.txt"], "empty.txt is empty"),
    "a missing clip": (["extend", "nowhere.mp4"], "nowhere.mp4"),
    "an empty clip": (["extend", "empty.txt"], "empty.txt is empty"),
    "a missing script": (["interact", "--script", "nowhere.txt"], "nowhere.txt"),
    "a directory for a script": (["interact", "--script", "."], "directory"),
    "no such model": (["t2v", "x", "--model", "nowhere"], "'nowhere'"),
    "a model in capitals": (["t2v", "x", "--model", "TINY"], "did you mean tiny?"),
    "a model almost right": (["models", "path", "480"], "did you mean 480p?"),
    "no such device": (["t2v", "x", "--device", "tpu"], "'tpu'"),
    "no such device to train on": (["train", "tokenizer", "x", "--device", "tpu"], "'tpu'"),
    "guidance beyond float32": (["t2i", "x", "--guidance", "1e38"], "guidance must be"),
    "tau that divides to infinity": (["t2i", "x", "--tau", "1e-45"], "tau (image) must be"),
    "an empty output path": (["t2i", "x", "-o", ""], "path is empty"),
    "an empty output directory": (["eval", "shapes", "-o", ""], "path is empty"),
}


@pytest.mark.parametrize(
    ("flag", "value", "said"),
    [
        ("--count", "abc", "'abc' is not a"),
        ("--seconds", "abc", "'abc' is not a"),
        ("--res", "1080p", "'1080p' is not one of '192p'"),
    ],
)
def test_refused_values_are_named_in_plain_words(
    flag: str, value: str, said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    message = assert_refused(["t2v", "x", flag, value], 2, capfd)
    assert f"{flag}': {said}" in message
    assert "Input should" not in message


@pytest.mark.usefixtures("model")
@pytest.mark.parametrize("name", WITHOUT_TORCH)
def test_what_is_wrong_at_sight_needs_no_torch(
    name: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("pipeline", "inputs", "placement", "media.pictures"):
        monkeypatch.setitem(sys.modules, f"istar.{module}", None)
    Path("empty.txt").write_text("")
    arguments, said = WITHOUT_TORCH[name]
    message = assert_refused(arguments, 2, capfd)
    assert said in message
    assert "weights" not in message


FAILURES = {
    "a picture that is none": (["i2v", "text.txt"], "text.txt"),
    "a clip that is none": (["extend", "text.txt"], "text.txt"),
    "a directory without a model": (["t2v", "x", "--model", "."], "istar.json"),
    "a file for a model": (["t2v", "x", "--model", "text.txt"], "not a directory"),
    "a resolution that is not there": (["t2v", "x", "--res", "720p"], "makes 192p, not 720p"),
    "a missing output directory": (["t2v", "x", "-o", "nowhere/a.mp4"], "'nowhere' does not exist"),
}


@pytest.mark.usefixtures("model")
@pytest.mark.parametrize("name", FAILURES)
def test_failures_are_one_line_and_exit_1(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    Path("text.txt").write_text("text")
    arguments, said = FAILURES[name]
    assert said in assert_refused(arguments, 1, capfd)


@pytest.mark.usefixtures("model")
def test_a_picture_and_a_clip_may_come_from_stdin() -> None:
    seed = ("--seed", "3", "--seconds", "1", "--overwrite", "-o")
    for mode, file, source in (
        ("i2v", picture_file(), "-"),
        ("extend", clip_file(frames=17), "/dev/stdin"),
    ):
        assert run([mode, str(file), *seed, "a.mp4"]) == 0
        done = run_warm(mode, source, *seed, "b.mp4", input=file.read_bytes())
        assert done.returncode == 0, done.stderr
        assert torch.equal(read_clip(Path("a.mp4")).frames, read_clip(Path("b.mp4")).frames)


@pytest.mark.usefixtures("model")
@pytest.mark.parametrize("source", ["-", "/dev/stdin"])
def test_stdin_is_read_for_one_thing(source: str) -> None:
    for arguments in (("i2v", source, "-"), ("interact", source, "--script", "-")):
        done = run_warm(*arguments, input=b"a cat")
        assert done.returncode == 2
        assert b"cannot both come from stdin" in done.stderr


@pytest.mark.usefixtures("model")
def test_a_pipe_that_is_slow_or_closes_empty_does_not_hang(
    capfd: pytest.CaptureFixture[str],
) -> None:
    data = picture_file().read_bytes()
    for pieces, code in (((data[:50], data[50:]), 0), ((), 1)):
        Path("pipe").unlink(missing_ok=True)
        os.mkfifo("pipe")

        def feed(pieces: tuple[bytes, ...] = pieces) -> None:
            with Path("pipe").open("wb", buffering=0) as pipe:
                for piece in pieces:
                    pipe.write(piece)

        with ThreadPoolExecutor(1) as pool:
            fed = pool.submit(feed)
            assert run(["i2v", "pipe", "--seconds", "1", "-o", "a.mp4"]) == code
            fed.result()
    assert "'pipe' is empty" in capfd.readouterr().err


@pytest.mark.usefixtures("model")
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_that_is_not_there(capfd: pytest.CaptureFixture[str]) -> None:
    message = assert_refused(["t2v", "x", "--device", "cuda"], 1, capfd)
    assert "--device cpu" in message


def test_no_model_here_and_no_network(capfd: pytest.CaptureFixture[str]) -> None:
    assert "HF_HUB_OFFLINE" in assert_refused(["t2v", "x"], 1, capfd)


def test_clips_too_short_are_refused_before_loading(
    checkpoint: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ISTAR_MODEL", str(checkpoint))
    monkeypatch.setattr("istar.pipeline.InfinityStarPipeline", None)
    clip_file("short.mp4", 15)
    clip_file("medium.mp4", 79)
    Path("story.txt").write_text("one\n")
    assert "1 s or more" in assert_refused(["extend", "short.mp4"], 2, capfd)
    arguments = ["interact", "medium.mp4", "--script", "story.txt"]
    assert "istar extend" in assert_refused(arguments, 2, capfd)


def assert_refused(arguments: list[str], code: int, capfd: pytest.CaptureFixture[str]) -> str:
    """One line on stderr besides a drawn seed, nothing on stdout, no new file."""
    before = sorted(Path().iterdir())
    assert run(arguments) == code
    out, err = capfd.readouterr()
    assert out == ""
    lines = [line for line in err.splitlines() if not line.startswith("istar: seed ")]
    assert len(lines) == 1, err
    assert lines[0].startswith("istar: error: ")
    assert sorted(Path().iterdir()) == before
    return lines[0]


def test_a_terminal_cannot_be_steered_by_a_message(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["i2v", "\x1b[2J\n[/oops]"]) == 2
    err = capfd.readouterr().err
    assert "\x1b" not in err
    assert "[/oops]" in err
    assert err.count("\n") == 1


def test_debug_shows_where(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for value, shows in (("1", True), ("0", False), ("false", False), ("", False)):
        monkeypatch.setenv("ISTAR_DEBUG", value)
        assert run(["i2v", "nowhere.png"]) == 2
        assert ("Traceback" in capfd.readouterr().err) == shows


@pytest.mark.usefixtures("model")
def test_prompts_and_files_through_pipes() -> None:
    done = run_warm("t2i", "-", "-o", "-", "--seed", "7", input=b"a cat\n")
    assert done.returncode == 0, done.stderr
    assert run(["t2i", "a cat", "--seed", "7", "-o", "same.png"]) == 0
    assert done.stdout == Path("same.png").read_bytes()
    done = run_warm("t2i", "-", input=b"\xff\xfe")
    assert done.returncode == 2
    assert b"UTF-8" in done.stderr


@pytest.mark.usefixtures("model")
def test_a_script_through_a_pipe() -> None:
    done = run_warm("interact", "--script", "-", "--seed", "1", input=b"one\n")
    assert done.returncode == 0, done.stderr
    assert len(read_clip(Path(done.stdout.decode().strip())).frames) == 17


@pytest.mark.usefixtures("model")
def test_asking_on_a_terminal() -> None:
    import pty

    person, terminal = pty.openpty()
    try:
        os.write(person, b"one\ntwo\n\n")
        done = run_warm("interact", "--seed", "1", terminal=terminal)
    finally:
        os.close(terminal)
        os.close(person)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(b"what happens next?") == 3
    written = Path(done.stdout.decode().strip())
    assert len(read_clip(written).frames) == 33
    assert texts_in(written)["title"] == "one / two"


def test_keys_edit_the_line_that_is_typed() -> None:
    import pty

    person, terminal = pty.openpty()
    script = "from istar.cli.console import ask; print(repr(ask('what? ')))"
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdin=terminal, stdout=subprocess.PIPE, stderr=terminal
    )
    try:
        os.close(terminal)
        shown = b""
        while b"what? " not in shown:
            shown += os.read(person, 1024)
        os.write(person, b"a ct\x1b[Da\n")
        out, _ = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
        os.close(person)
    assert out == b"'a cat'\n"


@contextmanager
def full() -> Iterator[int]:
    """A descriptor that takes nothing."""
    descriptor = os.open("/dev/full", os.O_WRONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def test_a_stdout_that_takes_nothing() -> None:
    shell = f"{sys.executable} -m istar t2i x -o a.png >&-"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, check=False, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "stdout is closed" in done.stderr
    with full() as stdout:
        done = run_warm("t2i", "x", "--model", "tiny", "-o", "a.png", stdout=stdout)
        assert done.returncode == 1
        assert done.stderr.endswith(
            b"a.png is written, but stdout cannot be written: No space left on device\n"
        )
        read_picture(Path("a.png"))
        # What should have gone there is kept.
        done = run_warm(
            *("t2i", "x", "--model", "tiny", "-o", "-"),
            stdout=stdout,
            environment={**os.environ, "TMPDIR": str(Path.cwd())},
        )
    assert done.returncode == 1
    said, kept = done.stderr.decode().splitlines()[-1:-3:-1]
    assert said.startswith("istar: error: stdout cannot be written: No space left")
    take = kept.partition("--model tiny ")[2].partition("`")[0]
    assert run(["finish", take, "-o", "b.png"]) == 0
    read_picture(Path("b.png"))


@pytest.mark.slow
def test_commands_pass_pictures_and_videos_on(tmp_path: Path) -> None:
    istar = f"{sys.executable} -m istar"
    quick = "--model tiny --seconds 1 --seed 3"
    shell = (
        f"{istar} t2i @prompt.txt --model tiny --seed 3 -o - | "
        f"{istar} i2v - @prompt.txt {quick} -o - | cat > piped.mp4; "
        f"echo ${{PIPESTATUS[@]}}"
    )
    Path("prompt.txt").write_text("a red circle\n")
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "TMPDIR": str(tmp_path / "empty")}
    (tmp_path / "empty").mkdir()
    done = subprocess.run(
        ["bash", "-c", shell], capture_output=True, check=True, text=True, env=environment
    )
    assert done.stdout == "0 0 0\n", done.stderr
    assert list((tmp_path / "empty").glob("istar*")) == []
    assert run(["t2i", "a red circle", "--model", "tiny", "--seed", "3", "-o", "a.png"]) == 0
    assert run(["i2v", "a.png", "a red circle", *quick.split(), "-o", "a.mp4"]) == 0
    one, other = read_clip(Path("a.mp4")), read_clip(Path("piped.mp4"))
    assert torch.equal(one.frames, other.frames)
    assert other.notes == ()
    assert texts_in(Path("piped.mp4")) == texts_in(Path("a.mp4"))


def test_a_stderr_that_takes_nothing_changes_nothing() -> None:
    with full() as stderr:
        done = run_warm("t2i", "x", "--model", "tiny", "-o", "a.png", stderr=stderr)
    assert (done.returncode, done.stdout) == (0, b"a.png\n")
    for redirect in ("2>/dev/full", "2>&-", "2> >(true)"):
        shell = f"{sys.executable} -m istar t2i x --model nowhere {redirect}"
        done = subprocess.run(["bash", "-c", shell], capture_output=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (2, b"", b"")


@pytest.mark.usefixtures("model")
@pytest.mark.parametrize(("mode", "suffix"), [("t2i", ".png"), ("t2v", ".mp4")])
def test_a_name_taken_meanwhile_gets_a_number(
    mode: str,
    suffix: str,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from istar.job import Job

    named = Path(f"a{suffix}")
    run_to_the_end = Job.run

    def slow(*arguments: Any, **settings: Any) -> Iterator[Any]:
        named.write_text("another's")
        yield from run_to_the_end(*arguments, **settings)

    monkeypatch.setattr(Job, "run", slow)
    assert run([mode, "a cat", "-o", str(named)]) == 0
    assert capfd.readouterr().out == f"a-1{suffix}\n"
    assert named.read_text() == "another's"


@pytest.mark.usefixtures("model")
def test_a_prompt_from_a_file(capfd: pytest.CaptureFixture[str]) -> None:
    Path("prompt.txt").write_text("a cat\non a mat\n")
    for typed, prompt in (("@prompt.txt", "a cat\non a mat"), ("@@prompt.txt", "@prompt.txt")):
        assert run(["t2i", typed, "-o", "a.png", "--overwrite"]) == 0
        assert texts_in(Path("a.png"))["title"] == prompt
    capfd.readouterr()
    assert "nowhere.txt does not exist" in assert_refused(["t2i", "@nowhere.txt"], 2, capfd)


def test_a_reader_that_left() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = run_warm("t2i", "x", "--model", "tiny", "--seed", "1", "-o", "-", stdout=writer)
    finally:
        os.close(writer)
    assert done.returncode == 141
    (said,) = (line for line in done.stderr.splitlines() if b"step" not in line)
    assert said.endswith(b".take` continues it")
    # What remains in stdout when the interpreter ends is no matter either.
    for command in ("--help", "--version", "models list"):
        shell = f"{sys.executable} -m istar {command} | sleep 0; echo ${{PIPESTATUS[0]}}"
        done = subprocess.run(["bash", "-c", shell], capture_output=True, check=True)
        assert (done.stdout, done.stderr) == (b"141\n", b"")


def test_help_in_a_plain_locale() -> None:
    environment = {**os.environ, "LC_ALL": "C", "FORCE_COLOR": "1", "COLUMNS": "200"}
    for arguments in (["--help"], ["t2v", "-h"]):
        done = subprocess.run(
            [*ISTAR, *arguments], capture_output=True, check=True, env=environment
        )
        assert b"Usage" in done.stdout
        assert b"\x1b" not in done.stdout


def test_the_completion_is_of_the_shell_that_was_named(
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert run(["--show-completion", "zsh"]) == 0
    assert capfd.readouterr().out.startswith("#compdef istar")


def test_version(capfd: pytest.CaptureFixture[str]) -> None:
    from istar import __version__

    assert run(["--version"]) == 0
    assert capfd.readouterr().out == f"istar {__version__}\n"


@pytest.mark.usefixtures("model")
@pytest.mark.parametrize("name", ["-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"])
def test_prompt_and_picture_cannot_both_come_from_stdin(name: str) -> None:
    done = run_warm("i2v", name, "-", input=b"a cat")
    assert done.returncode == 2
    assert b"cannot both come from stdin" in done.stderr


@pytest.mark.parametrize("name", ["/dev/stderr", "/dev/fd/7", "/proc/self/fd/2", "/dev/x.png"])
def test_devices_are_no_place_for_a_file(name: str) -> None:
    done = run_warm("t2i", "a cat", "-o", name, "--model", "tiny")
    assert done.returncode == 1
    assert b"is not a place for a file" in done.stderr

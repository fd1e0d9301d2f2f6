"""Previews as a person at a terminal gets them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor

from istar import GenerationRequest, InfinityStarPipeline, Preview
from istar.cli.app import run
from istar.cli.previews import PreviewOutput, moments
from istar.media import read_clip, read_picture, stretch, write_picture
from processes import run_warm
from random_checkpoint import write_checkpoint
from terminal import half_block_pictures, written_to_terminal


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("small") / "checkpoint", sides=(1, 2, 3))


@pytest.fixture(autouse=True)
def own_place(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ISTAR_MODEL", str(checkpoint))


def preview(frames: Tensor) -> Preview:
    return Preview(frames=frames, clip=1, scale=1, scales=3, final=False)


def noise(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, 32, 48, 3), dtype=torch.uint8, generator=generator)


def test_a_terminal_shows_every_preview(checkpoint: Path) -> None:
    command = ("t2v", "a cat", "--seed", "5", "--seconds", "1", "--preview")
    of_others = ("TERM_PROGRAM", "TMUX", "STY", "ZELLIJ", "NO_COLOR", "LC_TERMINAL")
    of_others += ("KITTY_WINDOW_ID", "FORCE_COLOR")
    environment = {name: value for name, value in os.environ.items() if name not in of_others}
    environment |= {"TERM": "xterm-256color", "COLORTERM": "truecolor"}
    environment |= {"LINES": "40", "COLUMNS": "60"}

    def make(terminal: int) -> None:
        assert run_warm(*command, stderr=terminal, environment=environment).returncode == 0

    written = written_to_terminal(make)
    pipeline = InfinityStarPipeline.from_pretrained(checkpoint, device="cpu")
    request = GenerationRequest(mode="t2v", prompt="a cat", seed=5, seconds=1)
    events = pipeline.stream(request, preview=True)
    expected = [moments(event.frames) for event in events if isinstance(event, Preview)]
    found = half_block_pictures(written)
    assert len(found) == 2
    for picture, frames in zip(found, expected, strict=True):
        assert torch.equal(picture, stretch(frames, *picture.shape[:2]))
    said = [line for line in written.decode().splitlines() if "preview" in line]
    assert [line.rpartition("istar: ")[2] for line in said] == [
        "preview, the first picture",
        "preview, scale 2 of 3",
    ]
    assert list(Path().glob("istar-t2v-0001.mp4"))


def test_moments_are_the_first_the_middle_and_the_last() -> None:
    frames = noise(17, seed=0)
    strip = moments(frames)
    assert strip.shape == (32, 3 * 48 + 2, 3)
    for place, index in ((0, 0), (49, 8), (98, 16)):
        assert torch.equal(strip[:, place : place + 48], frames[index])
    assert torch.equal(moments(frames[:1]), frames[0])


def test_without_a_terminal_it_is_said_and_nothing_is_decoded(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("istar.job.Job.preview", lambda job: pytest.fail("a preview was decoded"))
    assert run(["t2v", "a cat", "--seconds", "1", "--preview"]) == 0
    said = capfd.readouterr().err.splitlines()
    assert [line for line in said if "preview" in line] == [
        "istar: no previews are shown: stderr is not a terminal with colours; "
        "--preview-file writes them to a file"
    ]


def test_a_file_has_the_last_preview(checkpoint: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_picture(noise(1, seed=0)[0], Path("p.png"))
    arguments = ["t2v", "a cat", "--seed", "5", "--seconds", "1", "--preview-file"]
    assert run([*arguments, "p.png"]) == 0
    assert run([*arguments, "p.mp4"]) == 0
    assert capfd.readouterr().out == "istar-t2v-0001.mp4\nistar-t2v-0002.mp4\n"
    pipeline = InfinityStarPipeline.from_pretrained(checkpoint, device="cpu")
    request = GenerationRequest(mode="t2v", prompt="a cat", seed=5, seconds=1)
    events = pipeline.stream(request, preview=True)
    *_, last = (event.frames for event in events if isinstance(event, Preview))
    assert torch.equal(read_picture(Path("p.png")).pixels, last[8])
    assert len(read_clip(Path("p.mp4")).frames) == 17
    assert Path("istar-t2v-0001.mp4").read_bytes() == Path("istar-t2v-0002.mp4").read_bytes()


def test_the_file_is_replaced_each_time(capfd: pytest.CaptureFixture[str]) -> None:
    output = PreviewOutput(on_terminal=False, file="p.png")
    for number in range(3):
        frames = noise(1, seed=number)
        output.show(preview(frames), None)
        assert torch.equal(read_picture(Path("p.png")).pixels, frames[0])
        assert list(Path().iterdir()) == [Path("p.png")]
    assert capfd.readouterr().err == ""


def test_a_file_that_cannot_be_written_ends_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    Path("there").mkdir()
    output = PreviewOutput(on_terminal=False, file="there/p.png")
    Path("there").rmdir()
    for _ in range(2):
        output.show(preview(noise(1, seed=0)), None)
    (said,) = capfd.readouterr().err.splitlines()
    assert said.startswith("istar: cannot write 'there/p.png': ")
    assert said.endswith("; no more previews are written")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["t2i", "x", "--preview-file", "p.txt"], 2, "ends in one of .png, .jpg"),
        (["t2i", "x", "--preview-file", "-"], 2, "ends in one of .png, .jpg"),
        (["t2i", "x", "--preview-file", ""], 2, "ends in one of .png, .jpg"),
        (["t2i", "x", "--preview-file", "."], 2, "ends in one of .png, .jpg"),
        (["t2i", "x", "--preview-file", "a.png", "-o", "./a.png"], 2, "'a.png' is the input or"),
        (["i2v", "b.png", "--preview-file", "b.png"], 2, "'b.png' is the input or"),
        (["t2i", "x", "--preview-file", "p" * 300 + ".png"], 1, "name too long"),
        (["t2i", "x", "--preview-file", "nowhere/p.png"], 1, "'nowhere' does not exist"),
    ],
)
def test_a_file_that_cannot_be_is_refused_at_once(
    arguments: list[str], code: int, said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    content = write_picture(noise(1, seed=0)[0], Path("b.png")).read_bytes()
    assert run(arguments) == code
    out, err = capfd.readouterr()
    assert out == ""
    assert said in err.splitlines()[-1]
    assert Path("b.png").read_bytes() == content

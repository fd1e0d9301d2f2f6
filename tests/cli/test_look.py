"""`istar info`, and `--from`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image

from istar.cli.app import run
from istar.media import write_clip, write_picture

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty current directory, and no model but those that are named."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ISTAR_MODEL", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


def made(arguments: Sequence[str], capfd: Captured) -> str:
    """What a command says on stderr."""
    code = run(arguments)
    said = capfd.readouterr()
    assert code == 0, said.err
    return said.err


def settings_of(name: str, capfd: Captured) -> dict[str, object]:
    assert run(["info", "--json", name]) == 0
    found = json.loads(capfd.readouterr().out)
    assert found["file"] == name
    return dict(found["istar"])


PICTURES = {
    "png": ["--seed", "3"],
    "jpg": ["--seed", "4", "--negative", "red", "--no-suffix", "--aspect", "3:2"],
    "webp": ["--seed", "5", "--guidance", "1", "--tau", "0.5,0.25"],
}


@pytest.mark.parametrize("suffix", PICTURES)
def test_a_picture_is_made_again_from_its_own_settings(suffix: str, capfd: Captured) -> None:
    one, other = f"a.{suffix}", f"b.{suffix}"
    made(["t2i", "a ring", "--model", "tiny", *PICTURES[suffix], "-o", one], capfd)
    said = made(["t2i", "--from", one, "-o", other], capfd)
    assert f"seed {PICTURES[suffix][1]}" in said
    assert Path(one).read_bytes() == Path(other).read_bytes()


def test_videos_are_made_again_from_their_own_settings(capfd: Captured) -> None:
    tiny = ["--model", "tiny", "--seed", "6"]
    made(["t2v", "a ring", *tiny, "--seconds", "1", "-o", "a.mp4"], capfd)
    made(["t2v", "--from", "a.mp4", "-o", "b.mp4"], capfd)
    assert Path("a.mp4").read_bytes() == Path("b.mp4").read_bytes()
    # The input is typed again, and no more.
    write_picture(torch.full((64, 64, 3), 80, dtype=torch.uint8), Path("c.png"))
    for command, source in (("i2v", "c.png"), ("extend", "a.mp4")):
        made([command, source, *tiny, "--seconds", "1", "-o", f"{command}-1.mp4"], capfd)
        made([command, source, "--from", f"{command}-1.mp4", "-o", f"{command}-2.mp4"], capfd)
        same = [Path(f"{command}-{number}.mp4").read_bytes() for number in (1, 2)]
        assert same[0] == same[1]


def test_an_interactive_video_is_made_again_prompt_by_prompt(capfd: Captured) -> None:
    Path("story.txt").write_text("a ring moves left\nit moves right\n", encoding="utf-8")
    made(["interact", "--model", "tiny", "--script", "story.txt", "-o", "a.mp4"], capfd)
    made(["interact", "--from", "a.mp4", "-o", "b.mp4"], capfd)
    assert Path("a.mp4").read_bytes() == Path("b.mp4").read_bytes()
    assert run(["t2v", "--from", "a.mp4"]) == 2
    assert "2 prompts" in capfd.readouterr().err


def test_what_is_typed_counts_more(capfd: Captured) -> None:
    asked = [
        "--seed",
        "7",
        "--negative",
        "red",
        "--tau",
        "0.5",
        "--guidance",
        "3",
        "--aspect",
        "1:1",
    ]
    made(["t2i", "a ring", "--model", "tiny", *asked, "-o", "a.png"], capfd)
    then = settings_of("a.png", capfd)
    typed = ["a star", "--seed", "8", "--negative", "", "--tau", "0.75", "--guidance", "2"]
    made(["t2i", *typed, "--from", "a.png", "--aspect", "3:2", "-o", "b.png"], capfd)
    now = settings_of("b.png", capfd)
    assert (now["prompt"], now["seed"], now["negative_prompt"]) == ("a star", 8, "")
    assert (now["tau"], now["aspect"]) == ([0.75, 0.75], 2 / 3)
    assert now["model"] == then["model"] == "tiny"
    made(["t2v", "--from", "a.png", "--seconds", "1", "--seed", "8", "-o", "c.mp4"], capfd)
    now = settings_of("c.mp4", capfd)
    same = ("prompt", "tau", "guidance", "negative_prompt", "aspect")
    assert [now[name] for name in same] == [then[name] for name in same]
    assert (now["seed"], now["seconds"]) == (8, 1)


def test_a_model_that_istar_does_not_know_is_typed_again(
    checkpoint: Path, capfd: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(["t2i", "a ring", "--model", str(checkpoint), "-o", "a.png"], capfd)
    name = settings_of("a.png", capfd)["model"]
    # A directory of that name is not one that the person has named.
    Path(str(name)).symlink_to(checkpoint)
    assert run(["t2i", "--from", "a.png", "-o", "b.png"]) == 1
    error = capfd.readouterr().err
    assert f"'a.png' was made by the model '{name}'" in error
    assert "--model" in error
    made(["t2i", "--from", "a.png", "--model", str(checkpoint), "-o", "b.png"], capfd)
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()
    monkeypatch.setenv("ISTAR_MODEL", str(checkpoint))
    made(["t2i", "--from", "a.png", "-o", "c.png"], capfd)
    assert Path("a.png").read_bytes() == Path("c.png").read_bytes()


def test_another_model_or_dtype_is_said(checkpoint: Path, capfd: Captured) -> None:
    made(["t2i", "a ring", "--model", "tiny", "-o", "a.png"], capfd)
    said = made(["t2i", "--from", "a.png", "--model", str(checkpoint), "-o", "b.png"], capfd)
    assert "'a.png' was made by the tiny model" in said
    said = made(["t2i", "--from", "a.png", "--dtype", "bf16", "-o", "c.png"], capfd)
    assert "'a.png' was made in fp32 on cpu, not in bf16 on cpu" in said
    # What was chosen then is chosen again.
    said = made(["t2i", "--from", "c.png", "-o", "d.png"], capfd)
    assert "was made" not in said
    assert Path("c.png").read_bytes() == Path("d.png").read_bytes()


def test_files_of_others_have_nothing_to_reuse(capfd: Captured) -> None:
    Image.new("RGB", (5, 4)).save("a.png")
    Path("text.txt").write_text("hello", encoding="utf-8")
    for name, code, reason in (
        ("a.png", 1, "holds no settings: istar did not write it"),
        ("text.txt", 1, "neither a picture nor a video"),
        ("missing.png", 2, "does not exist"),
    ):
        assert run(["t2i", "--from", name]) == code
        error = capfd.readouterr().err
        assert len(error.splitlines()) == 1
        assert reason in error


def test_settings_that_were_cut_are_not_reused(capfd: Captured) -> None:
    made(["t2i", "x" * 70_000, "--model", "tiny", "-o", "a.jpg"], capfd)
    assert run(["t2i", "--from", "a.jpg"]) == 1
    assert "in part only" in capfd.readouterr().err
    assert run(["info", "a.jpg"]) == 0
    assert "the longest of these are cut" in capfd.readouterr().out


def test_info_names_what_made_a_file(capfd: Captured) -> None:
    made(
        ["t2v", "a ring", "--model", "tiny", "--seed", "7", "--seconds", "1", "-o", "a.mp4"], capfd
    )
    assert run(["info", "a.mp4"]) == 0
    first, *rows = capfd.readouterr().out.splitlines()
    assert first == "a.mp4: MP4 video, 80×80, 1.06 s, 17 pictures"
    rows = [" ".join(row.split()) for row in rows]
    for row in ("prompt a ring", "seed 7", "model tiny", "length 1 s", "tau 1 0.7 0.4 0.25"):
        assert row in rows


def test_info_of_files_of_others_is_a_line_each(capfd: Captured) -> None:
    Image.new("RGB", (5, 4)).save("a.bmp")
    write_clip(torch.zeros(16, 32, 48, 3, dtype=torch.uint8), Path("a.mp4"))
    Path("b.txt").write_text("hello", encoding="utf-8")
    assert run(["info", "a.bmp", "b.txt", "a.mp4"]) == 1
    said = capfd.readouterr()
    assert said.out.splitlines() == [
        "a.bmp was not written by istar: BMP picture, 5×4",
        "a.mp4 was not written by istar: MP4 video, 48×32, 1 s, 16 pictures",
    ]
    assert len(said.err.splitlines()) == 1
    assert run(["info", "--json", "a.bmp", "a.mp4"]) == 0
    found = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [one["istar"] for one in found] == [None, None]
    assert [one["frames"] for one in found] == [1, 16]


def test_a_terminal_cannot_be_steered_by_a_file(capfd: Captured) -> None:
    made(["t2i", "a \x1b[31mring\x07\nseed 9", "--model", "tiny", "-o", "a.png"], capfd)
    assert run(["info", "a.png"]) == 0
    out = capfd.readouterr().out
    assert "\x1b" not in out
    assert "\x07" not in out
    assert "  prompt    a \\x1b[31mring\\x07 seed 9\n" in out

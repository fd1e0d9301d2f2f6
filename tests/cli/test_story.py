"""A story is made scene by scene, keeps what did not change, and can be checked."""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch

from asking import pictures
from istar import Take
from istar.cli.app import run
from istar.cli.session import Session
from istar.media import read_clip, write_picture
from processes import started_warm

SECOND = 16


@pytest.fixture(autouse=True)
def own_place(brief_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ISTAR_MODEL", str(brief_checkpoint))
    write_picture(pictures(1)[0], Path("boat.png"))


ONE = {"prompt": "one"}
TWO = {"prompt": "two", "seconds": 2, "seed": 3}
CUT = {"prompt": "three", "image": "boat.png", "seed": 4}
FOUR = {"prompt": "four"}


def write_story(*scenes: Mapping[str, object], **settings: object) -> None:
    tables: Sequence[tuple[str, Mapping[str, object]]] = [
        ("", {"seed": 1, **settings}),
        *(("\n[[scene]]\n", scene) for scene in scenes),
    ]
    text = "".join(
        head + "".join(f"{name} = {json.dumps(value)}\n" for name, value in table.items())
        for head, table in tables
    )
    Path("story.toml").write_text(text)


def tell(
    capfd: pytest.CaptureFixture[str], *arguments: str, code: int = 0
) -> tuple[list[str], str]:
    """What `istar interact --script story.toml` prints, line by line, and says."""
    assert run(["interact", "--script", "story.toml", *arguments]) == code
    printed = capfd.readouterr()
    return printed.out.splitlines(), printed.err


def frames(name: str = "story.mp4") -> torch.Tensor:
    return read_clip(Path(name)).frames


def prompts(branch: str = "main") -> tuple[str, ...]:
    return Take.load(f"story.session/{branch}.take").request.prompts


def test_scenes_that_did_not_change_stay(capfd: pytest.CaptureFixture[str]) -> None:
    """The video is always that of a story made from nothing."""
    write_story(ONE, TWO, CUT, FOUR)
    printed, said = tell(capfd)
    assert printed == ["story.mp4"]
    first, written = frames(), Path("story.mp4").read_bytes()
    assert len(first) == 3 * SECOND + 1 + 2 * SECOND + 1
    assert (first[3 * SECOND + 1].float() - pictures(1)[0]).abs().mean() < 5
    assert prompts() == ("one", "two", "two", "three", "four")
    assert run(["info", "story.mp4"]) == 0
    assert "prompt 4 began with a picture" in capfd.readouterr().out
    # 1. Again: nothing is made, nothing is loaded.
    _, said = tell(capfd)
    assert said == "istar: all scenes are already made\n"
    assert Path("story.mp4").read_bytes() == written
    # 2. A scene is changed: it is made anew, and what is behind the cut stays.
    write_story(ONE, TWO | {"prompt": "other"}, CUT, FOUR)
    _, said = tell(capfd)
    assert "kept from scene 1 on: 1 clip\n" in said
    assert "the previous version is kept as branch main-1" in said
    assert "scene 2 of 4, seed 3" in said
    assert "kept from scene 3 on: 2 clips" in said
    changed = frames()
    assert prompts() == ("one", "other", "other", "three", "four")
    assert torch.equal(changed[: SECOND + 1], first[: SECOND + 1])
    assert torch.equal(changed[3 * SECOND + 1 :], first[3 * SECOND + 1 :])
    tell(capfd, "-o", "b.mp4")
    told = Take.load("b.session/main.take")
    assert same_bits(Take.load("story.session/main.take"), told)
    # 3. It is changed back: its former take is there.
    write_story(ONE, TWO, CUT, FOUR)
    _, said = tell(capfd)
    assert "kept from scene 1 on: 5 clips" in said
    assert Session.open(Path("story.session")).settings.branch == "main-1"
    assert torch.equal(frames(), first)
    # 4. Scenes are taken away, and one is added behind the cut.
    write_story(ONE, CUT, FOUR, {"prompt": "five"}, seed=1)
    _, said = tell(capfd)
    assert prompts("main-1") == ("one", "three", "four", "five")
    assert "kept from scene 1 on: 3 clips" in said
    assert torch.equal(frames()[SECOND + 1 : -SECOND], first[3 * SECOND + 1 :])


def same_bits(one: Take, other: Take) -> bool:
    windows = zip(one.windows, other.windows, strict=True)
    return all(
        torch.equal(bits, theirs.bits[index])
        for own, theirs in windows
        for index, bits in own.bits.items()
    )


def test_a_scene_is_made_anew(capfd: pytest.CaptureFixture[str]) -> None:
    write_story(ONE, TWO, FOUR, CUT)
    tell(capfd)
    first = frames()
    _, said = tell(capfd, "--scene", "2", "--seed", "9")
    assert "scene 2 of 4, seed 9" in said
    assert "the story has seed 3 there; write 9 into it to keep this one" in said
    assert "scene 3 of 4\n" in said
    assert "kept from scene 4 on: 1 clip" in said
    again = frames()
    assert not torch.equal(again, first)
    # With that seed in the file it is there; with the former one the former is.
    write_story(ONE, TWO | {"seed": 9}, FOUR, CUT)
    assert "all scenes are already made" in tell(capfd)[1]
    write_story(ONE, TWO, FOUR, CUT)
    tell(capfd)
    assert torch.equal(frames(), first)
    # Without one it is drawn, and stays.
    _, said = tell(capfd, "--scene", "3")
    assert "scene 3 of 4, seed " in said
    assert "write" not in said
    assert "all scenes are already made" in tell(capfd)[1]
    # Settings of another story: everything is made anew. What is typed counts more than the file.
    write_story(ONE, guidance=1)
    _, said = tell(capfd, "--seed", "6")
    assert "the previous version is kept as branch" in said
    assert "scene 1 of 1, seed 6" in said
    assert "there is no scene 2; 'story.toml' has 1" in tell(capfd, "--scene", "2", code=2)[1]


@pytest.mark.signals
def test_a_story_that_is_interrupted_continues(capfd: pytest.CaptureFixture[str]) -> None:
    write_story(ONE, TWO, CUT)
    with started_warm("interact", "--script", "story.toml") as process:
        for line in process.stderr:
            if b"scene 2 of 3" in line:
                break
        for line in process.stderr:
            if b"step 1 of" in line:
                break
        process.send_signal(signal.SIGINT)
        code, left = process.ended()
    assert code == 130
    assert b"what is made is kept; the same command continues it" in left
    tell(capfd)
    interrupted = frames()
    tell(capfd, "-o", "b.mp4")
    assert torch.equal(interrupted, frames("b.mp4"))
    # As a session it goes on, and back over the cut.
    Path("lines.txt").write_text("four\n/undo\n/undo\n")
    assert run(["interact", "story.session", "--script", "lines.txt"]) == 0
    assert prompts() == ("one", "two", "two")


def test_a_check_says_what_it_takes(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))  # where no run has been
    write_story(ONE, TWO, CUT)
    lines, said = tell(capfd, "--check")
    assert said == ""
    assert lines[0] == "'story.toml': 3 scenes, 4 s, 48×32, the random model"
    assert lines[1].startswith("scene 1: 1 s, seed 1, ")
    assert ", a cut to 'boat.png', " in lines[3]
    assert lines[4] == "4 clips of 4 to be made"
    assert lines[5].startswith("memory plan max: about ")
    assert lines[6].startswith("time: not known, as no run of this model here says; its steps are")
    assert not Path("story.session").exists()
    write_story(ONE)
    with monkeypatch.context() as environment:
        environment.setenv("ISTAR_OUTPUT", "{prompt}.mp4")  # is for files of one prompt
        assert tell(capfd)[0] == ["story.mp4"]
    assert "leave out --from" in tell(capfd, "--check", "--from", "story.mp4", code=2)[1]
    write_story(ONE, TWO, CUT)
    lines, _ = tell(capfd, "--dry-run")
    assert lines[1].endswith("is there")
    assert lines[4] == "3 clips of 4 to be made"
    assert "as fast as those of 'story.session/main.take'" in lines[6]
    assert prompts() == ("one",)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[[scene]\n", "it is not TOML: line 1, column 8: "),
        ("seed = 1\n", "there is no scene: each begins with a line [[scene]]"),
        ("gidance = 3\n[[scene]]\nprompt = 'a'\n", "'gidance'; did you mean guidance?"),
        ("[[scene]]\npromt = 'a'\n", "line 1, scene 1: there is no setting 'promt'; did you mean"),
        ("\n[[scene]]\nprompt = ''\n", "line 2, scene 1: the prompt is empty"),
        ("[[scene]]\nprompt = 'a'\nseed = -1\n", "scene 1: a seed is a whole number from 0"),
        ("[[scene]]\nprompt = 'a'\nimage = 'no.png'\n", "scene 1: there is no picture 'no.png'"),
        ("aspect = 'wide'\n[[scene]]\nprompt = 'a'\n", "--aspect is width:height"),
        ("[[scene]]\nprompt = 'a'\nseconds = 1.5\n", "whole clips of 1 s; scene 1: 1.5 s"),
        ("[[scene]]\nprompt = 'a'\nimage = 'story.toml'\n", "'story.toml'"),
    ],
)
def test_a_story_that_cannot_be_told_makes_nothing(
    text: str, words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    Path("story.toml").write_text(text)
    for arguments in ((), ("--check",)):
        assert run(["interact", "--script", "story.toml", *arguments]) in (1, 2)
        assert words in capfd.readouterr().err
    assert sorted(path.name for path in Path().iterdir()) == ["boat.png", "story.toml"]


def test_a_check_names_every_problem(capfd: pytest.CaptureFixture[str]) -> None:
    Path("story.toml").write_text(
        "res = '1080p'\ntau = 'hot'\n[[scene]]\nprompt = 3\nseed = 1.5\n"
        "[[scene]]\nprompt = 'a'\nlength = 5\nseed = -1\nseconds = 0\nimage = 'no.png'\n"
        "[[scene]]\nseconds = 1\n"
    )
    *problems, last = tell(capfd, "--check", "-q", code=2)[1].splitlines()
    expected = (
        "'story.toml': res is 192p, ",
        "'story.toml': --tau is ",
        "line 3, scene 1: prompt must be a text, not 3",
        "line 3, scene 1: seed must be a whole number, not 1.5",
        "line 6, scene 2: there is no setting 'length'",
        "line 6, scene 2: a seed is",
        "line 6, scene 2: seconds must be 1 to",
        "line 6, scene 2: there is no picture 'no.png'",
        "line 12, scene 3: it lacks prompt",
    )
    assert len(problems) == len(expected)
    for problem, words in zip(problems, expected, strict=True):
        assert words in problem
    assert last == "istar: error: 'story.toml' has 9 problems"
    for scene in ("seconds = 1.5", "image = 'story.toml'"):
        Path("story.toml").write_text(f"[[scene]]\nprompt = 'a'\n{scene}\n" * 2)
        said = tell(capfd, "--check", code=2)[1]
        assert "scene 1: " in said
        assert "scene 2: " in said


def test_what_goes_with_a_story_only_is_refused_elsewhere(
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert run(["t2i", "a cat", "-o", "a.png"]) == 0
    write_story(ONE)
    for arguments, words in (
        (["--check"], "--check and --scene are for a story"),
        (["--script", "boat.png", "--scene", "1"], "--check and --scene are for a story"),
        (["--script", "story.toml", "--check", "--from", "a.png"], "leave out --from"),
        (["a.mp4", "--script", "story.toml"], "a story begins by itself, or with a picture"),
        (["--script", "story.toml", "-o", "{prompt}.mp4"], "name it without fields"),
    ):
        assert run(["interact", *arguments]) == 2
        assert words in capfd.readouterr().err

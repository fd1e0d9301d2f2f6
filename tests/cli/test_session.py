"""An interactive session goes forward and back, and is there again after a crash."""

from __future__ import annotations

import json
import os
import shutil
import signal
from dataclasses import asdict
from functools import cache
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryDirectory

import pytest
import torch
from torch import Tensor

from asking import HEIGHT, WIDTH, frames_of, pictures, request
from istar import InfinityStarPipeline, StateError, Take
from istar.cli.session import Session, WrittenFile, held_alone
from istar.media import read_clip, read_picture, write_clip
from media_files import texts_in
from processes import await_line, run_here, run_warm, started_warm

SECOND = 16


@pytest.fixture(autouse=True)
def own_place(brief_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ISTAR_MODEL", str(brief_checkpoint))


def interact(*arguments: str, lines: str = "", code: int = 0) -> str:
    """Run a session whose script is some lines; gives what it said."""
    with NamedTemporaryFile() as script:
        script.write(lines.encode())
        script.flush()
        options = ("--script", script.name) if lines else ()
        done = run_here("interact", *arguments, *options)
    assert done.returncode == code, done.stderr
    return done.stderr.decode()


@pytest.fixture(scope="module")
def session_of_one_prompt(brief_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a session of the prompt "one", from seed 1."""
    directory = tmp_path_factory.mktemp("one")
    options = ("-o", str(directory / "a.mp4"), "--seed", "1", "--model", str(brief_checkpoint))
    interact(*options, lines="one\n")
    return directory


@pytest.fixture
def begun(session_of_one_prompt: Path, own_place: None) -> None:
    """The same as a.session, with the video a.mp4, in the current directory."""
    shutil.copytree(session_of_one_prompt, Path(), dirs_exist_ok=True)


@cache
def film(*lines: str, seed: int = 1) -> Tensor:
    """The pictures of a session that never went back."""
    with TemporaryDirectory() as directory:
        name = f"{directory}/a.mp4"
        interact("-o", name, "--seed", str(seed), "--no-take", lines="\n".join(lines))
        return read_clip(Path(name)).frames


def prompts_of(path: str) -> tuple[str, ...]:
    return Take.load(path).request.prompts


def test_a_prompt_that_is_undone_leaves_no_trace() -> None:
    expected = film("one", "three")
    interact("-o", "a.mp4", "--seed", "1", lines="one\ntwo\n/undo\nthree\n")
    found = read_clip(Path("a.mp4"))
    assert torch.equal(found.frames, expected)
    assert found.notes == ()
    assert texts_in(Path("a.mp4"))["title"] == "one / three"
    assert prompts_of("a.session/main.take") == ("one", "three")
    interact("a.session", lines="/undo\n")
    assert torch.equal(read_clip(Path("a.mp4")).frames, expected[: SECOND + 1])
    assert texts_in(Path("a.mp4"))["title"] == "one"


def test_clips_that_stay_are_not_encoded_again() -> None:
    parts = [film("one"), film("one", "two")]
    interact("-o", "a.mp4", "--seed", "1", lines="one\ntwo\nthree\n/undo\n")
    interact("a.session", lines="/again\n/branch b\nfour\n")
    frames = read_clip(Path("a.mp4")).frames
    assert torch.equal(parts[1][: SECOND + 1], parts[0])
    assert torch.equal(frames[: SECOND + 1], parts[0])
    assert len(frames) == 3 * SECOND + 1
    assert not torch.equal(frames[SECOND + 1 : 2 * SECOND + 1], parts[1][SECOND + 1 :])


def test_what_is_undone_or_made_again_is_on_a_branch() -> None:
    expected = film("one", "two")
    said = interact("-o", "a.mp4", "--seed", "1", lines="one\ntwo\n/again\n/undo\n")
    assert "/branch main-1 goes back to the former clip" in said
    assert "/branch main-2 goes back to what there was" in said
    assert prompts_of("a.session/main-2.take") == ("one", "two")
    said = interact("a.session", lines="/branch main-2\n/undo\n/undo\n", code=2)
    assert "line 3: the last prompt is the only one" in said
    lines = "/branch main-2\n/branch main-1\n/branch main-2\n/undo\n/branch main-1\n"
    said = interact("a.session", lines=lines)
    assert "/branch main-2-1 goes back" in said
    assert torch.equal(read_clip(Path("a.mp4")).frames, expected)


def test_a_clip_is_made_again_with_the_seed_that_is_set() -> None:
    expected = film("one", "/seed 9", "two")
    said = interact("-o", "a.mp4", "--seed", "1", lines="one\ntwo\n/again\n/seed 9\n/again\n")
    assert torch.equal(read_clip(Path("a.mp4")).frames, expected)
    assert said.count("istar: seed ") == 1
    assert prompts_of("a.session/main.take") == ("one", "two")


def test_the_first_clip_is_made_again() -> None:
    expected = film("one", "two", seed=9)
    interact("-o", "a.mp4", "--seed", "1", lines="one\n/seed 9\n/again\ntwo\n")
    assert torch.equal(read_clip(Path("a.mp4")).frames, expected)


def test_one_of_several_drafts_is_finished() -> None:
    expected = film("one", "/seed 10", "two", "three")
    lines = "one\n/seed 9\n/draft 3\ntwo\n2\nthree\n/draft 2\nfour\n0\n"
    said = interact("-o", "a.mp4", "--seed", "1", lines=lines)
    assert "a.session/drafts.png shows 3 drafts: type the number of one, 0 for none" in said
    assert torch.equal(read_clip(Path("a.mp4")).frames, expected)
    assert prompts_of("a.session/main.take") == ("one", "two", "three")
    assert read_picture(Path("a.session/drafts.png")).pixels.shape[2] == 3
    lines = "/draft 2\nfour\n3\n"
    said = interact("a.session", lines=lines, code=2)
    assert "line 3: the number of a draft is missing, 1 to 2, or 0 for none" in said
    lines = "/undo\n/undo\n/undo\n"
    assert "line 3: the last prompt is the only one" in interact("a.session", lines=lines, code=2)
    assert prompts_of("a.session/main.take") == ("one", "two", "three")


def test_branches_are_gone_to_and_come_back_to() -> None:
    expected = film("one", "three")
    said = interact(
        "-o",
        "a.mp4",
        "--seed",
        "1",
        lines="one\n/branch other\ntwo\n/branch\n/branch main\nthree\n/branch main\n",
    )
    assert "on other; /branch main goes back to here" in said
    assert "on other; the other branches: main" in said
    assert "on main, after 1 prompt" in said
    assert "this is main already" in said
    assert torch.equal(read_clip(Path("a.mp4")).frames, expected)
    assert prompts_of("a.session/other.take") == ("one", "two")
    interact("a.session", lines="/branch other\n/undo\n/branch main\n/save b.mp4\n")
    assert torch.equal(read_clip(Path("b.mp4")).frames, expected)


def test_a_session_is_reopened_where_it_was() -> None:
    expected = film("one", "two", "three")
    said = interact("-o", "a.mp4", "--seed", "1", lines="one\ntwo\n")
    assert "seed" not in said
    shown = Path("a.mp4").read_bytes()
    said = interact("a.session")
    assert "on main, after 2 prompts; the last is 'two'" in said
    assert Path("a.mp4").read_bytes() == shown
    interact("a.session", lines="three\n")
    assert torch.equal(read_clip(Path("a.mp4")).frames, expected)
    assert sorted(path.name for path in Path().iterdir()) == ["a.mp4", "a.session"]


@pytest.mark.usefixtures("begun")
def test_a_video_that_is_gone_is_made_again_and_another_is_left_alone() -> None:
    expected = film("one", "two")
    Path("a.mp4").unlink()
    interact("a.session", lines="two\n")
    assert torch.equal(read_clip(Path("a.mp4")).frames, expected)
    own = write_clip(pictures(3, HEIGHT, WIDTH), Path("a.mp4"), overwrite=True).read_bytes()
    done = run_here("interact", "a.session")
    assert done.stdout == b"a-1.mp4\n"
    assert Path("a.mp4").read_bytes() == own
    assert torch.equal(read_clip(Path("a-1.mp4")).frames, expected)
    assert Session.open(Path("a.session")).video == Path("a-1.mp4")


def changed_settings(**changes: object) -> None:
    path = Path("a.session/session.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.usefixtures("begun")
def test_a_crash_just_after_the_video_is_written_is_no_other_video() -> None:
    write_clip(pictures(3, HEIGHT, WIDTH), Path("a.mp4"), overwrite=True)
    changed_settings(next_file=asdict(WrittenFile.of(Path("a.mp4"))))
    interact("a.session")
    assert torch.equal(read_clip(Path("a.mp4")).frames, film("one"))
    assert sorted(path.name for path in Path().iterdir()) == ["a.mp4", "a.session"]


@pytest.mark.usefixtures("begun")
def test_a_session_names_no_video_elsewhere() -> None:
    for name in (f"{Path.cwd()}/b.mp4", "c/b.mp4", "..", "", "../b.mp4"):
        changed_settings(video=name)
        with pytest.raises(StateError, match="names a video elsewhere"):
            Session.open(Path("a.session"))
    assert "names a video elsewhere" in interact("a.session", code=1)


@pytest.mark.usefixtures("begun")
def test_another_video_beside_a_session_is_not_replaced() -> None:
    """Whatever the session says of it: it knows neither its size nor its time."""
    other = write_clip(pictures(3, HEIGHT, WIDTH), Path("b.mp4"))
    before = other.read_bytes()
    changed_settings(video="b.mp4", next_file={"bytes_here": len(before), "modified": 1})
    interact("a.session")
    assert other.read_bytes() == before
    assert torch.equal(read_clip(Path("b-1.mp4")).frames, film("one"))


def test_a_session_does_not_decide_which_directory_is_loaded(
    brief_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interact("-o", "a.mp4", "--seed", "1", "--model", str(brief_checkpoint), lines="one\n")
    assert str(brief_checkpoint) not in Path("a.session/session.json").read_text()
    monkeypatch.delenv("ISTAR_MODEL")
    said = interact("a.session", lines="two\n", code=1)
    assert "made by the model 'random'" in said
    assert "name its directory or repository with --model" in said
    interact("a.session", "--model", str(brief_checkpoint), lines="two\n")
    assert torch.equal(read_clip(Path("a.mp4")).frames, film("one", "two"))


def test_a_session_is_continued_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    interact("-o", "a.mp4", "--dtype", "bf16", lines="one\n")
    # The person's settings are for what is new.
    for name, value in (("DTYPE", "fp32"), ("GUIDANCE", "3"), ("OUTPUT", "b/")):
        monkeypatch.setenv(f"ISTAR_{name}", value)
    assert "continues in" not in interact("a.session", lines="two\n")
    said = interact("a.session", "--dtype", "fp32", lines="three\n")
    assert "was made in bf16 and continues in fp32" in said


@pytest.mark.usefixtures("begun")
def test_a_session_moves_with_its_video(tmp_path: Path) -> None:
    expected = film("one", "two")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("a.mp4", "a.session"):
        Path(name).rename(elsewhere / name)
    interact(str(elsewhere / "a.session"), lines="two\n")
    assert torch.equal(read_clip(elsewhere / "a.mp4").frames, expected)


@pytest.mark.signals
@pytest.mark.parametrize(
    ("number", "when"),
    [
        (signal.SIGKILL, b"step 2 of 4"),
        (signal.SIGINT, b"step 1 of 2"),
        pytest.param(signal.SIGINT, b"step 2 of 4", marks=pytest.mark.slow),
        pytest.param(signal.SIGKILL, b"step 1 of 2", marks=pytest.mark.slow),
    ],
)
def test_a_session_is_reopened_after_a_crash(number: signal.Signals, when: bytes) -> None:
    """In the first clip, or in the second."""
    expected = film("one", "two", "three")
    Path("story.txt").write_text("one\ntwo\nthree\n")
    options = ("--script", "story.txt", "-o", "a.mp4", "--seed", "1")
    with started_warm("interact", *options) as process:
        await_line(process, when)
        process.send_signal(number)
        _, err = process.ended()
    if number == signal.SIGINT:
        command = f"istar interact a.session --model {os.environ['ISTAR_MODEL']}"
        assert f"the session is kept; `{command}` continues it" in err.decode()
    made = len(prompts_of("a.session/main.take"))
    interact("a.session", lines="\n".join(("one", "two", "three")[made:]))
    assert torch.equal(read_clip(Path("a.mp4")).frames, expected)


@pytest.mark.signals
@pytest.mark.parametrize(
    ("number", "prompts"),
    [
        (signal.SIGKILL, ("one", "two")),
        (signal.SIGINT, ("one",)),
        pytest.param(signal.SIGKILL, ("one",), marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, ("one", "two"), marks=pytest.mark.slow),
    ],
)
def test_the_former_clip_stays_until_it_is_made_again(
    number: signal.Signals, prompts: tuple[str, ...]
) -> None:
    interact("-o", "a.mp4", "--seed", "1", lines="\n".join(prompts))
    video, take = Path("a.mp4").read_bytes(), Path("a.session/main.take").read_bytes()
    Path("story.txt").write_text("/again\n")
    with started_warm("interact", "a.session", "--script", "story.txt") as process:
        await_line(process, b"step 1 of")
        process.send_signal(number)
        process.ended()
    assert Path("a.session/main.take").read_bytes() == take
    interact("a.session")
    assert Path("a.mp4").read_bytes() == video
    assert Session.open(Path("a.session")).settings.seed is None


@pytest.mark.signals
def test_a_session_is_continued_by_one_process_at_a_time() -> None:
    Path("story.txt").write_text("one\n")
    options = ("--script", "story.txt", "-o", "a.mp4", "--seed", "1")
    with started_warm("interact", *options) as process:
        await_line(process, b"step 1 of")
        process.send_signal(signal.SIGSTOP)
        said = interact("a.session", lines="two\n", code=1)
        assert said == "istar: error: 'a.session' is in use: another process continues it\n"
        process.send_signal(signal.SIGKILL)
        process.ended()
    interact("a.session", lines="two\n")
    assert torch.equal(read_clip(Path("a.mp4")).frames, film("one", "two"))
    with held_alone(Path("a.session")):
        assert "is in use" in interact("a.session", lines="two\n", code=1)


def typed_at_a_terminal(lines: str) -> str:
    """What a new session says to a person who types lines."""
    import pty

    person, terminal = pty.openpty()
    try:
        os.write(person, lines.encode())
        done = run_warm("interact", "--seed", "1", "-o", "a.mp4", terminal=terminal)
    finally:
        os.close(terminal)
        os.close(person)
    said = done.stderr.decode()
    assert done.returncode == 0, said
    return said


def test_somebody_types() -> None:
    typed = (
        "/undo\n/help\none\n/nonsense\n/undo\n/seed x\n/save a.png\n/branch ../a\ntwo\n/undo\n\n"
    )
    said = typed_at_a_terminal(typed)
    for words in (
        "there is no clip yet for /undo",
        "istar: /seed N         draw from this seed",
        "there is no command /nonsense; /help lists them",
        "the last prompt is the only one",
        "a seed is a whole number from 0",
        "its name must end in .mp4",
        "a branch's name is of letters",
    ):
        assert said.count(words) == 1, words
    assert len(read_clip(Path("a.mp4")).frames) == SECOND + 1
    assert prompts_of("a.session/main.take") == ("one",)


def test_a_person_hears_where_the_session_is() -> None:
    typed = (
        "one\n/seed 9\n/draft 2\ntwo\n\n/draft 2\ntwo\n/undo\n2\n/branch b\n/undo\n/branch main\n\n"
    )
    said = typed_at_a_terminal(typed)
    at = 0
    for words in (
        "the next clip is drawn from seed 9",
        "the next prompt gets 2 drafts",
        "which draft, 1 to 2? (an empty line: none of them)",
        "none of the drafts is used: on main, after 1 prompt; the last is 'one'",
        "what happens next?",
        "type the number of a draft, 1 to 2, or 0 for none",
        "draft 2 is finished: on main, after 2 prompts; the last is 'two'",
        "on b; /branch main goes back to here",
        "on b, after 1 prompt; the last is 'one'",
        "on main, after 2 prompts; the last is 'two'",
    ):
        assert words in said[at:], words
        at = said.index(words, at)
    assert prompts_of("a.session/main.take") == ("one", "two")


@pytest.mark.signals
def test_a_session_that_cannot_be_written_is_not_called_kept() -> None:
    Path("story.txt").write_text("one\n")
    options = ("--script", "story.txt", "-o", "a.mp4", "--seed", "1")
    with started_warm("interact", *options) as process:
        await_line(process, b"step 1 of")
        shutil.rmtree("a.session")
        code, err = process.ended()
    assert code == 1
    assert b"'a.session/main.take' is not up to date: cannot write" in err
    assert b"kept" not in err


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("one\n/nonsense\n", "there is no command /nonsense"),
        ("one\n/undo two\n", "/undo takes nothing behind it"),
        ("one\n/seed\n", "/seed takes N"),
        ("one\n/draft 0\n", "/draft takes a number from 1 to 99, not '0'"),
        ("/undo\none\n", "line 1: there is no clip yet for /undo"),
        ("one\n\n/nothing\n", "line 3: there is no command /nothing"),
        ("one\n\n/undo\n", "line 3: the last prompt is the only one"),
        ("one\ntwo\n/branch b\n/undo\n/branch main\n/undo\n/undo\n", "line 7: the last prompt"),
        ("one\n/draft 2\ntwo\n0\n/undo\n", "line 5: the last prompt is the only one"),
        ("one\n/draft 2\ntwo\nthree\n", "line 4: the number of a draft is missing, 1 to 2"),
    ],
)
def test_a_script_that_cannot_be_followed_makes_nothing(lines: str, words: str) -> None:
    assert words in interact("-o", "a.mp4", lines=lines, code=2)
    assert list(Path().iterdir()) == []


def test_a_line_of_a_script_that_cannot_be_done_ends_it() -> None:
    lines = "one\n/save nowhere/b.mp4\ntwo\n"
    said = interact("-o", "a.mp4", "--seed", "1", lines=lines, code=1)
    assert "error: line 2: the directory 'nowhere' does not exist" in said
    assert "`istar interact a.session --model " in said
    assert len(read_clip(Path("a.mp4")).frames) == SECOND + 1


def test_nothing_is_kept_where_no_takes_are_wanted() -> None:
    interact("-o", "a.mp4", "--seed", "1", "--no-take", lines="one\n/branch b\ntwo\n/undo\n")
    assert [path.name for path in Path().iterdir()] == ["a.mp4"]
    done = run_warm("interact", "--script", "-", "-o", "-", "--seed", "1", input=b"one\n")
    Path("b.mp4").write_bytes(done.stdout)
    assert torch.equal(read_clip(Path("b.mp4")).frames, read_clip(Path("a.mp4")).frames)
    Path("b.mp4").unlink()
    assert [path.name for path in Path().iterdir()] == ["a.mp4"]


def test_a_session_beside_another_gets_a_number() -> None:
    interact("-o", "a.mp4", lines="one\n")
    Path("a.mp4").unlink()
    interact("-o", "a.mp4", lines="one\n")
    names = sorted(path.name for path in Path().iterdir())
    assert names == ["a-1.session", "a.mp4", "a.session"]


@pytest.mark.usefixtures("begun")
def test_what_a_session_has_settled_is_refused() -> None:
    for options, words in (
        (("--guidance", "2"), "leave out --guidance"),
        (("--negative", "x"), "leave out --negative"),
        (("-o", "b.mp4"), "the video of 'a.session' is a.mp4; /save FILE copies it"),
    ):
        assert words in interact("a.session", *options, lines="two\n", code=2)
    shutil.copytree("a.session", "b.session")
    for content, words in (
        ("{}", "is no session that this istar reads"),
        ("[", "is no readable session"),
        ('{"format": "istar-session-1"}', "lacks branch"),
    ):
        Path("b.session/session.json").write_text(content)
        assert words in interact("b.session", lines="two\n", code=1)
    Path("a.session/main.take").write_bytes(b"")
    assert "is no take, or it was cut short" in interact("a.session", lines="two\n", code=1)


def take_file(brief_checkpoint: Path, name: str, **wanted: object) -> Tensor:
    """Make a take's file; gives its pictures."""
    pipeline = InfinityStarPipeline.from_pretrained(brief_checkpoint, device="cpu")
    job = pipeline.job(request(**wanted))
    frames = frames_of(job.run())
    job.take().save(name)
    return frames


def test_a_take_is_extended(brief_checkpoint: Path) -> None:
    shown = take_file(brief_checkpoint, "a.take")
    frames = take_file(brief_checkpoint, "b.take", mode="extend", clip="a.take", seed=2)
    arguments = ("a red circle", "--seed", "2", "--seconds", "1")
    done = run_here("extend", "a.take", *arguments, "-o", "a.mp4")
    assert done.returncode == 0, done.stderr
    expected = write_clip(frames, Path("expected.mp4"))
    assert torch.equal(read_clip(Path("a.mp4")).frames, read_clip(expected).frames)
    assert len(frames) == len(shown) + SECOND


def test_a_take_is_refused_without_its_model(
    brief_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_file(brief_checkpoint, "a.take")
    monkeypatch.delenv("ISTAR_MODEL")
    Path("lines.txt").write_text("one\n")
    for command in ("extend", "interact"):
        lines = ["--script", "lines.txt"] if command == "interact" else []
        done = run_here(command, "a.take", *lines)
        assert done.returncode == 1
        assert b"made by the model 'random'" in done.stderr
        assert b"name its directory or repository with --model" in done.stderr
    done = run_here("extend", "a.take", "one", "--model", "tiny", "--seed", "1")
    assert done.returncode == 1
    assert b"these are other weights" in done.stderr


def test_a_session_begins_with_a_take(brief_checkpoint: Path) -> None:
    shown = take_file(brief_checkpoint, "a.take")
    interact("a.take", "-o", "a.mp4", "--seed", "2", lines="one\ntwo\n/undo\n/again\n")
    Path("a.take").unlink()
    interact("a.session", lines="two\n")
    frames = read_clip(Path("a.mp4")).frames
    assert len(frames) == len(shown) + 2 * SECOND
    assert prompts_of("a.session/main.take") == ("one", "two")


def test_an_interactive_take_gets_more_prompts(brief_checkpoint: Path) -> None:
    expected = film("one", "two", "three", seed=5)
    interact("-o", "a.mp4", "--seed", "5", lines="one\ntwo\n")
    interact("a.session/main.take", "-o", "b.mp4", lines="three\n/branch b\n/undo\n/undo\n")
    assert prompts_of("b.session/main.take") == ("one", "two", "three")
    assert prompts_of("b.session/b.take") == ("one",)
    interact("b.session", lines="/branch main\n")
    assert torch.equal(read_clip(Path("b.mp4")).frames, expected)
    assert "leave out --tau" in interact("a.session/main.take", "--tau", "1", lines="x", code=2)

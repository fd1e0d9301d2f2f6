"""Several prompts and seeds in one command, and names by templates."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from istar.cli.app import run
from istar.cli.seeds import parse_seeds
from istar.errors import CheckpointError, UsageError
from istar.media import probe_clip, write_picture
from istar.model_spec import ModelSpec
from istar.request import Mode
from istar.take_store import stored_takes
from media_files import grey_clip, texts_in
from processes import await_line, run_warm, started_warm


@pytest.fixture(autouse=True)
def own_place(tmp_path: Path, brief_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ISTAR_MODEL", str(brief_checkpoint))


class Command:
    """What a command leaves: its exit code, the paths that it printed, and the lines it said."""

    def __init__(self, capfd: pytest.CaptureFixture[str], *arguments: str) -> None:
        self.code = run([*arguments, "--no-take"])
        out, err = capfd.readouterr()
        self.paths = out.splitlines()
        self.said = [line.removeprefix("istar: ") for line in err.splitlines()]

    @property
    def errors(self) -> list[str]:
        return [line for line in self.said if line.startswith("error: ")]


def settings(path: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(texts_in(Path(path))["comment"])["istar"]
    return found


LIST = """{"prompt": "a cat", "guidance": 1}

{"prompt": "a dog", "seed": 7, "aspect": "9:16", "negative": "cats", "tau": [1, 0.5]}
{"prompt": "a dog", "seeds": 7}
{"prompt": ""}
{"prompt": "a bird"
{"prompt": "a bird", "seed": -1}
{"prompt": "a bird", "guidance": "much"}
{"prompt": "a bird", "output": "../bird.png"}
{"prompt": "a bird", "output": "bird.mp4"}
{"prompt": "a bird", "image": "cat.png"}
  {"prompt": "a fox", "guidance": 1, "output": "foxes/fox"}
"""


def test_a_list_makes_what_it_can(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from istar.pipeline import InfinityStarPipeline

    load, loaded = InfinityStarPipeline.load, list[Any]()

    def counted(*arguments: Any, **options: Any) -> object:
        loaded.append(arguments)
        return load(*arguments, **options)

    monkeypatch.setattr(InfinityStarPipeline, "load", counted)
    Path("list.txt").write_text(LIST, encoding="utf-8")
    arguments = ("t2i", "--prompts", "list.txt", "--seed", "3", "-o", "made")
    done = Command(capfd, *arguments)
    assert done.code == 1
    names = ["made/istar-t2i-0001.png", "made/istar-t2i-0002.png", "made/foxes/fox.png"]
    assert done.paths == names
    assert [settings(name)["seed"] for name in names] == [3, 7, 3]
    assert settings(names[1])["negative_prompt"] == "cats"
    for line, said in (
        (4, "'seeds' is no setting of t2i; there are prompt, negative, seed"),
        (5, "the prompt is empty"),
        (6, "is not JSON"),
        (7, "a seed is a whole number"),
        (8, 'guidance is a number, not "much"'),
        (9, "must name a file inside the --output directory"),
        (10, "its name must end in .png"),
        (11, "'image' is no setting of t2i"),
    ):
        (error,) = (text for text in done.errors if text.startswith(f"error: line {line}: "))
        assert said in error
    assert len(done.errors) == 8
    assert done.said[-1] == "3 of 11 made, 8 failed"
    # What is refused is known before the model is loaded, which happens once.
    assert done.said[:8] == done.errors
    assert len(loaded) == 1
    # Memory is planned for the lines with guidance, too.
    assert loaded[0][2].branches == 2
    Path(names[1]).unlink()
    again = Command(capfd, *arguments, "--skip-existing")
    assert (again.code, again.paths) == (1, [names[1]])
    assert again.said[-1] == "1 of 11 made, 2 skipped, 8 failed"


def test_every_seed_is_a_file_as_alone(capfd: pytest.CaptureFixture[str]) -> None:
    done = Command(capfd, "t2i", "a cat", "--seed", "5,8-9", "-o", "{seed:03}-{number}-{size}")
    assert (done.code, done.said[-1]) == (0, "3 of 3 made")
    assert done.paths == ["005-1-48x32.png", "008-2-48x32.png", "009-3-48x32.png"]
    alone = Command(capfd, "t2i", "a cat", "--seed", "8", "-o", "a.png")
    assert alone.paths == ["a.png"]
    assert Path("a.png").read_bytes() == Path("008-2-48x32.png").read_bytes()
    counted = Command(capfd, "t2i", "a cat", "-n", "2", "--seed", "8", "-o", "n/")
    assert Path(counted.paths[0]).read_bytes() == Path("a.png").read_bytes()
    assert Path(counted.paths[1]).read_bytes() == Path("009-3-48x32.png").read_bytes()


def test_a_line_that_fails_ends_no_other(capfd: pytest.CaptureFixture[str]) -> None:
    for name, level in (("a.png", 40), ("b.png", 90)):
        write_picture(grey_clip([level])[0], Path(name))
    Path("broken.png").write_bytes(Path("a.png").read_bytes()[:60])
    lines = [{"image": "broken.png"}, {"prompt": "up"}, {"image": "b.png", "seconds": 2}]
    Path("list.jsonl").write_text("\n".join(map(json.dumps, lines)))
    common = ("--seconds", "1", "--seed", "1", "-o", "{number}-{mode}.mp4")
    done = Command(capfd, "i2v", "a.png", "--prompts", "list.jsonl", *common)
    assert (done.code, done.paths) == (1, ["2-i2v.mp4", "3-i2v.mp4"])
    assert len(done.errors) == 1
    assert done.errors[0].startswith("error: line 1: ")
    assert "broken.png" in done.errors[0]
    assert [probe_clip(Path(path)).seconds for path in done.paths] == [17 / 16, 33 / 16]
    done = Command(capfd, "i2v", "--prompts", "list.jsonl", *common, "--skip-existing")
    assert done.errors == [
        "error: line 2: there is no picture to begin with: name one",
        *done.errors[1:],
    ]


REFUSED = {
    "a wrong option of several": (["-n", "2", "--aspect", "wide"], "--aspect"),
    "a template for drafts": (
        ["--seed", "1", "--draft", "-o", "{seed}.png"],
        "written into a directory",
    ),
    "one name for several": (["-n", "2", "-o", "a.png"], "these are several files"),
    "stdout for several": (["-n", "2", "-o", "-"], "these are several files"),
    "an unknown field": (["-o", "{sed}.png"], "{sed} is no field"),
    "a template of another kind": (["-o", "{seed}.mp4"], "must end in .png"),
    "a seed that is none": (["--seed", "1,x"], "'x' is not a whole number"),
    "a count and seeds": (["--seed", "1,2", "-n", "2"], "leave it out, or give one --seed"),
    "skipping what has no name": (["--skip-existing"], "--skip-existing goes by names"),
    "skipping in a directory": (["--skip-existing", "-o", "."], "--skip-existing goes by names"),
    "skipping and replacing": (["--skip-existing", "--overwrite", "-o", "a.png"], "opposites"),
    "skipping a drawn seed": (["--skip-existing", "-o", "{seed}"], "no --seed is given"),
    "a prompt and a list": (["--prompts", "list.txt"], "leave out the one that is typed"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_go_together(
    name: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("istar.cli.batch.ChosenModel", None)
    Path("list.txt").write_text("a cat\n")
    arguments, said = REFUSED[name]
    done = Command(capfd, "t2i", "a cat", *arguments)
    assert (done.code, done.paths, len(done.said)) == (2, [], 1)
    assert said in done.said[0]
    assert [path.name for path in Path().iterdir()] == ["list.txt"]


def test_a_list_without_prompts(capfd: pytest.CaptureFixture[str]) -> None:
    Path("list.txt").write_text("\n \n")
    done = Command(capfd, "t2i", "--prompts", "list.txt")
    assert (done.code, done.said) == (2, ["error: list.txt holds no prompts"])
    Path("list.txt").write_text("{}\n")
    done = Command(capfd, "t2v", "--prompts", "list.txt")
    assert (done.code, done.said[-1]) == (1, "0 of 1 made, 1 failed")


def test_two_files_of_one_name(capfd: pytest.CaptureFixture[str]) -> None:
    Path("list.txt").write_text("a cat\na cat\n")
    arguments = ("t2i", "--prompts", "list.txt", "--seed", "1", "-o", "{prompt}.png")
    assert Command(capfd, *arguments).paths == ["a cat.png", "a cat-1.png"]
    done = Command(capfd, *arguments, "--overwrite", "--dry-run")
    planned = ["1 of 2, line 1: a cat.png", "2 of 2, line 2: a cat-1.png"]
    assert (done.code, [line for line in done.said if " of 2, " in line]) == (0, planned)
    # The second run numbers them in the same way, whichever is missing.
    Path("a cat.png").unlink()
    assert Command(capfd, *arguments, "--skip-existing").paths == ["a cat.png"]
    assert Command(capfd, *arguments, "--overwrite").paths == ["a cat.png", "a cat-1.png"]
    Path("list.txt").write_text(2 * '{"prompt": "a cat", "output": "own/%02d.png"}\n')
    arguments = ("t2v", "--prompts", "list.txt", "--seed", "1", "--seconds", "1")
    assert Command(capfd, *arguments).paths == ["own", "own-1"]
    done = Command(capfd, *arguments, "--skip-existing", "-o", "./")
    assert (done.code, done.said[-1]) == (0, "0 of 2 made, 2 skipped")


def test_a_line_that_the_model_refuses_has_its_name(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def check_possible(spec: ModelSpec, mode: Mode, seconds: float | None = None) -> None:
        if seconds == 1:
            raise CheckpointError("refused")

    monkeypatch.setattr(ModelSpec, "check_possible", check_possible)
    lines = [{"prompt": "a fox", "seconds": seconds} for seconds in (1, 2)]
    Path("list.jsonl").write_text("\n".join(map(json.dumps, lines)))
    arguments = ("t2v", "--prompts", "list.jsonl", "--seed", "1", "-o", "{prompt}", "--dry-run")
    done = Command(capfd, *arguments)
    assert done.code == 1
    assert done.errors == ["error: line 1: refused"]
    # The other file is called as it is when the first line is mended.
    assert "2 of 2, line 2: a fox-1.mp4" in done.said


def test_one_file_that_is_there_is_skipped(capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ("t2i", "a cat", "-o", "{prompt}", "--skip-existing")
    assert Command(capfd, *arguments).paths == ["a cat.png"]
    made = Path("a cat.png").read_bytes()
    done = Command(capfd, *arguments)
    assert (done.code, done.paths) == (0, [])
    assert Path("a cat.png").read_bytes() == made
    # A directory with a slash at its end is made, and not by a plan.
    assert Command(capfd, "t2i", "a cat", "-o", "a/b/", "--dry-run").code == 0
    assert not Path("a").exists()
    assert Command(capfd, "t2i", "a cat", "-o", "a/b/").paths == ["a/b/istar-t2i-0001.png"]


def test_takes_and_sessions_know_templates(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["t2i", "a cat", "--draft", "--seed", "4,9", "-o", "drafts"]) == 0
    capfd.readouterr()
    takes = sorted(map(str, Path("drafts").glob("*.take")))
    done = Command(capfd, "finish", *takes, "-o", "{seed}-{prompt}.png")
    assert (done.code, done.paths) == (0, ["4-a cat.png", "9-a cat.png"])
    done = Command(capfd, "finish", *takes, "-o", "{model}/{size}-{seed}.png", "--dry-run")
    named = ["random/48x32-4.png", "random/48x32-9.png"]
    assert (done.code, not Path("random").exists()) == (0, True)
    assert done.paths[0] == "model random in fp32 on cpu; nothing is fetched"
    assert [line for line in done.paths if "output" in line] == [f"output {one}" for one in named]
    taken, of, steps, *_ = done.paths[2].split()
    assert (0 < int(taken) < int(steps), of) == (True, "of")
    assert done.said == [f"{n} of 2, {takes[n - 1]}: {named[n - 1]}" for n in (1, 2)]
    done = Command(capfd, "finish", *takes, "-o", "{model}/{size}-{seed}.png")
    assert (done.code, done.paths) == (0, named)
    assert run(["render", takes[0], "-o", "{mode}-{size}-{model}.png"]) == 0
    assert capfd.readouterr().out == "t2i-48x32-random.png\n"
    variation = ("vary", takes[0], "--keep", "1x1", "--seed", "3", "--dry-run")
    done = Command(capfd, *variation, "-o", "{model}-{seed}.png")
    assert (done.code, done.paths[-1]) == (0, "output random-3.png")
    assert Command(capfd, *variation, "--draft", "-o", "varied/").code == 0
    assert not Path("varied").exists()
    Path("lines.txt").write_text("a cat\n")
    named = "{model}-{size}.mp4"
    done = Command(capfd, "interact", "--script", "lines.txt", "-o", named, "--dry-run")
    assert (done.code, done.paths[-1]) == (0, "output random-48x32.mp4")
    # No file replaces another of the same command.
    assert Command(capfd, "finish", *takes, "-o", "{prompt}.png", "--overwrite").code == 2
    done = Command(capfd, "finish", *takes, "-o", "{number}.png", "--overwrite")
    assert (done.code, done.paths, done.said[-1]) == (0, ["1.png", "2.png"], "2 of 2 made")
    # One that fails ends no other.
    Path("4").touch()
    done = Command(capfd, "finish", *takes, "-o", "{seed}/a.png")
    assert (done.code, done.paths, done.said[-1]) == (1, ["9/a.png"], "1 of 2 made, 1 failed")
    assert done.errors == [
        f"error: {takes[0]}: '4' is a file, not a directory; choose another directory"
    ]


def test_prompts_through_a_pipe() -> None:
    done = run_warm(
        "t2i", "--prompts", "-", "-o", "{number}", "--seed", "1", input=b"a cat\na dog\n"
    )
    assert (done.returncode, done.stdout) == (0, b"1.png\n2.png\n"), done.stderr


@pytest.mark.signals
def test_an_interrupted_batch_is_continued(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    arguments = ("t2v", "a cat", "-n", "3", "--seed", "1", "--seconds", "2", "-o", "{seed}.mp4")
    with started_warm(*arguments) as process:
        await_line(process, b"2 of 3, seed 2: a cat")
        await_line(process, b"step ")
        process.send_signal(signal.SIGINT)
        code, said = process.ended()
    assert code == 130
    assert b"1 of 3 made; the same command with --skip-existing makes the others" in said
    assert [path.name for path in Path().glob("*.mp4")] == ["1.mp4"]
    # What was under way is continued from its take, to the same bits.
    assert run([*arguments, "--skip-existing"]) == 0
    out, err = capfd.readouterr()
    assert out == "2.mp4\n3.mp4\n"
    assert err.count("continuing the take") == 1
    # Each file has one take: what continues one replaces it.
    assert len(stored_takes()) == 3
    assert (
        Command(capfd, "t2v", "a cat", "--seed", "2", "--seconds", "2", "-o", "whole.mp4").code == 0
    )
    assert Path("2.mp4").read_bytes() == Path("whole.mp4").read_bytes()


def test_seeds_as_they_are_typed() -> None:
    assert parse_seeds("1,5,9-12,5") == (1, 5, 9, 10, 11, 12)
    assert parse_seeds(str(2**64 - 1)) == (2**64 - 1,)
    for text in ("", "1,", "-1", "1-", "5-1", str(2**64), "0-10000", "1.5", "1 2", "٣", "0x1"):
        with pytest.raises(UsageError, match="--seed"):
            parse_seeds(text)

"""What runs leave: their takes, whatever ended them."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from random import Random

import pytest
import torch

from asking import request
from istar import GenerationRequest, InfinityStarPipeline, Job, StateError, Take
from istar.cli.app import run
from istar.cli.keep import TakeKeeper, TakeSettings
from istar.cli.left_takes import LeftTakes
from istar.errors import MediaError
from istar.generation.state import Position
from istar.media import read_clip
from istar.media.sheet import takes_on
from istar.take_store import store_take
from processes import await_line, run_here, started_warm

pytestmark = pytest.mark.usefixtures("quick_tiny")

PROMPT = "a red circle moves right on a blue background"
GENERATED = GenerationRequest(mode="t2v", prompt=PROMPT, seconds=1, seed=1)
MAKE = ("t2v", PROMPT, "--model", "tiny", "--seed", "1", "--seconds", "1")


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of takes, of each test's own."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "istar" / "takes"


@pytest.fixture(scope="module")
def pipeline(quick_tiny: None) -> InfinityStarPipeline:
    return InfinityStarPipeline.from_pretrained("tiny", device="cpu")


def takes_of(store: Path) -> list[Path]:
    assert not list(store.glob(".*"))
    return sorted(store.glob("*.take"))


def test_a_run_leaves_its_take(store: Path, tmp_path: Path, pipeline: InfinityStarPipeline) -> None:
    done = run_here(*MAKE, "-o", str(tmp_path / "a.mp4"))
    assert done.returncode == 0, done.stderr
    (path,) = takes_of(store)
    result = pipeline.finish(Take.load(path))
    result.save(tmp_path / "b.mp4")
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


@pytest.mark.parametrize("command", ["extend", "finish", "verify", "render"])
def test_a_takes_model_counts_more_than_that_of_the_environment(
    store: Path,
    tmp_path: Path,
    pipeline: InfinityStarPipeline,
    command: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    take = pipeline.draft(GENERATED).save(tmp_path / "a.take")
    if command == "extend":
        take = tmp_path / "whole.take"
        job = pipeline.job(GENERATED)
        list(job.run())
        job.take().save(take)
    options = () if command == "verify" else ("-o", str(tmp_path / "a.mp4"))
    more = ("--seconds", "0.25") if command == "extend" else ()
    monkeypatch.setenv("ISTAR_MODEL", str(tmp_path / "nowhere"))
    done = run_here(command, str(take), *options, *more)
    assert done.returncode == 0, done.stderr
    # What is typed counts more than the take.
    monkeypatch.delenv("ISTAR_MODEL")
    done = run_here(command, str(take), *options, *more, "--model", str(tmp_path / "nowhere"))
    assert done.returncode == 2
    assert b"nowhere" in done.stderr


@pytest.mark.parametrize(
    ("options", "environment"), [(("--no-take",), {}), ((), {"ISTAR_KEEP_TAKES": "unfinished"})]
)
def test_a_run_may_leave_none(
    store: Path,
    tmp_path: Path,
    options: tuple[str, ...],
    environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    done = run_here(*MAKE, *options, "-o", str(tmp_path / "a.mp4"))
    assert done.returncode == 0, done.stderr
    assert takes_of(store) == []


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("ISTAR_KEEP_TAKES", "some", b"ISTAR_KEEP_TAKES is all or unfinished, not 'some'"),
        ("ISTAR_TAKES_SIZE", "much", b"ISTAR_TAKES_SIZE is a size such as 500MB or 2GB"),
    ],
)
def test_settings_that_are_none(
    tmp_path: Path, name: str, value: str, words: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    done = run_here(*MAKE, "-o", str(tmp_path / "a"))
    assert done.returncode == 2
    assert words in done.stderr
    assert not list(tmp_path.glob("a*"))


def test_a_store_that_cannot_be_written_ends_nothing(store: Path, tmp_path: Path) -> None:
    store.parent.mkdir(parents=True)
    store.write_text("in the way")
    done = run_here(*MAKE, "-o", str(tmp_path / "a.mp4"))
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(b"no take of this run is kept: ") == 1
    assert (tmp_path / "a.mp4").exists()


@pytest.fixture
def job(pipeline: InfinityStarPipeline) -> Job:
    return pipeline.job(request("t2i"))


def test_the_size_of_all_takes_is_kept_and_what_goes_is_named(
    store: Path, job: Job, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ISTAR_TAKES_SIZE", "1kB")
    old = store_take(job.take())
    keeper = TakeKeeper(job, TakeSettings())
    for wanted in (1, 2):
        others = [old] if wanted == 1 else [store_take(job.take()) for _ in range(wanted)]
        list(job.run(until=Position(0, wanted)))
        keeper.write()
        assert list(store.glob("[!.]*")) == [keeper.path]
        what = f"take {others[0].stem}" if wanted == 1 else f"{wanted} takes"
        assert capfd.readouterr().err == (
            f"istar: removed the older {what}: takes-size is 1.0 kB\n"
        )


def test_a_take_is_written_where_others_cannot_be_removed(
    store: Path, job: Job, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse(path: Path) -> None:
        raise StateError(f"cannot remove '{path}'")

    monkeypatch.setattr("istar.take_store._remove", refuse)
    monkeypatch.setenv("ISTAR_TAKES_SIZE", "1kB")
    old = store_take(job.take())
    keeper = TakeKeeper(job, TakeSettings())
    for taken in (1, 2):
        list(job.run(until=Position(0, taken)))
        keeper.write()
        assert keeper.path is not None
        assert Take.load(keeper.path).taken == taken
    assert capfd.readouterr().err == (
        f"istar: the takes here are more than takes-size allows: cannot remove '{old}'\n"
    )


def test_one_process_at_a_time_makes_a_take(
    store: Path, job: Job, pipeline: InfinityStarPipeline, capfd: pytest.CaptureFixture[str]
) -> None:
    keeper = TakeKeeper(job, TakeSettings())
    list(job.run(until=Position(0, 1)))
    keeper.write()
    path, left = keeper.path, LeftTakes(wanted=True)
    assert path is not None
    held, wanted = path.read_bytes(), (job.request, job.inputs, pipeline)
    refused = f"istar: error: the take {path.stem} is in use: another process makes it\n"
    # 1. Nobody else continues what is being made, and its file stays as it is.
    for name in (path.stem, str(path)):
        assert run(["finish", name]) == 1
        assert capfd.readouterr().err == refused
    with left.on_the_way_to(*wanted) as found:
        assert found is None
    assert path.read_bytes() == held
    # 2. Then one process does.
    keeper.close()
    assert takes_of(store) == [path]
    with left.on_the_way_to(*wanted) as found:
        assert found is not None
        assert (found[0], found[1].taken) == (path, 1)
        capfd.readouterr()
        assert run(["finish", path.stem]) == 1
        assert capfd.readouterr().err == refused
    assert takes_of(store) == [path]
    # 3. A finished one is nobody's to continue, however it is kept.
    list(job.run())
    keeper.write()
    with left.on_the_way_to(*wanted) as found:
        assert found is None


def test_a_result_that_cannot_be_written_is_not_lost(
    store: Path, tmp_path: Path, pipeline: InfinityStarPipeline
) -> None:
    target = tmp_path / "gone" / "a.mp4"
    target.parent.mkdir()
    with started_warm(*MAKE, "-o", str(target)) as process:
        await_line(process, b"step 3 of")
        target.parent.rmdir()
        code, err = process.ended()
    assert code == 1
    (path,) = takes_of(store)
    command = f"istar finish --model tiny -o {target} {path}"
    assert f"what was made is kept; `{command}` continues it" in err.decode()
    assert Take.load(path).finished
    assert len(pipeline.finish(Take.load(path)).frames) == 17


def test_takes_are_listed_and_removed(store: Path, tmp_path: Path) -> None:
    heading = b"NAME  MODEL  LENGTH  DONE  SIZE  PROMPT"
    assert run_here("takes", "list").stdout.splitlines() == [heading]
    assert run_here(*MAKE, "-o", str(tmp_path / "a.mp4")).returncode == 0
    (path,) = takes_of(store)
    _, line = run_here("takes", "list").stdout.decode().splitlines()
    assert line.startswith(f"{path.stem}  tiny   1 s     100%  ")
    assert line.endswith("a red circle moves right on a blue back…")
    (described,) = json.loads(run_here("takes", "list", "--json").stdout)
    assert described["prompts"] == [PROMPT]
    assert (described["seed"], described["finished"]) == (1, True)
    assert (described["model"], described["seconds"]) == ("tiny", 1)
    assert described["bytes"] == path.stat().st_size
    assert run_here("takes", "path", path.stem).stdout.decode() == f"{path}\n"
    assert run_here("takes", "path").stdout.decode() == f"{store}\n"
    for wrong in (("rm",), ("rm", "x"), ("rm", "--all", path.stem), ("path", "x")):
        done = run_here("takes", *wrong)
        assert done.returncode == 2
        assert b"see `istar takes list`" in done.stderr
    # Other commands know it by that name, too.
    for command in (
        ("render", path.stem, "-o", str(tmp_path / "b.mp4")),
        ("info", path.stem),
        ("verify", path.stem),
        ("score", path.stem),
        ("vary", path.stem, "--keep", "3x3", "--no-take", "-o", str(tmp_path / "c.mp4")),
        ("extend", path.stem, "--seconds", "1", "--no-take", "-o", str(tmp_path / "d.mp4")),
    ):
        done = run_here(*command)
        assert done.returncode == 0, done.stderr
    assert run_here("takes", "rm", path.stem).stdout.decode() == f"{path}\n"
    assert takes_of(store) == []


def test_drafts_whose_sheet_cannot_be_written_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def full(*arguments: object, **options: object) -> Path:
        raise MediaError("the disk is full")

    monkeypatch.setattr("istar.media.write_picture", full)
    code = run([*MAKE, "--draft", "--until", "1x1", "-n", "2", "-o", str(tmp_path / "d")])
    assert code == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert f"2 takes kept, the last as {tmp_path}/d/2-2.take" in err
    assert sorted(path.name for path in (tmp_path / "d").iterdir()) == ["1-1.take", "2-2.take"]


# --- Ended by signals ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def undisturbed(
    pipeline: InfinityStarPipeline, tmp_path_factory: pytest.TempPathFactory
) -> torch.Tensor:
    """The pictures of a run that nothing ends."""
    target = tmp_path_factory.mktemp("whole") / "a.mp4"
    done = run_here(*MAKE, "--no-take", "-o", str(target))
    assert done.returncode == 0, done.stderr
    return read_clip(target).frames


SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STEPS = 30
ENDED = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


@pytest.mark.signals
@pytest.mark.parametrize(
    "number", [*range(2), *(pytest.param(n, marks=pytest.mark.slow) for n in range(2, 100))]
)
def test_interrupted_and_finished_equals_undisturbed(
    store: Path,
    tmp_path: Path,
    pipeline: InfinityStarPipeline,
    undisturbed: torch.Tensor,
    number: int,
) -> None:
    chance = Random(number)
    sent = chance.choice(SIGNALS)
    target = tmp_path / "a.mp4"
    with started_warm(*MAKE, "-o", str(target)) as process:
        await_line(process, f"step {chance.randint(1, STEPS)} of".encode())
        time.sleep(chance.random() * 0.05)
        process.send_signal(sent)
        code, err = process.ended()
    # The signal may come when everything is done.
    assert code in (ENDED[sent], 0), err
    (path,) = takes_of(store)
    take = Take.load(path)
    if not target.exists():
        assert f"`istar finish --model tiny -o {target} {path}` continues it".encode() in err
        assert [file.name for file in tmp_path.iterdir()] == ["state"]
    pipeline.finish(take).save(target, overwrite=True)
    assert torch.equal(read_clip(target).frames, undisturbed)


@pytest.mark.signals
@pytest.mark.parametrize(
    "sent", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_interrupted_drafts_are_kept(tmp_path: Path, sent: signal.Signals) -> None:
    directory = tmp_path / "d"
    draft = (*MAKE, "--draft", "--until", "1", "-n", "2", "-o", str(directory))
    with started_warm(*draft) as process:
        await_line(process, f"step {STEPS + 3} of".encode())
        process.send_signal(sent)
        code, err = process.ended()
    assert code == ENDED[sent], err
    said = f"2 takes kept, the last as {directory}/2-2.take, and {directory}/sheet.png shows 1"
    assert said in err.decode()
    assert takes_on(directory / "sheet.png") == (directory / "1-1.take",)
    first, second = (Take.load(directory / name) for name in ("1-1.take", "2-2.take"))
    assert 2 < second.taken < first.taken
    assert {path.suffix for path in directory.iterdir()} == {".png", ".mp4", ".take"}


@pytest.mark.signals
def test_a_run_that_was_killed_leaves_what_was_written(
    store: Path, tmp_path: Path, pipeline: InfinityStarPipeline, undisturbed: torch.Tensor
) -> None:
    often = {"istar.cli.keep:_SECONDS_BETWEEN": 0.001, "istar.cli.keep:_SHARE_OF_TIME": 1}
    with started_warm(*MAKE, "-o", str(tmp_path / "a.mp4"), constants=often) as process:
        await_line(process, b"step 20 of")
        process.send_signal(signal.SIGKILL)
        process.ended()
    (path,) = (path for path in store.glob("[!.]*.take"))
    take = Take.load(path)
    assert 15 <= take.taken < len(take.windows[0].schedule.steps)
    pipeline.finish(take).save(tmp_path / "b.mp4")
    assert torch.equal(read_clip(tmp_path / "b.mp4").frames, undisturbed)

"""The directory of takes that nobody named."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import save

from asking import request
from istar import InfinityStarPipeline, Take, UsageError
from istar.byte_size import bytes_of
from istar.generation.state import Position
from istar.take_directory import takes_directory
from istar.take_file import TakeSummary
from istar.take_store import prune_takes, remove_takes, store_take, stored_takes


@pytest.fixture(autouse=True)
def own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture(scope="module")
def takes(checkpoint: Path) -> tuple[Take, Take]:
    """One that is finished, and one after the first of two steps of its image clip."""
    pipeline = InfinityStarPipeline.from_pretrained(checkpoint, device="cpu")
    jobs = [pipeline.job(request("t2i", seed=seed)) for seed in (1, 2)]
    list(jobs[0].run())
    list(jobs[1].run(until=Position(0, 1)))
    return jobs[0].take(), jobs[1].take()


def test_takes_are_listed_with_the_newest_first(takes: tuple[Take, Take]) -> None:
    assert stored_takes() == ()
    paths = [store_take(take) for take in takes]
    for age, path in zip((20, 10), paths, strict=True):
        os.utime(path, (1_800_000_000 - age,) * 2)
    (takes_directory() / ".half.tmp.take").write_bytes(b"half")
    (takes_directory() / "other.take").write_text("no take")
    os.utime(takes_directory() / "other.take", (0, 0))
    found = stored_takes()
    assert [take.path for take in found] == [*reversed(paths), takes_directory() / "other.take"]
    steps = len(takes[1].windows[0].schedule.steps)
    expected = TakeSummary(
        mode="t2i", prompts=("a red circle",), seed=2, model="random", seconds=0, share=1 / steps
    )
    assert found[0].summary == expected
    assert [take.finished for take in found] == [False, True, False]
    assert found[2].summary is None


def test_what_is_no_take_is_listed_as_such(takes: tuple[Take, Take]) -> None:
    path = store_take(takes[0])
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["take"])
        tensors = {name: file.get_tensor(name).clone() for name in list(file.keys())}
    for wrong in (
        {"prompt": [1, 2]},
        {"prompt": None},
        {"prompt": {"a": 1}},
        {"seed": "7"},
        {"mode": [1]},
        {"mode": "t2x"},
    ):
        asked = json.dumps(json.loads(header["request"]) | wrong)
        path.write_bytes(save(tensors, metadata={"take": json.dumps(header | {"request": asked})}))
        (found,) = stored_takes()
        assert found.summary is None, wrong


def test_a_directory_in_the_store_is_no_take(takes: tuple[Take, Take]) -> None:
    paths = [store_take(take) for take in takes]
    (takes_directory() / "old.take").mkdir()
    assert prune_takes(1, keep=paths[1]) == (paths[0],)
    assert remove_takes([take.name for take in stored_takes()]) == (paths[1],)


def test_what_killed_processes_left_is_removed(takes: tuple[Take, Take]) -> None:
    store_take(takes[0])
    old, new = (takes_directory() / f".{name}.0a1b2c3d.tmp.take" for name in ("old", "new"))
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 4000,) * 2)
    store_take(takes[1])
    assert (old.exists(), new.exists()) == (False, True)
    assert len(stored_takes()) == 2


def test_takes_of_one_second_have_names_of_their_own(takes: tuple[Take, Take]) -> None:
    paths = {store_take(takes[0]) for _ in range(3)}
    assert len(paths) == len(stored_takes()) == 3
    assert all("-t2i-1" in path.name for path in paths)


def test_removing_takes_removes_all_or_none(takes: tuple[Take, Take]) -> None:
    one, other = (store_take(take) for take in takes)
    with pytest.raises(UsageError, match="there is no take 'nothing'"):
        remove_takes([one.stem, "nothing"])
    assert one.exists()
    assert remove_takes([one.stem, one.stem]) == (one,)
    assert [take.path for take in stored_takes()] == [other]


def test_the_oldest_finished_takes_go_first(
    takes: tuple[Take, Take], monkeypatch: pytest.MonkeyPatch
) -> None:
    finished, part = takes
    paths = [store_take(take) for take in (part, finished, finished, part)]
    for age, path in enumerate(paths):
        os.utime(path, (1_000 + age,) * 2)
    sizes = {take.path: take.bytes_here for take in stored_takes()}
    whole = sum(sizes.values())
    with monkeypatch.context() as patched:
        # Below the limit no file is opened: there may be thousands.
        patched.setattr(TakeSummary, "read", None)
        assert prune_takes(whole, keep=paths[3]) == ()
    assert prune_takes(whole - 1, keep=paths[3]) == (paths[1],)
    # One that is kept may be all that is left, however large it is.
    assert prune_takes(1, keep=paths[3]) == (paths[2], paths[0])
    assert [take.path for take in stored_takes()] == [paths[3]]


def test_a_summary_says_how_far_several_windows_are(checkpoint: Path, tmp_path: Path) -> None:
    pipeline = InfinityStarPipeline.from_pretrained(checkpoint, device="cpu")
    job = pipeline.job(request("interact", prompt=("one", "two")))
    path = job.take().save(tmp_path / "a.take")
    assert TakeSummary.read(path).share == 0
    assert TakeSummary.read(path).seconds is None
    steps = [len(schedule.steps) for schedule in job.plan.schedules]
    list(job.run(until=Position(1, 2)))
    job.take().save(path, overwrite=True)
    assert TakeSummary.read(path).share == pytest.approx((1 + 2 / steps[1]) / 2)
    assert TakeSummary.read(path).prompts == ("one", "two")
    assert TakeSummary.read(path).seconds == 2 * job.networks.spec.clip_seconds
    assert replace(TakeSummary.read(path), share=0).model == "random"


@pytest.mark.parametrize(
    ("text", "count"),
    [("2GB", 2 * 10**9), ("1.5 mb", 1_500_000), ("7kB", 7000), (" 12 ", 12), ("0", 0)],
)
def test_sizes_are_read(text: str, count: int) -> None:
    assert bytes_of(text) == count


@pytest.mark.parametrize("text", ["", "GB", "-1", "1e9", "2 TB", "1" * 30, "٣"])
def test_other_texts_are_no_sizes(text: str) -> None:
    assert bytes_of(text) is None

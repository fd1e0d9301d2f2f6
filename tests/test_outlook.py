"""How much of a job is done, and how long the rest takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count, pairwise
from pathlib import Path
from statistics import median
from time import process_time

import pytest

from asking import ALL_MODES, request
from istar import ClipReady, Decoding, GenerationRequest, InfinityStarPipeline, Progress
from istar.bench.meter import Meter
from istar.events import WorkDone
from istar.generation.flop import window_flop
from istar.generation.schedule import nearest_template
from istar.generation.state import Position
from istar.job import Job
from istar.models.released import RELEASED_MODELS
from istar.pace import Pace
from istar.plan import plan_request
from istar.transformer.config import TransformerConfig

RECORDED = (
    # Millions of operations, and milliseconds of every step that had so many.
    (11.4, (10.0, 9.5, 8.7, 8.1)),
    (45.8, (10.2, 10.3, 10.4, 10.4)),
    (104.1, (11.1, 10.9, 11.1, 10.8)),
    (293.5, (13.9, 14.9, 15.6)),
    (94.0, (11.5, 11.0, 10.8, 10.8)),
    (384.3, (16.4, 15.7, 15.7, 15.2)),
    (900.9, (22.7, 22.4, 21.6, 22.8)),
    (2777.7, (48.7, 48.0, 44.2)),
)
"""Two seconds of the bundled model on one thread of a CPU."""


def left_after_a_quarter(pieces: list[tuple[int, float]]) -> float:
    """The predicted share of what is left, once a quarter of the time has passed."""
    whole, passed, pace = sum(seconds for _, seconds in pieces), 0.0, Pace()
    while passed < whole / 4:
        flop, seconds = pieces.pop(0)
        pace.add(flop, seconds)
        passed += seconds
    return sum(pace.seconds(flop) for flop, _ in pieces) / (whole - passed)


def test_recorded_times_are_predicted_after_a_quarter_of_them() -> None:
    pieces = [(int(m * 1e6), ms / 1000) for m, times in RECORDED for ms in times]
    assert left_after_a_quarter(pieces) == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize(
    "seconds",
    [
        lambda flop: flop / 4e14,
        lambda flop: 0.02 + flop / 4e14,
        lambda flop: max(0.03, flop / 4e14),
    ],
    ids=["even", "a part for every step", "small ones alike"],
)
@pytest.mark.parametrize("model", ["480p", "720p"])
def test_times_of_other_devices_are_too(model: str, seconds: Callable[[int], float]) -> None:
    spec = next(one for one in RELEASED_MODELS if one.name == model)
    plan = plan_request(request(seconds=5), spec, nearest_template(spec.aspect))
    flop = window_flop(TransformerConfig(), plan.steps(0), texts=(100, 100))
    pieces = [(one, seconds(one)) for one in flop]
    assert left_after_a_quarter(pieces) == pytest.approx(1, abs=0.2)


def test_a_size_that_is_known_takes_what_it_took() -> None:
    pace = Pace()
    assert pace.knows_nothing
    assert (pace.seconds(100), pace.at_most(100)) == (0, 0)
    pace.add(10, 1.0)
    assert (pace.seconds(20), pace.at_most(20)) == (2.0, 2.0)
    pace.add(110, 3.0)
    # A line through both: 0.8 and 0.02 for each operation.
    assert [pace.seconds(flop) for flop in (10, 60, 110)] == pytest.approx([1.0, 2.0, 3.0])
    assert pace.seconds(210) == pytest.approx(5.0)
    pace.add(110, 2.0)
    assert pace.seconds(110) == 2.5


def test_nothing_is_predicted_to_take_less_than_nothing() -> None:
    pace = Pace()
    for flop, seconds in ((10, 0.1), (20, 1.0), (30, 5.0)):
        pace.add(flop, seconds)
    assert pace.seconds(1) > 0
    shrinking = Pace()
    for flop, seconds in ((10, 3.0), (20, 2.0)):
        shrinking.add(flop, seconds)
    assert shrinking.seconds(1000) == 2.5


def test_at_most_the_next_larger_counts() -> None:
    pace = Pace()
    pace.add(10, 1.0)
    pace.add(100, 3.0)
    assert [pace.at_most(flop) for flop in (1, 10, 11, 100, 200)] == [1.0, 1.0, 3.0, 3.0, 6.0]


@pytest.fixture(scope="module")
def pipeline(brief_checkpoint: Path) -> InfinityStarPipeline:
    return InfinityStarPipeline.from_pretrained(brief_checkpoint, device="cpu", dtype="fp32")


def work_of(job: Job, until: Position | None = None) -> list[WorkDone]:
    return list(_work(job, until))


def _work(job: Job, until: Position | None) -> Iterator[WorkDone]:
    for event in job.run(until=until):
        if isinstance(event, Progress | Decoding | ClipReady) and event.work is not None:
            yield event.work


@pytest.mark.parametrize("name", ALL_MODES)
def test_work_grows_to_its_whole(pipeline: InfinityStarPipeline, name: str) -> None:
    wanted = GenerationRequest(seed=5, **{"prompt": "a cat", **ALL_MODES[name]})
    job = pipeline.job(wanted)
    work = work_of(job)
    # Prompt by prompt, each is a whole of its own.
    wholes = len(wanted.prompts) if wanted.mode == "interact" else 1
    ends = [index for index, one in enumerate(work) if one.done == one.total]
    assert len(ends) == wholes
    assert ends[-1] == len(work) - 1
    for before, after in pairwise(work):
        if before.done < before.total:
            assert (after.total, after.done >= before.done) == (before.total, True)
        assert after.seconds_taken >= before.seconds_taken
    assert all(work[end].seconds_left == 0 for end in ends)
    # A take that has all steps is only decoded.
    again = work_of(pipeline.job(job.take()))
    assert again[-1].done == again[-1].total < work[ends[-1]].total * wholes


def test_a_draft_is_a_whole(pipeline: InfinityStarPipeline) -> None:
    job = pipeline.job(request(seconds=2))
    stop = job.stop(0.25)
    work = work_of(job, stop)
    assert len(work) == stop.step
    assert (work[-1].done, work[-1].seconds_left) == (work[-1].total, 0)
    whole = work_of(pipeline.job(request(seconds=2)))[-1].total
    assert work[-1].total < whole / 2


@pytest.mark.parametrize(
    "name", [pytest.param("two windows", marks=pytest.mark.slow), "a clip, prompt by prompt"]
)
def test_work_is_what_is_counted(pipeline: InfinityStarPipeline, name: str) -> None:
    job = pipeline.job(GenerationRequest(seed=5, **{"prompt": "a cat", **ALL_MODES[name]}))
    meter, counted, whole = Meter(pipeline.device), 0, 0
    with meter:
        while not job.finished:
            is_work = job.state.generation is not None
            meter.restart()
            events = job.advance()
            counted += meter.read().flop if is_work else 0
            ends = [event.work for event in events if isinstance(event, Progress | ClipReady)]
            whole += sum(work.total for work in ends if work and work.done == work.total)
    assert whole == pytest.approx(counted, rel=0.02)


def share_of_what_was_left(job: Job) -> float:
    """The time left that a job predicts after a quarter of its time, by what it was."""
    work = [one for one in work_of(job) if one.seconds_left is not None]
    end = work[-1].seconds_taken
    quarter = next(one for one in work if one.seconds_taken >= end / 4)
    assert quarter.seconds_left is not None
    return quarter.seconds_left / (end - quarter.seconds_taken)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("two windows", marks=pytest.mark.slow),
        "from a picture",
        pytest.param("a clip continued", marks=pytest.mark.slow),
    ],
)
def test_the_time_left_is_right_after_a_quarter_of_a_run(
    pipeline: InfinityStarPipeline, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    # A device that takes 5 ms for whatever is timed, and for every million operations 5 more.
    meter, readings = Meter(pipeline.device), count()
    monkeypatch.setattr(
        "istar.job.monotonic", lambda: meter.read().flop / 2e8 + next(readings) * 0.005
    )
    job = pipeline.job(GenerationRequest(seed=5, **{"prompt": "a cat", **ALL_MODES[name]}))
    with meter:
        assert share_of_what_was_left(job) == pytest.approx(1, abs=0.1)


@pytest.mark.slow
def test_the_time_left_is_right_on_this_device(monkeypatch: pytest.MonkeyPatch) -> None:
    # The processor's time, which other processes lengthen least, and the middle of three runs.
    monkeypatch.setattr("istar.job.monotonic", process_time)
    tiny = InfinityStarPipeline.from_pretrained("tiny", device="cpu")
    jobs = [tiny.job(request(seconds=5, aspect=1.0)) for _ in range(3)]
    assert median(map(share_of_what_was_left, jobs)) == pytest.approx(1, abs=0.2)

"""Replaying takes: what is drawn again, and which bits would be others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from asking import ALL_MODES, request, with_spec
from istar import GenerationRequest, InfinityStarPipeline, StateError, Take
from istar.generation import loop
from istar.generation.loop import Drawing
from istar.generation.state import Position, TakeWindow
from istar.replay import StepCheck


@pytest.fixture(scope="module")
def pipeline(checkpoint: Path) -> InfinityStarPipeline:
    """Clips of a second and seven steps, one pass of two: several windows are quickly made."""
    whole = InfinityStarPipeline.from_pretrained(checkpoint, device="cpu")
    spec = replace(whole.spec, image_repeats=(2, 3), video_repeats=(3, 4))
    return with_spec(whole, replace(spec, clip_frames=4, max_seconds=2))


def taken(
    pipeline: InfinityStarPipeline, asked: GenerationRequest, until: Position | None = None
) -> Take:
    job = pipeline.job(asked)
    for _ in job.run(until=until):
        pass
    return job.take()


def changed(pipeline: InfinityStarPipeline, take: Take) -> list[StepCheck]:
    return [check for check in pipeline.verify(take) if check.changed]


REQUESTS: dict[str, dict[str, Any]] = {
    **ALL_MODES,
    "one window": {"mode": "t2v"},
    "unguided": {"mode": "t2v", "guidance_scale": 1},
    "a negative prompt": {"mode": "t2v", "negative_prompt": "blue"},
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name,
            marks=pytest.mark.slow if name in ("prompt by prompt", "a clip continued") else (),
        )
        for name in REQUESTS
    ],
)
def test_what_was_drawn_is_drawn_again(pipeline: InfinityStarPipeline, name: str) -> None:
    take = taken(pipeline, request(**REQUESTS[name]))
    checks = list(pipeline.verify(take))
    drawn = [
        (number, index)
        for number, window in enumerate(take.windows)
        for index in range(len(window.schedule.steps))
        if index not in window.given
    ]
    assert [(check.window, check.step.index) for check in checks] == drawn
    for check in checks:
        assert (check.changed, check.margin) == (0, 0)
        assert check.bits == take.windows[check.window].bits[check.step.index].numel()


@pytest.mark.parametrize("until", [Position(0, 1), Position(0, 6), Position(1, 0), Position(1, 15)])
def test_a_take_under_way_is_verified_as_far_as_it_is(
    pipeline: InfinityStarPipeline, until: Position
) -> None:
    take = taken(pipeline, request(seconds=3), until)
    checks = list(pipeline.verify(take))
    given = sum(len([i for i in w.given if i < len(w.seconds)]) for w in take.windows)
    assert len(checks) == sum(len(window.seconds) for window in take.windows) - given
    assert not any(check.changed for check in checks)


def test_an_interrupted_and_resumed_take_is_as_any(
    pipeline: InfinityStarPipeline, tmp_path: Path
) -> None:
    path = taken(pipeline, request(seconds=3), Position(1, 15)).save(tmp_path / "a.take")
    job = pipeline.job(Take.load(path))
    for _ in job.run():
        pass
    assert job.take().finished
    assert not changed(pipeline, job.take())


def test_nothing_taken_has_nothing_to_verify(pipeline: InfinityStarPipeline) -> None:
    assert list(pipeline.verify(pipeline.job(request()).take())) == []


def with_window(take: Take, number: int, window: TakeWindow) -> Take:
    windows = (*take.windows[:number], window, *take.windows[number + 1 :])
    return replace(take, windows=windows)


@pytest.mark.parametrize(
    ("number", "back"), [pytest.param(0, 8, marks=pytest.mark.slow), (0, 1), (1, 3)]
)
def test_a_flipped_bit_is_found_at_its_step(
    pipeline: InfinityStarPipeline, number: int, back: int
) -> None:
    take = taken(pipeline, request(seconds=3))
    window = take.windows[number]
    index = len(window.schedule.steps) - back
    bits = window.bits[index].clone()
    bits[0, 3] ^= True
    first, *later = changed(
        pipeline, with_window(take, number, replace(window, bits={**window.bits, index: bits}))
    )
    assert (first.window, first.step.index, first.changed) == (number, index, 1)
    assert 0 < first.margin < 1
    # Each step looks at the take's bits, so that one difference does not make all later ones.
    assert all(check.changed < check.bits / 4 for check in later)


def test_other_random_numbers_are_other_bits(pipeline: InfinityStarPipeline) -> None:
    take = taken(pipeline, request())
    other = torch.Generator().manual_seed(6).get_state()
    found = changed(pipeline, with_window(take, 0, replace(take.windows[0], generator=other)))
    assert found[0].step.index == 0 or found[0].bits < 50
    assert max(check.changed / check.bits for check in found) > 0.3


def test_only_tokens_that_were_drawn_are_compared(pipeline: InfinityStarPipeline) -> None:
    take = taken(pipeline, request())
    (window,) = take.windows
    index = len(window.schedule.steps) - 1
    bits = ~window.bits[index]
    mask = torch.zeros(len(bits), dtype=torch.bool)
    mask[2] = True
    bits[2] = window.bits[index][2]
    kept = replace(window, bits={**window.bits, index: bits}, masks={index: mask})
    *_, last = pipeline.verify(with_window(take, 0, kept))
    assert (last.step.index, last.bits, last.changed) == (index, bits.shape[1], 0)
    bits[2, 0] ^= True
    *_, last = pipeline.verify(with_window(take, 0, kept))
    assert last.changed == 1


def test_kept_steps_draw_nothing(pipeline: InfinityStarPipeline) -> None:
    """A variation that keeps coarse scales and draws the rest from a generator of its own."""
    take = taken(pipeline, request())
    (window,) = take.windows
    keep = 7
    state = torch.Generator().manual_seed(9).get_state()
    varied = replace(
        take,
        windows=(
            replace(
                window,
                generator=state,
                bits={index: window.bits[index] for index in range(keep)},
                given=frozenset(range(keep)),
                seconds=(),
            ),
        ),
        generator=state,
    )
    job = pipeline.job(varied)
    for _ in job.run():
        pass
    again = job.take()
    checks = list(pipeline.verify(again))
    assert [check.step.index for check in checks] == list(range(keep, len(window.schedule.steps)))
    assert not any(check.changed for check in checks)


@pytest.fixture(scope="module")
def ring() -> tuple[InfinityStarPipeline, Take]:
    """The small model in float32, and what it made."""
    exact = InfinityStarPipeline.from_pretrained("tiny", device="cpu")
    return exact, taken(exact, request(prompt="a red ring", aspect=1), Position(0, 24))


def test_the_small_model_draws_again_what_it_drew(ring: tuple[InfinityStarPipeline, Take]) -> None:
    assert not changed(*ring)


@pytest.mark.parametrize("dtype", ["bf16", pytest.param("int8", marks=pytest.mark.slow)])
def test_fewer_bits_of_numbers_draw_other_bits(
    ring: tuple[InfinityStarPipeline, Take], dtype: str
) -> None:
    exact, take = ring
    other = InfinityStarPipeline.from_pretrained("tiny", device="cpu", dtype=dtype)
    found = changed(other, take)
    share = sum(check.changed for check in found) / sum(check.bits for check in found)
    assert 0 < share < 0.1
    # To itself its bits are as they should be, and to the exact one they are not.
    own = taken(other, take.request, Position(0, 24))
    assert not changed(other, own)
    assert changed(exact, own)


def test_a_take_of_other_weights_is_refused(pipeline: InfinityStarPipeline) -> None:
    take = taken(pipeline, request(), Position(0, 2))
    foreign = replace(take, model=replace(take.model, fingerprint="0" * 64))
    with pytest.raises(StateError, match="other weights"):
        list(pipeline.verify(foreign))


def test_a_step_for_which_memory_ran_out_is_drawn_again(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = InfinityStarPipeline.from_pretrained(checkpoint, device="cpu", memory="balanced")
    take = taken(pipeline, request(seconds=2))
    left = [None, torch.OutOfMemoryError("CUDA out of memory"), None]

    def draw(*arguments: Any, **options: Any) -> Drawing:
        failure = left.pop(0) if left else None
        if failure is not None:
            raise failure
        return loop.draw(*arguments, **options)

    monkeypatch.setattr("istar.replay.draw", draw)
    checks = list(pipeline.verify(take))
    assert pipeline.networks.plan.name == "low"
    assert [check.step.index for check in checks] == list(range(len(take.windows[0].seconds)))
    assert not any(check.changed for check in checks)

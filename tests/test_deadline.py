"""Generations that end in time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from asking import frames_of, pictures, request, with_spec
from istar import ClipReady, GenerationRequest, InfinityStarPipeline
from istar.deadline import run_in_time
from istar.generation.flop import step_flop
from istar.generation.schedule import Step
from istar.job import Job

SECOND = 16
DECODING, COMPUTING = 0.05, 1e-6
"""Seconds that a picture and an operation take here."""

REQUESTS = {
    "t2i": request("t2i", seconds=None),
    "t2v": request(seconds=2),
    "i2v": request("i2v", image=pictures(1)[0], seconds=1),
    "extend": request("extend", clip=pictures(SECOND + 1), seconds=2),
}


@pytest.fixture(scope="module")
def pipeline(checkpoint: Path) -> InfinityStarPipeline:
    """Clips of a second, one pass of two: several windows are quickly made."""
    whole = InfinityStarPipeline.from_pretrained(checkpoint, device="cpu", dtype="fp32")
    spec = replace(whole.spec, clip_frames=4, max_seconds=2, image_repeats=(2, 2))
    return with_spec(whole, replace(spec, video_repeats=(3, 2)))


def cost(job: Job, step: Step) -> float:
    """How long a step takes here."""
    steps = job.plan.steps(job.state.window)
    return COMPUTING * step_flop(job.networks.config, step, steps)


class SteadyDevice:
    """Time that passes with a job's work alone.

    Attributes:
        now: the time.
    """

    def __init__(self, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        advance, preview, decode = job.advance, job.preview, job.networks.decode

        def advanced() -> object:
            step, generation = job.next_step, job.state.generation
            if step is not None and generation and step.index not in generation.given:
                self.now += cost(job, step)
            events = advance()
            own = (e for e in events if isinstance(e, ClipReady) and not e.from_input)
            self.now += DECODING * sum(len(event.frames) for event in own)
            return events

        def timed(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
            def called(*arguments: Tensor) -> Tensor:
                made = function(*arguments)
                self.now += DECODING * len(made)
                return made

            return called

        monkeypatch.setattr(job, "advance", advanced)
        monkeypatch.setattr(job, "preview", timed(preview))
        monkeypatch.setattr(job.networks, "decode", timed(decode))


def run(
    pipeline: InfinityStarPipeline,
    wanted: GenerationRequest,
    seconds: float,
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[Job, Tensor, float]:
    """A job that ran in time, its pictures, and how long it took."""
    with monkeypatch.context() as patch:
        job = pipeline.job(wanted)
        device = SteadyDevice(job, patch)
        frames = frames_of(run_in_time(job, seconds, clock=lambda: device.now))
        return job, frames, device.now


@pytest.mark.parametrize(
    "mode",
    ["t2i", "t2v", *(pytest.param(one, marks=pytest.mark.slow) for one in ("i2v", "extend"))],
)
def test_a_run_ends_in_time_at_the_last_scale_that_fits(
    pipeline: InfinityStarPipeline, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = pipeline.generate(REQUESTS[mode]).frames
    _, made, longest = run(pipeline, REQUESTS[mode], 1e9, monkeypatch)
    assert torch.equal(made, whole)
    _, _, shortest = run(pipeline, REQUESTS[mode], 1e-9, monkeypatch)
    reached = []
    for share in (0.3, 0.7):
        seconds = shortest + share * (longest - shortest)
        job, frames, took = run(pipeline, REQUESTS[mode], seconds, monkeypatch)
        assert took <= seconds
        take = job.take()
        assert not job.finished
        assert not take.finished
        reached.append(job.state.position)
        # What is shown begins as the whole does, and has the clip under way whole.
        assert len(frames) <= len(whole)
        assert frames.shape[1:] == whole.shape[1:]
        if mode in ("t2i", "i2v"):
            assert len(frames) == len(whole)
        # With the next scale it would have taken longer, of which decoding is predicted a little
        # longer than it takes.
        step = job.next_step
        assert step is not None
        steps = job.plan.steps(job.state.window)[step.index :]
        ahead = [s for s in steps if (s.clip, s.scale) == (step.clip, step.scale)]
        more = sum(cost(job, one) for one in ahead)
        extra = DECODING * 4 * (step.grid.frames + 1) if step.starts_clip else DECODING * 4
        assert took + 1.2 * more + extra > seconds
        assert torch.equal(pipeline.finish(take).frames, whole)
    assert reached == sorted(reached)
    # One new clip of two scales stops after the first or not at all.
    assert len(set(reached)) > (mode in ("t2v", "extend"))


@pytest.mark.parametrize(("mode", "clip"), [("t2i", 0), ("t2v", 1), ("i2v", 1), ("extend", 2)])
def test_however_short_there_is_something_to_show(
    pipeline: InfinityStarPipeline, mode: str, clip: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, frames, _ = run(pipeline, REQUESTS[mode], 1e-9, monkeypatch)
    step = job.next_step
    assert step is not None
    assert (step.clip, step.scale, step.repetition) == (clip, 1, 0)
    own = len(frames) - (SECOND + 1 if mode == "extend" else 0)
    assert own == {"t2i": 1, "extend": SECOND}.get(mode, SECOND + 1)

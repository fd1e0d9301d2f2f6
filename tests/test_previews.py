"""Previews: when there are any, that they are right, and that nothing else depends on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from asking import frames_of, pictures, request, with_spec
from istar import GenerationRequest, InfinityStarPipeline, Job, Note, Preview, Progress
from istar.events import Event
from istar.generation.schedule import nearest_template
from istar.memory_plan import memory_plans
from istar.memory_use import NetworkSizes, Work
from istar.models.find import find_model
from istar.models.released import RELEASED_MODELS
from istar.network_files import NetworkFiles
from istar.networks import Networks
from istar.placement import Placement
from istar.plan import windows_from_start
from istar.previews import is_previewed
from random_checkpoint import write_checkpoint

CPU = Placement(device=torch.device("cpu"), dtype=torch.float32)
GPU = Placement(device=torch.device("cuda", 0), dtype=torch.bfloat16)
REQUESTS: dict[str, GenerationRequest] = {
    "t2i": request("t2i", seconds=None),
    "t2v in two windows": request(seconds=3),
    "i2v": request("i2v", image=pictures(1, 40, 50)[0]),
    "extend": request("extend", clip=pictures(20), seconds=1),
    "interact": request("interact", prompt=("one", "two")),
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One with three scales, of which the second brings a clip to 28 of its 60 tokens."""
    return write_checkpoint(tmp_path_factory.mktemp("small") / "checkpoint", sides=(1, 2, 3))


@pytest.fixture(scope="module")
def pipeline(checkpoint: Path) -> InfinityStarPipeline:
    """Clips of a second, one pass of two."""
    whole = InfinityStarPipeline.from_pretrained(checkpoint, device="cpu")
    return with_spec(whole, replace(whole.spec, clip_frames=4, max_seconds=2))


def finished(job: Job, *, preview: bool) -> tuple[list[Event], list[Tensor]]:
    events = list(job.run(preview=preview))
    return events, [bits for window in job.state.windows for bits in window.bits.values()]


@pytest.fixture(scope="module")
def shown(pipeline: InfinityStarPipeline) -> Callable[[str], tuple[list[Event], list[Tensor]]]:
    """What a request's job does, with previews, and its bits."""
    return cache(lambda name: finished(pipeline.job(REQUESTS[name]), preview=True))


def previews_of(events: list[Event]) -> list[Preview]:
    return [event for event in events if isinstance(event, Preview)]


@pytest.mark.parametrize(
    ("name", "seconds", "shown"),
    [
        ("720p", 5, [(0, 14, 3), (1, 11, 3), (1, 12, 2)]),
        ("480p", 10, [(0, 13, 3), (1, 10, 3), (1, 11, 3), (2, 10, 3), (2, 11, 3)]),
        ("480p", 0, [(0, 11, 3), (0, 12, 3)]),
    ],
)
def test_few_of_a_released_models_steps_are_followed_by_a_preview(
    name: str, seconds: float, shown: list[tuple[int, int, int]]
) -> None:
    (spec,) = (spec for spec in RELEASED_MODELS if spec.name == name)
    (window, *_) = windows_from_start(seconds, spec)
    steps = window.steps(spec, nearest_template(9 / 16))
    found = [steps[number] for number in range(len(steps)) if is_previewed(steps, number)]
    assert [(step.clip, step.scale, step.repetition + 1) for step in found] == shown


@pytest.mark.parametrize("name", REQUESTS)
def test_nothing_depends_on_previews(
    pipeline: InfinityStarPipeline,
    shown: Callable[[str], tuple[list[Event], list[Tensor]]],
    name: str,
) -> None:
    events, bits = finished(pipeline.job(REQUESTS[name]), preview=False)
    ours, our_bits = shown(name)
    assert previews_of(events) == []
    assert all(map(torch.equal, our_bits, bits))
    assert torch.equal(frames_of(ours), frames_of(events))
    assert [type(event) for event in ours if not isinstance(event, Preview)] == [
        type(event) for event in events
    ]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("t2i", [(0, 1, 1, False)]),
        # The image clip, and of each clip of a second all that it will have: 17 pictures, then 16.
        # The clips that the second window is given are there already.
        (
            "t2v in two windows",
            [(0, 2, 1, True), (1, 1, 17, False), (2, 1, 16, False), (2, 1, 16, False)],
        ),
        ("i2v", [(1, 1, 17, False)]),
        ("extend", [(2, 1, 16, False)]),
        ("interact", [(0, 2, 1, True), (1, 1, 17, False), (0, 1, 16, False)]),
    ],
)
def test_what_is_shown(
    shown: Callable[[str], tuple[list[Event], list[Tensor]]],
    name: str,
    expected: list[tuple[int, int, int, bool]],
) -> None:
    events, _ = shown(name)
    previews = previews_of(events)
    found = [(one.clip, one.scale, len(one.frames), one.final) for one in previews]
    assert found == expected
    assert {one.scales for one in previews} == {3}
    assert {one.frames.shape[1:] for one in previews} == {frames_of(events).shape[1:]}
    # Each comes right after the step that it shows.
    for place, event in enumerate(events):
        if isinstance(event, Preview):
            before = events[place - 1]
            assert isinstance(before, Progress) or event.final
            if isinstance(before, Progress):
                assert (before.clip, before.scale) == (event.clip, event.scale)
                assert not before.given


def test_the_first_picture_is_that_of_the_image_clip(pipeline: InfinityStarPipeline) -> None:
    job = pipeline.job(request())
    for event in job.run(preview=True):
        if isinstance(event, Preview):
            break
    assert event.final
    assert job.state.generation is not None
    (latent,) = job.state.generation.latents
    assert torch.equal(event.frames, job.networks.decode(latent))


def test_what_a_take_knows_is_not_shown_again(pipeline: InfinityStarPipeline) -> None:
    job = pipeline.job(request())
    events: list[Event] = []
    while not (job.state.generation and job.state.generation.position == 4):
        events += job.advance()
    again = pipeline.job(job.take())
    shown = previews_of(list(again.run(preview=True)))
    assert [(one.clip, one.scale) for one in shown] == [(1, 1)]


@pytest.mark.parametrize(
    "name",
    [
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("max", "balanced", "low")),
        "stream",
    ],
)
def test_every_memory_plan_shows_the_same(
    name: str, checkpoint: Path, pipeline: InfinityStarPipeline
) -> None:
    wanted = request()
    events, bits = finished(pipeline.job(wanted), preview=True)
    spec, files = pipeline.spec, find_model(checkpoint).files(lambda event: None)
    sizes = NetworkSizes.of(files, spec, CPU)
    plans = memory_plans(sizes, Work.usual(spec, "t2v"), GPU)
    (plan,) = (plan for plan in plans if plan.name == name)
    if name in ("low", "stream"):
        plan = replace(plan, strip_rows=1, host_contexts_from=1)
    networks = Networks.load(spec, NetworkFiles(spec, files, CPU), (plan,))
    ours, our_bits = finished(Job.begin(networks, wanted), preview=True)
    assert all(map(torch.equal, our_bits, bits))
    for one, other in zip(previews_of(ours), previews_of(events), strict=True):
        # Strips differ in the last bits of a float32, which may be a level.
        assert (one.frames.int() - other.frames.int()).abs().max() <= int(name >= "low")


class Failing:
    """Decoding that fails the first time."""

    def __init__(self, pipeline: InfinityStarPipeline, error: Exception) -> None:
        self._decode, self._error = pipeline.networks.tokenizer.decode_pieces, error
        self._failed = False

    def __call__(self, *arguments: Any, **settings: Any) -> Iterator[Any]:
        if not self._failed:
            self._failed = True
            raise self._error
        return self._decode(*arguments, **settings)


def test_a_preview_for_which_memory_does_not_suffice_ends_nothing(
    pipeline: InfinityStarPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    events, bits = finished(pipeline.job(request()), preview=False)
    failing = Failing(pipeline, torch.OutOfMemoryError("CUDA out of memory"))
    monkeypatch.setattr(pipeline.networks.tokenizer, "decode_pieces", failing)
    plan = pipeline.networks.plan
    ours, our_bits = finished(pipeline.job(request()), preview=True)
    assert previews_of(ours) == []
    assert [one.text for one in ours if isinstance(one, Note)][-1] == (
        "the GPU's memory ran out while making a preview; there are no more previews"
    )
    assert pipeline.networks.plan is plan
    assert all(map(torch.equal, our_bits, bits))
    assert torch.equal(frames_of(ours), frames_of(events))


def test_an_error_of_another_kind_is_not_hidden(
    pipeline: InfinityStarPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = Failing(pipeline, ZeroDivisionError("a fault"))
    monkeypatch.setattr(pipeline.networks.tokenizer, "decode_pieces", failing)
    with pytest.raises(ZeroDivisionError):
        list(pipeline.stream(request(), preview=True))

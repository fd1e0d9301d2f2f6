"""Decoding what a take holds, without what only drawing needs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from asking import ALL_MODES, frames_of, pictures, request, with_spec
from istar import ClipReady, InfinityStarPipeline, StateError
from istar.generation.state import Position
from istar.memory_use import Work
from istar.models.find import find_model
from istar.placement import Placement


@pytest.fixture(scope="module")
def pipeline(checkpoint: Path) -> InfinityStarPipeline:
    """Clips of a second and seven steps, one pass of two: several windows are quickly made."""
    whole = InfinityStarPipeline.from_pretrained(checkpoint, device="cpu")
    spec = replace(whole.spec, image_repeats=(2, 3), video_repeats=(3, 4))
    return with_spec(whole, replace(spec, clip_frames=4, max_seconds=2))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name == "prompt by prompt" else ())
        for name in ALL_MODES
    ],
)
def test_what_is_decoded_again_is_what_was_made(pipeline: InfinityStarPipeline, name: str) -> None:
    job = pipeline.job(request(**ALL_MODES[name]))
    made = frames_of(job.run())
    rendered = pipeline.render(job.take())
    assert torch.equal(rendered.frames, made)
    assert rendered.metadata == pipeline.metadata(job.request)


@pytest.mark.parametrize(
    ("mode", "clip", "into"),
    [
        ("t2v", 0, 1),
        ("t2v", 1, 0),
        ("t2v", 1, 3),
        ("t2v", 1, -1),
        ("t2v", 2, 0),
        ("t2v", 2, 1),
        ("i2v", 1, 0),
        ("i2v", 1, -1),
        ("extend", 2, 1),
    ],
)
def test_of_a_clip_under_way_there_is_its_preview(
    pipeline: InfinityStarPipeline, mode: str, clip: int, into: int
) -> None:
    given = {"i2v": {"image": pictures(1)[0]}, "extend": {"clip": pictures(17)}}.get(mode, {})
    job = pipeline.job(request(mode, seconds=1 if mode == "extend" else 2, **given))
    steps = job.plan.steps(0)
    ends = [0, *(step.index + 1 for step in steps if step.ends_clip)]
    events = list(job.run(until=Position(0, ends[clip if into >= 0 else clip + 1] + into)))
    shown = [event.frames for event in events if isinstance(event, ClipReady)]
    rendered = pipeline.render(job.take()).frames
    assert torch.equal(rendered, torch.cat([*shown, job.preview()]))
    # That changes nothing: the take is finished as if it had not been looked at.
    assert not job.finished


@pytest.mark.parametrize(
    "until", [Position(1, 0), pytest.param(Position(1, 1), marks=pytest.mark.slow), Position(1, 15)]
)
def test_windows_that_are_finished_come_before(
    pipeline: InfinityStarPipeline, until: Position
) -> None:
    job = pipeline.job(request(seconds=3))
    shown = frames_of(job.run(until=until))
    rendered = pipeline.render(job.take()).frames
    assert torch.equal(rendered, torch.cat((shown, job.preview())))


def test_what_is_kept_for_later_is_not_taken_yet(pipeline: InfinityStarPipeline) -> None:
    """Bits of steps to come, as a variation has them, are no part of what is decoded."""
    job = pipeline.job(request())
    for _ in job.run(until=Position(0, 7)):
        pass
    take = job.take()
    whole = pipeline.job(take)
    for _ in whole.run():
        pass
    (window,) = take.windows
    known = replace(window, bits={**window.bits, 9: whole.take().windows[0].bits[9]})
    rendered = pipeline.render(replace(take, windows=(known,)))
    assert torch.equal(rendered.frames, job.preview())


def test_nothing_taken_is_no_picture(pipeline: InfinityStarPipeline) -> None:
    with pytest.raises(StateError, match="no picture yet"):
        pipeline.render(pipeline.job(request()).take())


def test_neither_blocks_nor_texts_are_loaded(checkpoint: Path) -> None:
    whole = InfinityStarPipeline.from_pretrained(checkpoint, device="cpu")
    job = whole.job(request())
    made = frames_of(job.run())
    early = whole.job(request())
    for _ in early.run(until=Position(0, 3)):
        pass
    found, placement = find_model(checkpoint), Placement.choose("cpu")
    work = Work.usual(found.spec, "t2v", 1)
    light = InfinityStarPipeline.load(found, placement, work, decodes_only=True)
    assert torch.equal(light.render(job.take()).frames, made)
    assert torch.equal(light.render(early.take()).frames, early.preview())
    transformer, *others = light.networks.present
    assert {weight.device.type for weight in transformer.blocks.parameters()} == {"meta"}
    assert len(others) == 1
    # Nothing is said to be loaded, either.
    kinds = {type(event).__name__ for event in light.rendering(job.take())}
    assert "Loading" not in kinds
    # They come when something is drawn.
    assert torch.equal(light.finish(early.take()).frames, made)


def test_a_finished_take_needs_no_blocks_to_be_finished(checkpoint: Path) -> None:
    whole = InfinityStarPipeline.from_pretrained(checkpoint, device="cpu", memory="low")
    job = whole.job(request())
    made = frames_of(job.run())
    again = InfinityStarPipeline.from_pretrained(checkpoint, device="cpu", memory="low")
    assert torch.equal(again.finish(job.take()).frames, made)
    assert {weight.device.type for weight in again.networks.present[0].parameters()} >= {"meta"}


def test_a_take_of_other_weights_is_refused(pipeline: InfinityStarPipeline) -> None:
    job = pipeline.job(request())
    for _ in job.run(until=Position(0, 2)):
        pass
    take = job.take()
    foreign = replace(take, model=replace(take.model, fingerprint="0" * 64))
    with pytest.raises(StateError, match="other weights"):
        pipeline.render(foreign)

"""The scores of takes: as they are made, by a replay, by scale and by place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from asking import pictures, request, with_spec
from istar import GenerationRequest, InfinityStarPipeline, Take
from istar.generation.likelihood import NOTHING, Score, step_score, token_scores, total
from istar.generation.state import Position
from istar.media.heat_map import heat_map
from istar.replay import replay
from istar.score import drawn_over_pictures, latents_of, pictures_of

REQUESTS: dict[str, Callable[[], GenerationRequest]] = {
    "one window": lambda: request(),
    "two windows": lambda: request(seconds=3),
    "a picture": lambda: request("t2i"),
    "unguided": lambda: request(guidance_scale=1.0),
    "i2v": lambda: request("i2v", image=pictures(1)[0]),
    "extend": lambda: request("extend", clip=pictures(16), seconds=2),
    "interact": lambda: request("interact", prompt=("one", "two", "three")),
}


@pytest.fixture(scope="module")
def pipeline(checkpoint: Path) -> InfinityStarPipeline:
    """Clips of a second, one pass of two: several windows are quickly made."""
    whole = InfinityStarPipeline.from_pretrained(checkpoint, device="cpu")
    spec = replace(whole.spec, image_repeats=(1, 2), video_repeats=(2, 2))
    return with_spec(whole, replace(spec, clip_frames=4, max_seconds=2))


def taken(pipeline: InfinityStarPipeline, what: str, until: Position | None = None) -> Take:
    job = pipeline.job(REQUESTS[what]())
    for _ in job.run(until=until):
        pass
    return job.take()


def varied(take: Take) -> Take:
    """A take before its first step, of whose fine scale every other token is to be drawn anew."""
    (window,) = take.windows
    masks = {
        step.index: torch.arange(step.grid.tokens) % 2 == 0
        for step in window.schedule.steps
        if step.scale
    }
    given = frozenset(window.bits.keys() - masks.keys())
    window = replace(window, given=given, masks=masks, seconds=(), scores=())
    return replace(take, windows=(window,))


@pytest.fixture(scope="module")
def takes(pipeline: InfinityStarPipeline) -> dict[str, Take]:
    """Finished ones, by name; one that is not, and one of which tokens were kept."""
    made = {what: taken(pipeline, what) for what in REQUESTS}
    made["under way"] = taken(pipeline, "two windows", Position(1, 9))
    job = pipeline.job(varied(made["one window"]))
    for _ in job.run():
        pass
    return {**made, "kept in part": job.take()}


NAMES = [*REQUESTS, "under way", "kept in part"]


@pytest.mark.parametrize("what", NAMES)
def test_scores_of_a_run_are_those_of_its_replay(
    pipeline: InfinityStarPipeline, takes: dict[str, Take], what: str
) -> None:
    take, found = takes[what], {}
    for one in replay(pipeline.networks, take):
        drawing = one.drawing
        tokens = token_scores(drawing.branches, drawing.logits, one.bits, one.drawn)
        found[one.window, one.step.index] = step_score(tokens)
    for number, window in enumerate(take.windows):
        assert len(window.scores) == len(window.seconds)
        for index, own in enumerate(window.scores):
            assert own == found.get((number, index), NOTHING)
            assert (own == NOTHING) == (index in window.given)


@pytest.mark.parametrize("what", NAMES)
def test_scales_and_places_add_up_to_the_whole(
    pipeline: InfinityStarPipeline, takes: dict[str, Take], what: str
) -> None:
    take = takes[what]
    found = pipeline.score(take)
    whole = total(one for window in take.windows for one in window.scores)
    assert found.total == pytest.approx(whole, abs=0.01)
    bits = sum(
        window.bits[step.index].shape[1]
        * int(window.masks.get(step.index, torch.ones(step.grid.tokens)).sum())
        for window in take.windows
        for step in window.schedule.steps[: len(window.seconds)]
        if step.index not in window.given
    )
    assert found.bits == bits
    assert sum(float(frame.bits.sum()) for frame in found.frames) == pytest.approx(bits)
    placed = torch.stack([frame.nats.flatten(1).sum(dim=1) for frame in found.frames]).sum(dim=0)
    assert placed.tolist() == pytest.approx(whole, abs=0.01)


def test_places_are_where_bits_were_drawn(
    pipeline: InfinityStarPipeline, takes: dict[str, Take]
) -> None:
    # Two by three cells: the coarse scale is one token, of the fine one every other was drawn.
    frames = pipeline.score(takes["kept in part"]).frames
    fine = takes["kept in part"].windows[0].schedule.scales[-1]
    cells = fine[0] * fine[1]
    first = 0
    for frame in frames:
        drawn = (torch.arange(first, first + cells) % 2 == 0).reshape(fine)
        assert torch.equal(frame.bits > 0, drawn)
        assert torch.equal(frame.nats[0] < 0, drawn)
        # Tokens are counted through a clip; the first clip is one frame.
        first = 0 if first == frame.frame == 0 else first + cells
    # What was given has no frames.
    clips = {(frame.window, frame.frame) for frame in pipeline.score(takes["i2v"]).frames}
    assert clips == {(0, 1), (0, 2), (0, 3), (0, 4)}


def test_a_token_is_divided_among_the_cells_that_it_covers(pipeline: InfinityStarPipeline) -> None:
    budget = replace(pipeline.spec.pixel_budget, sides=(2, 3))
    uneven = with_spec(pipeline, replace(pipeline.spec, pixel_budget=budget))
    take = taken(uneven, "a picture")
    (window,) = take.windows
    assert window.schedule.scales == ((2, 3), (2, 4))
    (whole,) = uneven.score(take).frames
    coarse = replace(take, windows=(replace(window, seconds=(0.0,), scores=()),))
    (frame,) = uneven.score(coarse).frames
    # A cell is three quarters of a token wide, so the second one lies in two tokens.
    tokens = next(iter(replay(uneven.networks, coarse)))
    drawing = tokens.drawing
    nats = token_scores(drawing.branches, drawing.logits, tokens.bits)[0].reshape(2, 3).double()
    first, second = 0.75 * nats[:, 0], 0.25 * nats[:, 0] + 0.5 * nats[:, 1]
    assert torch.allclose(frame.nats[0, :, :2], torch.stack((first, second), dim=1))
    # All cells are as large, so they have as many bits.
    for one in (frame, whole):
        assert torch.allclose(one.bits, one.bits.mean().expand(2, 4))


def test_scores_are_kept_in_a_file_and_by_whoever_continues_it(
    pipeline: InfinityStarPipeline, takes: dict[str, Take], tmp_path: Path
) -> None:
    whole = takes["two windows"]
    part = Take.load(takes["under way"].save(tmp_path / "a.take"))
    assert part.windows[1].scores == whole.windows[1].scores[:9]
    job = pipeline.job(part)
    for _ in job.run():
        pass
    assert [one.scores for one in job.take().windows] == [one.scores for one in whole.windows]


def test_a_take_without_scores_stays_without(
    pipeline: InfinityStarPipeline, tmp_path: Path
) -> None:
    part = taken(pipeline, "one window", Position(0, 2))
    without = replace(part, windows=(replace(part.windows[0], scores=()),))
    job = pipeline.job(Take.load(without.save(tmp_path / "a.take")))
    for _ in job.run():
        pass
    (window,) = job.take().windows
    assert len(window.seconds) == len(window.schedule.steps)
    assert window.scores == ()


def test_what_is_not_begun_has_no_score(pipeline: InfinityStarPipeline) -> None:
    found = pipeline.score(pipeline.job(request()).take())
    assert (found.total, found.bits, found.frames) == (Score(0, 0, 0), 0, ())


def test_a_prompt_that_was_read_explains_bits_drawn_for_it(checkpoint: Path) -> None:
    tiny = InfinityStarPipeline.from_pretrained("tiny", device="cpu")
    job = tiny.job(request("t2i", prompt="a red circle on a blue background", aspect=1))
    for _ in job.run():
        pass
    take = job.take()
    other = replace(take.request, prompt="a white star on a green background")
    own, foreign = (tiny.score(replace(take, request=one)).total for one in (take.request, other))
    assert own.explained > 0 > foreign.explained
    assert own.conditional > foreign.conditional
    assert own.drawn > foreign.drawn


def test_latents_are_those_that_the_run_had(
    pipeline: InfinityStarPipeline, takes: dict[str, Take]
) -> None:
    for what in ("one window", "under way"):
        take = takes[what]
        job = pipeline.job(take)
        for _ in job.run(until=take.position):
            pass
        generation = job.state.generation
        window = take.windows[-1]
        found = latents_of(window, take.detail_bits)
        if generation is None:
            continue
        had = list(generation.latents)
        if not window.schedule.steps[len(window.seconds) - 1].ends_clip:
            had.append(generation.canvas.total)
        assert torch.equal(found, torch.cat(had, dim=2))


@pytest.mark.parametrize("what", ["one window", "i2v", "interact"])
def test_pictures_are_those_of_the_video(
    pipeline: InfinityStarPipeline, takes: dict[str, Take], what: str
) -> None:
    take = takes[what]
    frames = pipeline.finish(take).frames
    found = list(pictures_of(pipeline.networks, take, pipeline.score(take).frames))
    # Every latent frame but the first one stands for four pictures, and is shown by the last.
    shown = list(frames[4::4])
    if what != "i2v":
        shown.insert(0, found[0])
    assert len(found) == len(shown)
    for one, other in zip(found, shown, strict=True):
        assert torch.equal(one, other)


def test_a_heat_map_has_a_line_for_pictures_and_one_for_each_score(
    pipeline: InfinityStarPipeline, takes: dict[str, Take]
) -> None:
    found = pipeline.score(takes["under way"])
    shown = drawn_over_pictures(pipeline.networks, takes["under way"], found)
    assert shown.dtype == torch.uint8
    lines = heat_map([pictures(1)[0]] * len(found.frames), [""] * len(found.frames), ())
    assert shown.shape == (3 * lines.shape[0], lines.shape[1], 3)

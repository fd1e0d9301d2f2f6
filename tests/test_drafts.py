"""Drafts that are finished, and variations of takes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from asking import pictures, request, with_spec
from istar import GenerationRequest, InfinityStarPipeline, Take, UsageError
from istar.generation.until import Until

SECOND = 16
REQUESTS = {
    "t2i": request("t2i", seconds=None),
    "t2v": request(seconds=3),
    "i2v": request("i2v", image=pictures(1)[0], seconds=1),
    "extend": request("extend", clip=pictures(SECOND + 1), seconds=2),
    "interact": request("interact", prompt=("a red circle", "it moves up"), seconds=None),
}


@pytest.fixture(scope="module")
def pipeline(checkpoint: Path) -> InfinityStarPipeline:
    """Clips of a second, one pass of two: several windows are quickly made."""
    whole = InfinityStarPipeline.from_pretrained(checkpoint, device="cpu", dtype="fp32")
    return with_spec(whole, replace(whole.spec, clip_frames=4, max_seconds=2))


@pytest.mark.parametrize(
    "mode", ["t2i", "t2v", "i2v", "interact", pytest.param("extend", marks=pytest.mark.slow)]
)
def test_a_finished_draft_is_what_one_run_makes(
    pipeline: InfinityStarPipeline, mode: str, tmp_path: Path
) -> None:
    wanted = REQUESTS[mode]
    whole = pipeline.generate(wanted)
    for until in ((1, 1), 1.0):
        take = pipeline.draft(wanted, until=until)
        assert take.finished == (mode in ("t2i", "i2v") and until == 1.0)
        result = pipeline.finish(Take.load(take.save(tmp_path / "a.take", overwrite=True)))
        assert torch.equal(result.frames, whole.frames)
        assert result.metadata == whole.metadata


@pytest.mark.parametrize(
    ("mode", "clip"), [("t2i", 0), ("t2v", 1), ("i2v", 1), ("extend", 2), ("interact", 1)]
)
@pytest.mark.parametrize(("until", "scale"), [((1, 1), 0), (0.25, 0), ((3, 2), 1), (1.0, 1)])
def test_a_draft_stops_in_the_first_clip_that_is_new_and_shown(
    pipeline: InfinityStarPipeline, mode: str, clip: int, until: Until, scale: int
) -> None:
    step = pipeline.draft(REQUESTS[mode], until=until).last_step
    assert step is not None
    assert (step.clip, step.scale) == (clip, scale)


def test_an_interactive_draft_that_continues_a_clip(pipeline: InfinityStarPipeline) -> None:
    wanted = replace(REQUESTS["interact"], clip=pictures(SECOND + 1))
    take = pipeline.draft(wanted, until=(1, 1))
    assert take.last_step is not None
    assert (take.last_step.clip, take.last_step.grid) == (0, (4, 1, 1))
    assert torch.equal(pipeline.finish(take).frames, pipeline.generate(wanted).frames)


def finished(pipeline: InfinityStarPipeline, wanted: GenerationRequest | Take) -> Take:
    job = pipeline.job(wanted)
    for _ in job.run():
        pass
    return job.take()


@pytest.mark.parametrize("mode", REQUESTS)
def test_a_variation_keeps_the_coarse_scales_of_its_first_window(
    pipeline: InfinityStarPipeline, mode: str, tmp_path: Path
) -> None:
    take = finished(pipeline, REQUESTS[mode])
    start = take.varied(keep=(1, 1), seed=8)
    assert Take.load(start.save(tmp_path / "a.take")).request.seed == 8
    made = finished(pipeline, Take.load(tmp_path / "a.take"))
    assert (made.finished, made.total) == (True, take.total)
    inputs = {"i2v": 1, "extend": 2}.get(mode, 0)
    for step in take.windows[0].schedule.steps:
        same = torch.equal(made.windows[0].bits[step.index], take.windows[0].bits[step.index])
        assert same == (step.scale == 0 or step.clip < inputs), step
    for ours, theirs in zip(made.windows[1:], take.windows[1:], strict=True):
        assert not ours.given - theirs.given
        assert any(not torch.equal(ours.bits[step], theirs.bits[step]) for step in ours.bits)


def test_another_prompt_changes_what_is_drawn_anew(pipeline: InfinityStarPipeline) -> None:
    take = finished(pipeline, request())
    same, other = (
        finished(pipeline, take.varied(keep=(1, 1), seed=5, prompt=prompt))
        for prompt in (None, "a blue square")
    )
    assert other.request.prompt == "a blue square"
    for step in take.windows[0].schedule.steps:
        equal = torch.equal(same.windows[0].bits[step.index], other.windows[0].bits[step.index])
        assert equal == (step.scale == 0)


def test_of_an_interactive_take_the_first_prompt_changes(pipeline: InfinityStarPipeline) -> None:
    take = pipeline.draft(REQUESTS["interact"])
    varied = take.varied(keep=(1, 1), seed=1, prompt="a blue square")
    assert varied.request.prompts == ("a blue square", "it moves up")


def test_a_region_of_some_time_is_drawn_anew(pipeline: InfinityStarPipeline) -> None:
    take = finished(pipeline, request(seconds=2))
    made = finished(pipeline, take.varied(seed=3, seconds=(1, 1.5), region=(16, 0, 32, 16)))
    (old,), (new,) = take.windows, made.windows
    for step in old.schedule.steps:
        changed = (new.bits[step.index] != old.bits[step.index]).any(dim=1).view(step.grid)
        places = {tuple(place) for place in changed.nonzero().tolist()}
        if step.scale == 0 or step.clip != 2:
            assert not places
        else:
            # The second clip's first half second; of two rows and three columns two.
            assert places <= {(frame, 0, column) for frame in (0, 1) for column in (1, 2)}
            assert places
    before, after = pipeline.finish(take).frames, pipeline.finish(made).frames
    assert torch.equal(before[:17], after[:17])
    assert not torch.equal(before, after)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "keeps a scale"),
        ({"keep": (2, 2)}, "no scale of 2x2; the scales are 1x1, 3x2"),
        ({"keep": (3, 2)}, "come to 1x1 only"),
        ({"seconds": (7, 8)}, "no whole quarter"),
        ({"region": (0, 0, 49, 32)}, "48×32"),
        ({"keep": (1, 1), "prompt": ""}, "prompt is empty"),
        ({"keep": (1, 1), "seed": -1}, "seed"),
    ],
)
def test_what_cannot_be_varied(
    pipeline: InfinityStarPipeline, changes: dict[str, object], said: str
) -> None:
    take = pipeline.draft(request(), until=(1, 1))
    with pytest.raises(UsageError, match=said):
        take.varied(**{"seed": 0, **changes})  # type: ignore[arg-type]


def test_a_take_before_its_first_step_cannot_be_varied(pipeline: InfinityStarPipeline) -> None:
    with pytest.raises(UsageError, match="no steps that could stay"):
        pipeline.job(request()).take().varied(keep=(1, 1), seed=0)


@pytest.mark.parametrize(
    "mode",
    ["t2i", *(pytest.param(mode, marks=pytest.mark.slow) for mode in ("t2v", "i2v", "extend"))],
)
def test_drafts_of_the_bundled_model(mode: str) -> None:
    tiny = InfinityStarPipeline.from_pretrained("tiny", device="cpu", dtype="fp32")
    changes = {
        "i2v": {"image": pictures(1, 80, 80)[0]},
        "extend": {"clip": pictures(SECOND + 1, 80, 80)},
    }.get(mode, {})
    wanted = request(mode, seconds=None if mode == "t2i" else 1, aspect=1.0, **changes)
    take = tiny.draft(wanted)
    assert not take.finished
    assert torch.equal(tiny.finish(take).frames, tiny.generate(wanted).frames)

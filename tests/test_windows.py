"""What a model makes that was not trained for it, or whose videos begin otherwise."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from asking import clips_of, pictures, request, with_spec
from istar import CheckpointError, InfinityStarPipeline


@pytest.fixture(scope="module")
def pipeline(checkpoint: Path) -> InfinityStarPipeline:
    return InfinityStarPipeline.from_pretrained(checkpoint, device="cpu")


def test_a_mode_that_a_model_was_not_trained_for_works_with_a_note(
    pipeline: InfinityStarPipeline,
) -> None:
    # As the released interactive model, which goes on from its own clips only.
    interactive = with_spec(pipeline, replace(pipeline.spec, extends=False))
    done = interactive.generate(request("t2i"))
    assert len(done.frames) == 1
    assert any("was not trained for t2i, but for interact" in note for note in done.notes)
    assert not any("trained for" in note for note in pipeline.generate(request("t2i")).notes)


def test_a_video_longer_than_one_pass_works_with_a_note(pipeline: InfinityStarPipeline) -> None:
    # As the released 720p model: nothing is refused, and it was not trained to go on.
    base = with_spec(pipeline, replace(pipeline.spec, extends=False, interact=None, max_seconds=5))
    done = base.generate(request("t2v", seconds=6))
    assert len(done.frames) == 6 * 16 + 1
    assert [note for note in done.notes if "not trained" in note] == [
        "the random model was not trained to continue given video"
    ]
    assert not any("not trained" in note for note in base.generate(request("t2v")).notes)


@pytest.fixture
def one_pyramid(pipeline: InfinityStarPipeline) -> InfinityStarPipeline:
    """The same networks, without an image clip at a video's start; full clips have a second."""
    changes = {"pyramid": "one", "extends": False, "interact": None, "clip_frames": 4}
    return with_spec(pipeline, replace(pipeline.spec, **changes, max_seconds=2))


@pytest.mark.parametrize("seconds", [1, 2])
def test_with_one_pyramid_the_first_picture_is_its_own(
    one_pyramid: InfinityStarPipeline, seconds: int
) -> None:
    events = list(one_pyramid.stream(request("t2v", seconds=seconds)))
    clips = clips_of(events)
    assert [len(clip) for clip in clips] == [17] + [16] * (seconds - 1)
    assert not torch.equal(clips[0][0], clips[0][1])
    assert not any("not trained" in str(event) for event in events)


def test_otherwise_it_is_a_copy_of_the_second(pipeline: InfinityStarPipeline) -> None:
    frames = pipeline.generate(request("t2v")).frames
    assert len(frames) == 17
    assert torch.equal(frames[0], frames[1])


def test_with_one_pyramid_a_picture_is_one_frame(one_pyramid: InfinityStarPipeline) -> None:
    assert len(one_pyramid.generate(request("t2i")).frames) == 1


@pytest.mark.parametrize(
    ("mode", "changes", "said"),
    [
        ("i2v", {"image": pictures(1)[0]}, "cannot do i2v"),
        ("extend", {"clip": pictures(16)}, "cannot do extend"),
        ("interact", {"clip": pictures(16), "prompt": ("a", "b")}, "cannot do interact"),
        ("t2v", {"seconds": 2.25}, "makes at most 2 s, not 2.25"),
    ],
)
def test_with_one_pyramid_nothing_given_is_continued(
    one_pyramid: InfinityStarPipeline,
    monkeypatch: pytest.MonkeyPatch,
    mode: str,
    changes: dict[str, object],
    said: str,
) -> None:
    monkeypatch.delattr("istar.job.advance")
    with pytest.raises(CheckpointError, match=f"the random model {said}"):
        next(one_pyramid.stream(request(mode, **changes)))


def test_full_context_makes_every_other_video(pipeline: InfinityStarPipeline) -> None:
    full = with_spec(pipeline, replace(pipeline.spec, context="full", interact=None))
    for asked, length in (
        (request("t2v"), 17),
        (request("i2v", image=pictures(1)[0]), 17),
        (request("extend", clip=pictures(16)), 32),
    ):
        frames = full.generate(asked).frames
        assert len(frames) == length
        assert not torch.equal(frames, pipeline.generate(asked).frames)

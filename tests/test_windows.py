"""What is said of what a model was not trained for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from asking import request, with_spec
from istar import InfinityStarPipeline


@pytest.fixture(scope="module")
def pipeline(checkpoint: Path) -> InfinityStarPipeline:
    return InfinityStarPipeline.from_pretrained(checkpoint, device="cpu")


def test_a_mode_that_a_model_was_not_trained_for_is_done_and_said(
    pipeline: InfinityStarPipeline,
) -> None:
    # As the released interactive model, which goes on from its own clips only.
    interactive = with_spec(pipeline, replace(pipeline.spec, extends=False))
    done = interactive.generate(request("t2i"))
    assert len(done.frames) == 1
    assert any("was not trained for t2i, but for interact" in note for note in done.notes)
    assert not any("trained for" in note for note in pipeline.generate(request("t2i")).notes)


def test_a_video_longer_than_one_pass_is_made_and_said(pipeline: InfinityStarPipeline) -> None:
    # As the released 720p model: nothing is refused, and it was not trained to go on.
    base = with_spec(pipeline, replace(pipeline.spec, extends=False, interact=None, max_seconds=5))
    done = base.generate(request("t2v", seconds=6))
    assert len(done.frames) == 6 * 16 + 1
    assert [note for note in done.notes if "not trained" in note] == [
        "the random model was not trained to go on from given video"
    ]
    assert not any("not trained" in note for note in base.generate(request("t2v")).notes)

"""Where a draft stops."""

from __future__ import annotations

import pytest

from istar.errors import UsageError
from istar.generation.flop import step_flop
from istar.generation.schedule import ClipPlan, Step, nearest_template, steps
from istar.generation.until import Until, scale_number, stop_step
from istar.models.released import RELEASED_MODELS
from istar.plan import Window
from istar.transformer.config import TransformerConfig

CONFIG = TransformerConfig()
SMALL = steps(
    [ClipPlan(frames=1, repeats=(1, 1, 1)), ClipPlan(frames=4, repeats=(2, 2, 1))],
    [(1, 1), (2, 3), (4, 6)],
    semantic_scales=1,
)


def at_720p() -> tuple[Step, ...]:
    (spec,) = (spec for spec in RELEASED_MODELS if spec.name == "720p")
    window = Window(given_seconds=0, new_seconds=5)
    return window.steps(spec, nearest_template(9 / 16))


def test_a_quarter_of_five_seconds_at_720p_is_the_32x18_scale() -> None:
    steps_720p = at_720p()
    stop = stop_step(CONFIG, steps_720p, 1, 0.25)
    assert (steps_720p[stop - 1].grid, steps_720p[stop].scale) == ((20, 18, 32), 12)
    assert stop == stop_step(CONFIG, steps_720p, 1, (32, 18))


@pytest.mark.parametrize("share", [0.01, 0.1, 0.25, 0.5, 0.99])
def test_no_more_steps_fit_into_a_share(share: float) -> None:
    own = [step for step in at_720p() if step.clip == 1]
    costs = [step_flop(CONFIG, step, at_720p()) for step in own]
    taken = stop_step(CONFIG, at_720p(), 1, share) - own[0].index
    assert sum(costs[:taken]) <= share * sum(costs) < sum(costs[: taken + 1])


@pytest.mark.parametrize(
    ("clip", "until", "stop"),
    [
        (0, (1, 1), 1),
        (0, (6, 4), 3),
        (1, (1, 1), 5),
        (1, (3, 2), 7),
        (1, (6, 4), 8),
        (1, 1.0, 8),
        (1, 1e-9, 4),
        (0, 1e-9, 1),
    ],
)
def test_a_draft_stops_after_a_scale_of_its_clip(clip: int, until: Until, stop: int) -> None:
    assert stop_step(CONFIG, SMALL, clip, until) == stop


@pytest.mark.parametrize("until", [0.0, -1.0, 1.01, float("nan")])
def test_a_share_is_a_part(until: float) -> None:
    with pytest.raises(UsageError, match="above 0 and at most 1"):
        stop_step(CONFIG, SMALL, 1, until)


def test_an_unknown_scale_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(UsageError, match=r"no scale of 2x3; the scales are 1x1, 3x2, 6x4$"):
        stop_step(CONFIG, SMALL, 1, (2, 3))


def test_of_scales_of_one_size_the_finest_is_meant() -> None:
    alike = steps(
        [ClipPlan(frames=1, repeats=(1, 1, 1))], [(1, 1), (1, 1), (2, 2)], semantic_scales=1
    )
    assert scale_number(alike, (1, 1)) == 1

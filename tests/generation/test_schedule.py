from __future__ import annotations

from itertools import groupby

import pytest

from istar.errors import CheckpointError, UsageError
from istar.generation.schedule import (
    PIXEL_BUDGETS,
    TEMPLATES,
    ClipPlan,
    Grid,
    PixelBudget,
    Step,
    clip_lengths,
    grids,
    nearest_template,
    steps,
)
from istar.model_spec import ModelSpec
from istar.models.released import RELEASED_MODELS

SCALES = ((1, 1), (1, 2), (2, 3))
QUARTER_SECONDS = range(4, 41)


def plan(*clips: tuple[int, tuple[int, ...]]) -> list[ClipPlan]:
    return [ClipPlan(frames=frames, repeats=repeats) for frames, repeats in clips]


def released(name: str, latent_frames: int) -> tuple[Step, ...]:
    spec: ModelSpec = next(model for model in RELEASED_MODELS if model.name == name)
    clips = [
        ClipPlan(frames=frames, repeats=spec.video_repeats if i else spec.image_repeats)
        for i, frames in enumerate(clip_lengths(latent_frames, 20))
    ]
    scales = spec.pixel_budget.scales(nearest_template(9 / 16))
    return steps(clips, scales, semantic_scales=spec.semantic_scales)


def test_steps_literally() -> None:
    found = steps(plan((1, (1, 2, 1)), (2, (1, 1, 2))), SCALES, semantic_scales=2)
    rows = [
        (s.index, s.clip, s.scale, s.repetition, s.grid, s.first_frame, s.semantic) for s in found
    ]
    assert rows == [
        (0, 0, 0, 0, (1, 1, 1), 0, True),
        (1, 0, 1, 0, (1, 1, 2), 0, True),
        (2, 0, 1, 1, (1, 1, 2), 0, True),
        (3, 0, 2, 0, (1, 2, 3), 0, False),
        (4, 1, 0, 0, (2, 1, 1), 1, True),
        (5, 1, 1, 0, (2, 1, 2), 1, True),
        (6, 1, 2, 0, (2, 2, 3), 1, False),
        (7, 1, 2, 1, (2, 2, 3), 1, False),
    ]
    assert [s.full_grid for s in found] == [(1, 2, 3)] * 4 + [(2, 2, 3)] * 4
    assert [s.index for s in found if s.image] == [0, 1, 2, 3]
    assert [s.index for s in found if s.starts_clip] == [0, 4]
    assert [s.index for s in found if s.ends_clip] == [3, 7]
    assert [s.index for s in found if s.read_later] == [3]
    assert [s.looks_at for s in found] == [()] * 4 + [(3,)] * 4


def test_a_full_context_is_the_last_repetition_of_every_earlier_scale() -> None:
    clips = plan((1, (1, 2, 1)), (2, (1, 1, 2)))
    found = steps(clips, SCALES, semantic_scales=2, context="full")
    assert [s.looks_at for s in found] == [
        (),
        (0,),
        (0,),
        (0, 2),
        (0, 2, 3),
        (0, 2, 3, 4),
        (0, 2, 3, 4, 5),
        (0, 2, 3, 4, 5),
    ]
    assert [s.index for s in found if s.read_later] == [0, 2, 3, 4, 5]


def test_a_first_clip_of_several_frames_is_a_video_clip() -> None:
    assert not any(s.image for s in steps(plan((2, (1, 1, 1))), SCALES, semantic_scales=2))


@pytest.mark.parametrize("latent_frames", [1, 2, 5, 21, 22, 41, 45, 61])
@pytest.mark.parametrize("name", [model.name for model in RELEASED_MODELS])
def test_steps_of_released_models(name: str, latent_frames: int) -> None:
    found = released(name, latent_frames)
    clips = [list(clip) for _, clip in groupby(found, key=lambda step: step.clip)]
    lengths = clip_lengths(latent_frames, 20)
    assert [step.index for step in found] == list(range(len(found)))
    assert [clip[0].grid.frames for clip in clips] == list(lengths)
    for number, clip in enumerate(clips):
        assert [step.starts_clip for step in clip] == [True] + [False] * (len(clip) - 1)
        assert [step.ends_clip for step in clip] == [False] * (len(clip) - 1) + [True]
        assert clip[-1].read_later == (number < len(clips) - 1)
        assert not any(step.read_later for step in clip[:-1])
        assert {step.first_frame for step in clip} == {sum(lengths[:number])}
        assert {step.full_grid for step in clip} == {clip[-1].grid}
        assert {step.image for step in clip} == {number == 0}
        order = [(step.scale, step.repetition) for step in clip]
        assert order == sorted(set(order))


@pytest.mark.parametrize(
    ("name", "least_detail"), [("720p", 750), ("480p", 350), ("interact", 350)]
)
def test_detail_scales_begin_at_the_released_size(name: str, least_detail: int) -> None:
    for step in released(name, 21):
        assert step.semantic == (step.grid.height * step.grid.width < least_detail)


@pytest.mark.parametrize(
    ("name", "token_passes", "text_and_steps", "unread_image_steps"),
    [("720p", 244_197, 86, 44), ("480p", 161_397, 82, 41)],
)
def test_published_costs_of_five_seconds(
    name: str, token_passes: int, text_and_steps: int, unread_image_steps: int
) -> None:
    found = released(name, 21)
    assert sum(step.grid.tokens for step in found) == token_passes
    assert 1 + len(found) == text_and_steps
    assert sum(step.clip == 0 and not step.read_later for step in found) == unread_image_steps


@pytest.mark.parametrize(
    ("latent_frames", "lengths"),
    [
        (1, (1,)),
        (2, (1, 1)),
        (5, (1, 4)),
        (21, (1, 20)),
        (22, (1, 20, 1)),
        (41, (1, 20, 20)),
        (45, (1, 20, 20, 4)),
    ],
)
def test_clip_lengths(latent_frames: int, lengths: tuple[int, ...]) -> None:
    assert clip_lengths(latent_frames, 20) == lengths


@pytest.mark.parametrize(
    ("latent_frames", "lengths"),
    [
        (1, (1,)),
        (2, (2,)),
        (5, (5,)),
        (21, (21,)),
        (22, (21, 1)),
        (41, (21, 20)),
        (45, (21, 20, 4)),
    ],
)
def test_clip_lengths_where_the_first_frame_has_no_clip_of_its_own(
    latent_frames: int, lengths: tuple[int, ...]
) -> None:
    assert clip_lengths(latent_frames, 20, "one") == lengths


@pytest.mark.parametrize("quarters", QUARTER_SECONDS)
def test_every_duration_is_made_of_clips(quarters: int) -> None:
    latent_frames = quarters + 1
    first, *rest = clip_lengths(latent_frames, 20)
    assert first == 1
    assert first + sum(rest) == latent_frames
    assert all(length == 20 for length in rest[:-1])
    assert 1 <= rest[-1] <= 20
    assert 4 * (latent_frames - 1) == 16 * quarters / 4


def test_templates_are_named_for_their_real_ratio() -> None:
    squarish = ["1.0", "0.861", "1.16", "0.753", "1.326", "0.671", "1.489"]
    wide_or_tall = ["0.562", "1.777", "0.494", "2.023", "0.4", "2.5", "0.336", "2.971"]
    names = squarish + wide_or_tall
    assert [template.name for template in TEMPLATES] == names
    for template in TEMPLATES:
        height, width = template.scale(60)
        assert 0 <= height / width - float(template.name) < 1e-3


@pytest.mark.parametrize(
    ("budget", "grid", "scales"),
    [
        ("0.06M", (12, 21), 11),
        ("0.25M", (24, 43), 13),
        ("0.40M", (30, 53), 14),
        ("0.90M", (45, 80), 15),
    ],
)
def test_wide_and_tall_grids(budget: str, grid: tuple[int, int], scales: int) -> None:
    wide = PIXEL_BUDGETS[budget].scales(nearest_template(9 / 16))
    tall = PIXEL_BUDGETS[budget].scales(nearest_template(16 / 9))
    assert len(wide) == len(tall) == scales
    assert wide[-1] == grid
    assert tall[-1] == grid[::-1]


def test_scales_round_half_to_even() -> None:
    # sqrt(5² / 4) = 2.5 columns and 10 rows
    assert PixelBudget(name="", sides=(5,), resolution="").scales(
        type(TEMPLATES[0])(name="", ratio=4.0)
    ) == ((10, 2),)


def test_grids_go_through_the_scales_of_every_clip() -> None:
    budget = PixelBudget(name="", sides=(1, 2), resolution="")
    assert grids(budget, TEMPLATES[0], (1, 3)) == (
        Grid(1, 1, 1),
        Grid(1, 2, 2),
        Grid(3, 1, 1),
        Grid(3, 2, 2),
    )


@pytest.mark.parametrize(
    ("ratio", "name"),
    [
        (1.0, "1.0"),
        (0.571, "0.562"),
        (9 / 16, "0.562"),
        (1.777, "1.777"),
        (0.93, "0.861"),
        (0.931, "1.0"),
        (1e-9, "0.336"),
        (1e9, "2.971"),
    ],
)
def test_nearest_template(ratio: float, name: str) -> None:
    assert nearest_template(ratio).name == name


@pytest.mark.parametrize("ratio", [float("nan"), 0.0, -1.0, float("inf")])
def test_invalid_ratios(ratio: float) -> None:
    with pytest.raises(UsageError, match="positive number"):
        nearest_template(ratio)


@pytest.mark.parametrize("repeats", [(), (1, 1), (1, 1, 1, 1), (1, 0, 1), (1, 1, -1)])
def test_repeats_that_do_not_fit(repeats: tuple[int, ...]) -> None:
    with pytest.raises(CheckpointError, match="repeats"):
        steps(plan((1, repeats)), SCALES, semantic_scales=1)


@pytest.mark.parametrize("sides", [(), (0, 1), (2, 1), (1, 1)])
def test_invalid_scale_sides(sides: tuple[int, ...]) -> None:
    with pytest.raises(CheckpointError, match="sides"):
        PixelBudget(name="", sides=sides, resolution="")

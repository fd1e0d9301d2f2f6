from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from istar.generation.schedule import nearest_template
from istar.models.released import RELEASED_MODELS
from istar.plan import Window, plan_request, windows_after, windows_from_start
from istar.request import GenerationRequest

MODELS = {spec.name: spec for spec in RELEASED_MODELS}


def shape(windows: tuple[Window, ...]) -> list[tuple[int, float]]:
    return [(window.given_seconds, window.new_seconds) for window in windows]


def test_a_picture_is_one_clip_of_one_frame() -> None:
    (window,) = windows_from_start(0, MODELS["720p"])
    assert window.clip_lengths(MODELS["720p"]) == (1,)
    steps = window.steps(MODELS["720p"], nearest_template(1))
    assert all(step.image for step in steps)
    assert len(steps) == 45


@pytest.mark.parametrize(
    ("name", "seconds", "windows"),
    [
        ("720p", 1, [(0, 1)]),
        ("720p", 5, [(0, 5)]),
        ("720p", 8, [(0, 5), (5, 3)]),
        ("480p", 10, [(0, 10)]),
        ("480p", 10.25, [(0, 10), (5, 0.25)]),
        ("480p", 21, [(0, 10), (5, 5), (5, 5), (5, 1)]),
    ],
)
def test_windows_of_a_new_video(
    name: str, seconds: float, windows: list[tuple[int, float]]
) -> None:
    assert shape(windows_from_start(seconds, MODELS[name])) == windows


@pytest.mark.parametrize(
    ("shown", "seconds", "windows"),
    [
        (5, 5, [(5, 5)]),
        (60, 10, [(5, 5), (5, 5)]),
        (1, 5, [(1, 5)]),
        (1.9, 7, [(1, 5), (5, 2)]),
        (3.5, 0.25, [(3, 0.25)]),
        (2, 12, [(2, 5), (5, 5), (5, 2)]),
    ],
)
def test_windows_after_a_clip(
    shown: float, seconds: float, windows: list[tuple[int, float]]
) -> None:
    assert shape(windows_after(shown, seconds, MODELS["480p"])) == windows


def test_a_models_own_clip_length_cuts_everything() -> None:
    spec = replace(MODELS["480p"], clip_frames=8, max_seconds=4)
    assert spec.clip_seconds == 2
    (window,) = windows_from_start(3, spec)
    assert window.clip_lengths(spec) == (1, 8, 4)
    assert shape(windows_from_start(7, spec)) == [(0, 4), (2, 2), (2, 1)]
    after = windows_after(10, 3, spec)
    assert shape(after) == [(2, 2), (2, 1)]
    assert after[0].clip_lengths(spec) == (1, 8, 8)


@pytest.mark.parametrize("given", [1, 2, 3, 4, 5])
def test_time_runs_on_without_a_gap_after_a_given_clip_of_any_length(given: int) -> None:
    window = Window(given_seconds=given, new_seconds=5)
    assert window.clip_lengths(MODELS["480p"]) == (1, 4 * given, 20)
    assert window.given_pictures == 16 * given + 1
    steps = window.steps(MODELS["480p"], nearest_template(9 / 16))
    starts = {step.clip: (step.first_frame, step.grid.frames) for step in steps}
    assert starts == {0: (0, 1), 1: (1, 4 * given), 2: (1 + 4 * given, 20)}
    assert [step.clip for step in steps if step.read_later] == [0, 1]


def test_with_one_pyramid_a_video_begins_with_a_video_clip() -> None:
    spec = replace(MODELS["480p"], pyramid="one", extends=False)
    window = Window(given_seconds=0, new_seconds=6)
    steps = window.steps(spec, nearest_template(1))
    assert window.clip_lengths(spec) == (21, 4)
    assert len(steps) == 2 * sum(spec.video_repeats)
    assert not any(step.image for step in steps)
    assert {step.clip: step.first_frame for step in steps} == {0: 0, 1: 21}
    picture = Window(given_seconds=0, new_seconds=0).steps(spec, nearest_template(1))
    assert len(picture) == sum(spec.image_repeats)
    assert all(step.image for step in picture)


def test_a_models_context_is_its_steps() -> None:
    spec = replace(MODELS["480p"], context="full")
    steps = Window(given_seconds=0, new_seconds=5).steps(spec, nearest_template(1))
    assert len(steps[-1].looks_at) == 2 * len(spec.pixel_budget.sides) - 1


def test_only_the_image_clip_of_a_video_has_the_images_repeats_and_temperature() -> None:
    spec = MODELS["480p"]
    window = Window(given_seconds=5, new_seconds=0.25)
    steps = window.steps(spec, nearest_template(1))
    assert window.clip_lengths(spec) == (1, 20, 1)
    for clip, repeats in enumerate((spec.image_repeats, spec.video_repeats, spec.video_repeats)):
        own = [step for step in steps if step.clip == clip]
        assert len(own) == sum(repeats)
        assert all(step.image == (clip == 0) for step in own)


@pytest.mark.parametrize(
    ("prompt", "negative", "guided"),
    [("", "", False), ("  ", "", False), ("a boat", "", True), ("", "fog", True)],
)
def test_without_a_prompt_nothing_guides(prompt: str, negative: str, guided: bool) -> None:
    spec = RELEASED_MODELS[0]
    request = GenerationRequest(
        mode="i2v", prompt=prompt, image=Path("boat.png"), negative_prompt=negative
    )
    plan = plan_request(request, spec, nearest_template(1))
    assert (plan.sampling(0, request).guidance.scale != 1) == guided


@pytest.mark.parametrize(
    ("changes", "noted"),
    [
        ({"guidance_scale": 4}, True),
        ({"guidance_scale": 1}, False),
        ({}, False),
        ({"guidance_scale": 4, "prompt": "a boat"}, False),
        ({"guidance_scale": 4, "negative_prompt": "rain"}, False),
    ],
)
def test_guidance_that_an_empty_prompt_makes_useless_is_noted(
    changes: dict[str, Any], noted: bool
) -> None:
    settings: dict[str, Any] = {"mode": "i2v", "image": Path("boat.png"), "prompt": ""}
    request = GenerationRequest(**settings | changes)
    spec = MODELS["480p"]
    plan = plan_request(request, spec, nearest_template(1))
    expected = "without a prompt or a negative prompt nothing guides: a guidance scale of 4 has no"
    texts = [text for text, _ in plan.warnings(request)]
    assert [text.startswith(expected) for text in texts] == [True] * noted
    guided = plan.sampling(0, request).guidance.scale != 1
    assert guided == (changes not in ({}, {"guidance_scale": 1}) and not noted)

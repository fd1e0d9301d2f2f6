from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from istar.errors import CheckpointError
from istar.generation.guidance import GuidanceConfig
from istar.generation.sampling import SamplingConfig
from istar.generation.schedule import PIXEL_BUDGETS
from istar.model_spec import InteractConfig, ModelSpec, PromptForm
from istar.models.released import RELEASED_MODELS, choose
from istar.request import GenerationRequest, Mode

MODELS = {model.name: model for model in RELEASED_MODELS}


def released(*names: str) -> tuple[ModelSpec, ...]:
    return tuple(MODELS[name] for name in names)


ALL = released("720p", "480p", "interact")


@pytest.mark.parametrize(
    ("mode", "resolution", "seconds", "name"),
    [
        ("t2v", None, None, "720p"),
        ("t2i", None, None, "720p"),
        ("i2v", None, 5, "720p"),
        ("t2v", None, 5.25, "480p"),  # beyond what the 720p model makes in one pass
        ("t2v", None, 10, "480p"),
        ("t2v", "720p", 10, "720p"),  # what was asked for comes first
        ("t2v", "480p", 5, "480p"),
        ("extend", None, None, "480p"),  # the only one trained to
        ("extend", None, 5, "480p"),
        ("extend", "720p", 5, "720p"),
        ("interact", None, None, "interact"),
        ("interact", "480p", 20, "interact"),
    ],
)
def test_choice_among_all_released_models(
    mode: Mode, resolution: str | None, seconds: float | None, name: str
) -> None:
    assert choose(ALL, mode, resolution=resolution, seconds=seconds).name == name


@pytest.mark.parametrize("mode", ["t2i", "t2v", "i2v", "extend"])
@pytest.mark.parametrize("name", ["720p", "480p", "interact"])
def test_a_single_model_does_what_it_can(mode: Mode, name: str) -> None:
    assert choose(released(name), mode, seconds=60).name == name


def test_the_interactive_model_is_the_last_choice_for_anything_else() -> None:
    assert choose(released("interact", "480p"), "t2v").name == "480p"
    assert choose(released("interact", "720p"), "t2i").name == "720p"


def test_the_order_decides_between_equals() -> None:
    assert choose(released("480p", "720p"), "t2v").name == "480p"


def test_interact_without_an_interactive_model() -> None:
    with pytest.raises(CheckpointError, match="no interactive model") as refused:
        choose(released("720p", "480p"), "interact")
    assert "extend" in refused.value.remedies


ONE_PYRAMID = replace(MODELS["480p"], name="whole", pyramid="one", extends=False)


@pytest.mark.parametrize("mode", ["i2v", "extend", "interact"])
def test_one_pyramid_begins_with_nothing_given(mode: Mode) -> None:
    with pytest.raises(CheckpointError, match=f"whole model cannot do {mode}.*t2i and t2v"):
        choose((ONE_PYRAMID,), mode)


def test_one_pyramid_makes_what_it_makes_in_one_pass() -> None:
    for mode, seconds in (("t2i", None), ("t2v", None), ("t2v", 10)):
        assert choose((ONE_PYRAMID,), mode, seconds=seconds) is ONE_PYRAMID
    with pytest.raises(CheckpointError, match=r"at most 10 s, not 10\.25"):
        choose((ONE_PYRAMID,), "t2v", seconds=10.25)


def test_default_seconds_are_not_refused() -> None:
    short = replace(ONE_PYRAMID, max_seconds=2)
    for mode in short.modes:
        assert choose((short,), mode) is short
    with pytest.raises(CheckpointError, match="at most 2 s, not 5"):
        choose((short,), "t2v", seconds=5)


@pytest.mark.parametrize(
    ("mode", "most", "asked", "seconds"),
    [
        ("t2v", 10, None, 5),  # a full clip
        ("t2v", 2.25, None, 2.25),  # what one pass makes
        ("t2v", 2.25, 4, 4),
        ("t2i", 2.25, None, 0),
        ("interact", 2.25, None, 5),  # each prompt brings a full clip
    ],
)
def test_the_length_where_none_is_asked_for(
    mode: Mode, most: float, asked: float | None, seconds: float
) -> None:
    prompt = ("a cat",) if mode == "interact" else "a cat"
    request = GenerationRequest(mode=mode, prompt=prompt, seconds=asked)
    assert replace(MODELS["interact"], max_seconds=most).seconds_for(request) == seconds


@pytest.mark.parametrize(
    ("models", "mode", "resolution", "offered"),
    [
        (ALL, "t2v", "1080p", "720p, 480p, not 1080p"),
        (ALL, "interact", "720p", "480p, not 720p"),
        (released("480p"), "t2v", "720p", "480p, not 720p"),
    ],
)
def test_a_resolution_that_none_makes(
    models: tuple[ModelSpec, ...], mode: Mode, resolution: str, offered: str
) -> None:
    with pytest.raises(CheckpointError, match=offered):
        choose(models, mode, resolution=resolution)


def test_released_settings() -> None:
    big, small, interactive = ALL
    assert big.pixel_budget.resolution == "720p"
    assert big.image_repeats == (3,) * 15
    assert big.video_repeats == (3,) * 12 + (2, 1, 1)
    assert small.image_repeats == (3,) * 14
    assert small.video_repeats == (3,) * 12 + (2, 1)
    assert (big.max_seconds, small.max_seconds) == (5, 10)
    assert [model.name for model in ALL if model.interact] == ["interact"]
    for model in (big, small):
        assert model.sampling == SamplingConfig(
            guidance=GuidanceConfig(kind="apg", scale=34, norm_threshold=0.05, eta=0),
            tau_image=1.0,
            tau_video=0.4,
        )
    assert interactive.interact is not None
    assert interactive.interact.repeats == (3,) * 12 + (2, 1)
    assert interactive.interact.sampling == SamplingConfig(
        guidance=GuidanceConfig(kind="cfg", scale=3), tau_image=0.5, tau_video=0.5
    )
    # The eighth scale, whatever the budget.
    assert PIXEL_BUDGETS["0.40M"].sides[interactive.interact.context_scale] == 8


def test_released_prompts() -> None:
    form = MODELS["720p"].prompt
    plain, end = "a cat", ", Close-up on big objects, emphasize scale and detail"
    assert form.apply(plain, "t2v", 5.0, suffix=True) == f"<<<t=5s>>>{plain}{end}"
    assert form.apply(plain, "i2v", 2.5, suffix=True) == f"<<<t=2.5s>>>{plain}{end}"
    assert form.apply(plain, "extend", 10, suffix=False) == f"<<<t=10s>>>{plain}"
    assert form.apply(plain, "interact", 5, suffix=True) == f"<<<t=5s>>>{plain}"
    assert form.apply(plain, "t2i", 0, suffix=True) == f"{plain}{end}"
    assert form.apply("{seconds}", "t2v", 5, suffix=False) == "<<<t=5s>>>{seconds}"


@pytest.mark.parametrize("prefix", ["{", "{0}", "{time}", "{seconds:d}", "{}"])
def test_prefixes_that_cannot_be_filled(prefix: str) -> None:
    with pytest.raises(CheckpointError, match="prefix"):
        PromptForm(prefix=prefix)


@pytest.mark.parametrize(
    "prefix", ["{seconds.__class__.__init__.__globals__}", "{seconds.real}", "{seconds[0]}"]
)
def test_prefixes_do_not_look_inside(prefix: str) -> None:
    with pytest.raises(CheckpointError, match="prefix"):
        PromptForm(prefix=prefix)


@pytest.mark.parametrize("tau", [0.0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("clip", ["image", "video"])
def test_invalid_temperatures(clip: str, tau: float) -> None:
    taus = {"tau_image": 1.0, "tau_video": 1.0, f"tau_{clip}": tau}
    with pytest.raises(CheckpointError, match="temperatures"):
        SamplingConfig(guidance=GuidanceConfig(kind="cfg", scale=3), **taus)


INTERACT = MODELS["interact"].interact


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"image_repeats": (3,) * 13}, "image repeats"),
        ({"video_repeats": (3,) * 13 + (0,)}, "video repeats"),
        ({"video_repeats": ()}, "video repeats"),
        ({"interact": InteractConfig(repeats=(3,), sampling=MODELS["720p"].sampling)}, "interact"),
        ({"interact": replace(INTERACT, context_scale=14)}, "context scale"),
        ({"interact": replace(INTERACT, context_scale=-1)}, "context scale"),
        ({"semantic_scales": 15}, "semantic scales"),
        ({"semantic_scales": -1}, "semantic scales"),
        ({"aspect": -1.0}, "aspect"),
        ({"aspect": float("nan")}, "aspect"),
        ({"clip_frames": 0}, "clip_frames"),
        ({"clip_frames": -4}, "clip_frames"),
        ({"clip_frames": 10}, "clip_frames"),
        ({"max_seconds": 0.5}, "max_seconds"),
        ({"max_seconds": float("nan")}, "max_seconds"),
        ({"max_seconds": float("inf")}, "max_seconds"),
    ],
)
def test_settings_that_do_not_fit_together(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(CheckpointError, match=f"interact.*{said}|{said}"):
        replace(MODELS["interact"], **changes)

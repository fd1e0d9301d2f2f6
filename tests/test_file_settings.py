from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from istar import __version__
from istar.errors import MediaError
from istar.file_settings import FileSettings
from istar.models.released import RELEASED_MODELS
from istar.request import GenerationRequest

MODELS = {spec.name: spec for spec in RELEASED_MODELS}
APG, CFG = (asdict(MODELS[name].sampling.guidance) for name in ("480p", "interact"))


def made_with(model: str, mode: Any, **changes: Any) -> dict[str, Any]:
    request = GenerationRequest(mode=mode, **changes)
    settings = FileSettings.of(request, MODELS[model], device="cpu", dtype="bf16")
    return dict(json.loads(settings.texts()["comment"])["istar"])


def test_what_the_request_leaves_open_is_written_as_the_models_own() -> None:
    found = made_with("480p", "t2v", prompt="a cat")
    assert (found["guidance"], found["tau"], found["seconds"]) == (APG, [1.0, 0.4], 5)
    assert "start" not in found


def test_what_computed_it_is_written() -> None:
    found = made_with("480p", "t2v", prompt="a cat")
    assert (found["version"], found["device"], found["dtype"]) == (__version__, "cpu", "bf16")


def test_what_the_request_says_is_written() -> None:
    asked = {"guidance_scale": 2.5, "tau_video": 0.7, "seconds": 1.25}
    found = made_with("480p", "t2v", prompt="a cat", **asked)
    assert found["guidance"] == {**APG, "scale": 2.5}
    assert (found["tau"], found["seconds"]) == ([1.0, 0.7], 1.25)
    asked = {"guidance_scale": 1.0, "tau_image": 0.5}
    found = made_with("480p", "t2i", prompt="a cat", **asked)
    assert found["guidance"]["scale"] == 1
    assert (found["tau"], found["seconds"]) == ([0.5, 0.4], 0)


@pytest.mark.parametrize("clip", [None, Path("a.mp4")])
def test_an_interactive_video_has_the_interactive_settings(clip: Path | None) -> None:
    found = made_with("interact", "interact", prompt=("one", "two"), clip=clip, tau_image=0.9)
    assert (found["guidance"], found["tau"]) == (CFG, [0.9, 0.5])
    start = {"guidance": CFG, "tau": [0.9, 0.5]}
    assert found.get("start") == (None if clip else start)
    assert found["seconds"] == 5


def settings_of(model: str, mode: Any, **changes: Any) -> FileSettings:
    request = GenerationRequest(mode=mode, **changes)
    return FileSettings.of(request, MODELS[model], device="cpu", dtype="bf16")


REQUESTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "plain": ("480p", "t2v", {"prompt": "a cat"}),
    "asked": (
        "480p",
        "t2i",
        {"prompt": "猫", "aspect": 9 / 16, "guidance_scale": 2, "tau_image": 0.5, "suffix": False},
    ),
    "interact": ("interact", "interact", {"prompt": ("one", "two"), "negative_prompt": "red"}),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_settings_are_read_as_they_were_written(name: str) -> None:
    model, mode, changes = REQUESTS[name]
    settings = settings_of(model, mode, **changes)
    texts = settings.texts()
    again = FileSettings.read(texts, "it")
    assert again == settings
    spec, request = again.put_into(MODELS[model]), GenerationRequest(mode=mode, **changes)
    assert FileSettings.of(request, spec, device="cpu", dtype="bf16").texts() == texts


def test_a_temperature_for_each_scale_comes_back() -> None:
    spec = MODELS["480p"]
    each = tuple(1 - 0.05 * scale for scale in range(14))
    spec = replace(spec, sampling=replace(spec.sampling, tau_video=each))
    request = GenerationRequest(mode="t2v", prompt="a cat")
    settings = FileSettings.of(request, spec, device="cpu", dtype="bf16")
    again = FileSettings.read(settings.texts(), "it")
    assert again is not None
    assert again.put_into(MODELS["480p"]) == spec


def test_the_sampling_of_then_takes_the_place_of_the_models_own() -> None:
    then = settings_of("interact", "interact", prompt=("one",), guidance_scale=2.5, tau_image=0.7)
    spec = then.put_into(MODELS["interact"])
    assert spec.interact is not None
    for sampling in (spec.sampling, spec.interact.sampling):
        assert (sampling.guidance.scale, sampling.tau_image) == (2.5, 0.7)
    assert then.put_into(MODELS["480p"]) is MODELS["480p"]


def test_a_file_of_a_later_version_may_say_more() -> None:
    settings = settings_of("480p", "t2v", prompt="a cat")
    later = {"istar": {**settings.as_json(), "mood": "calm"}}
    assert FileSettings.read({"comment": json.dumps(later)}, "it") == settings


@pytest.mark.parametrize("comment", ["", "{", "[" * 10_000, "7", "null", "[]", '{"other": 1}'])
def test_texts_of_others_are_no_settings(comment: str) -> None:
    assert FileSettings.read({"comment": comment}, "it") is None
    assert FileSettings.read({}, "it") is None


@pytest.mark.parametrize(
    "change",
    [
        {"seed": "7"},
        {"seed": None},
        {"prompt": {"a": 1}},
        {"mode": "t2x"},
        {"dtype": "fp4"},
        {"seconds": float("nan")},
        {"tau": [1]},
        {"guidance": {"kind": "none", "scale": 1}},
        {"guidance": 4},
        {"start": []},
        {"asked": {"steps": 50}},
    ],
)
def test_damaged_settings_are_named(change: dict[str, Any]) -> None:
    table = {**settings_of("480p", "t2v", prompt="a cat").as_json(), **change}
    with pytest.raises(MediaError, match="the settings in it are damaged: "):
        FileSettings.read({"comment": json.dumps({"istar": table})}, "it")
    for value in (7, None, []):
        with pytest.raises(MediaError, match="damaged"):
            FileSettings.read({"comment": json.dumps({"istar": value})}, "it")


@pytest.mark.parametrize("tau", [(0.0, 1.0), ((1.0, 0.5), 1.0)])
def test_settings_that_do_not_fit_the_model_are_refused(tau: tuple[Any, Any]) -> None:
    settings = replace(settings_of("480p", "t2v", prompt="a cat"), tau=tau)
    with pytest.raises(MediaError, match="do not fit the model"):
        settings.put_into(MODELS["480p"])

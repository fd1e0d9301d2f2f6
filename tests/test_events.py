from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from istar import __version__
from istar.events import settings
from istar.models.released import RELEASED_MODELS
from istar.request import GenerationRequest

MODELS = {spec.name: spec for spec in RELEASED_MODELS}
APG, CFG = (asdict(MODELS[name].sampling.guidance) for name in ("480p", "interact"))


def made_with(model: str, mode: Any, **changes: Any) -> dict[str, Any]:
    request = GenerationRequest(mode=mode, **changes)
    cpu = torch.device("cpu")
    written = settings(request, MODELS[model], device=cpu, dtype="bf16")["comment"]
    return dict(json.loads(written)["istar"])


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

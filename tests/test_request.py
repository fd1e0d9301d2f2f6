from __future__ import annotations

import json
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from istar.errors import UsageError
from istar.request import LAST_SEED, MAX_PROMPT_CHARACTERS, GenerationRequest, check_seconds

PICTURE = Path("picture.png")
CLIP = torch.zeros(16, 8, 8, 3, dtype=torch.uint8)
NAN, INF = float("nan"), float("inf")

SOUND: dict[str, dict[str, Any]] = {
    "t2i": {"prompt": "a cat"},
    "t2v": {"prompt": "a cat"},
    "i2v": {"image": PICTURE},
    "extend": {"clip": CLIP},
    "interact": {"prompt": ("a cat", "it sleeps"), "clip": CLIP},
}


def request(kind: str, **changes: Any) -> GenerationRequest:
    return GenerationRequest(**{"mode": kind, **SOUND[kind], **changes})


@pytest.mark.parametrize("mode", SOUND)
def test_sound_requests(mode: str) -> None:
    assert request(mode).mode == mode


@pytest.mark.parametrize(
    ("mode", "changes"),
    [
        ("t2v", {"seconds": 1}),
        ("t2v", {"seconds": None}),
        ("t2v", {"seconds": 9.75}),
        ("t2v", {"seconds": 3600}),
        ("extend", {"seconds": 0.25}),
        ("interact", {"clip": None}),
        ("t2v", {"seed": LAST_SEED}),
        ("t2v", {"aspect": 1e-3}),
        ("t2v", {"guidance_scale": 1}),
        ("t2v", {"guidance_scale": -2.0}),
        ("t2v", {"tau_image": 1e-3, "tau_video": 100}),
        ("t2v", {"prompt": "x" * MAX_PROMPT_CHARACTERS}),
        ("t2v", {"prompt": "une île, 雪山 🐱\nsecond line"}),
        ("i2v", {"prompt": "", "image": torch.zeros(8, 8, 3, dtype=torch.uint8)}),
        ("i2v", {"prompt": "it moves", "negative_prompt": "blur"}),
    ],
)
def test_requests_at_the_edge(mode: str, changes: dict[str, Any]) -> None:
    made = request(mode, **changes)
    assert all(getattr(made, name) is value for name, value in changes.items())


@pytest.mark.parametrize(
    ("mode", "changes", "said"),
    [
        # mode
        ("t2v", {"mode": "v2t"}, "mode is one of t2i, t2v, i2v, extend, interact"),
        ("t2v", {"mode": ["t2v"]}, "mode is one of"),
        ("t2v", {"mode": None}, "mode is one of"),
        # prompt
        ("t2i", {"prompt": ""}, "empty"),
        ("t2v", {"prompt": " \n\t"}, "empty"),
        ("t2v", {"prompt": ("a cat",)}, "one prompt"),
        ("interact", {"prompt": "a cat"}, "tuple of prompts"),
        ("interact", {"prompt": ()}, "at least one prompt"),
        ("interact", {"prompt": ["a cat"]}, "tuple of prompts"),
        ("interact", {"prompt": ("a cat", 5)}, "a prompt must be a string, not 5"),
        ("t2v", {"prompt": ["a cat"]}, "one prompt"),
        ("t2v", {"prompt": b"a cat"}, "one prompt"),
        ("i2v", {"prompt": None}, "one prompt"),
        ("interact", {"prompt": ("a cat", "")}, "empty"),
        ("t2v", {"prompt": "x" * (MAX_PROMPT_CHARACTERS + 1)}, "characters"),
        ("t2v", {"prompt": "a\0b"}, "NUL"),
        ("t2v", {"prompt": "\ud800"}, "UTF-8"),
        ("i2v", {"prompt": "\ud800"}, "UTF-8"),
        # negative prompt
        ("t2v", {"negative_prompt": "a\0b"}, "NUL"),
        ("t2v", {"negative_prompt": None}, "a negative prompt must be a string"),
        ("t2v", {"negative_prompt": "\ud800"}, "UTF-8"),
        # image and clip
        ("i2v", {"image": None}, "image"),
        *((mode, {"image": PICTURE}, "image") for mode in SOUND if mode != "i2v"),
        ("extend", {"clip": None}, "needs a clip"),
        *((mode, {"clip": CLIP}, "clip") for mode in ("t2i", "t2v", "i2v")),
        ("i2v", {"image": [[1, 2, 3]]}, "the image is a file or a torch tensor, not list"),
        ("i2v", {"image": b"a.png"}, "the image is a file"),
        ("extend", {"clip": 5}, "the clip is a file or a torch tensor, not int"),
        # seconds
        *(("t2v", {"seconds": value}, "seconds") for value in ("5", True, (5,), 5j)),
        *(("t2v", {"seconds": value}, "seconds") for value in (0, -5, 0.75, 5.1, NAN, INF)),
        *(("i2v", {"seconds": value}, "seconds") for value in (0.5, 1.3)),
        *(("extend", {"seconds": value}, "seconds") for value in (0, 0.1, -1, 0.3, NAN)),
        # seed
        *(("t2v", {"seed": value}, "seed") for value in (-1, LAST_SEED + 1, 1.0, "1", True, None)),
        # numbers
        *(("t2v", {"aspect": value}, "aspect") for value in (0, -1.0, NAN, INF, "16:9", True)),
        *(("t2v", {"tau_image": value}, "image") for value in (0, -1.0, NAN, INF, "1", (1, 1))),
        *(("t2v", {"tau_video": value}, "video") for value in (0, -1.0, NAN, INF, "1", True)),
        *(("t2v", {"guidance_scale": value}, "guidance") for value in (NAN, INF, -INF, "3", True)),
        ("t2v", {"suffix": "no"}, "suffix"),
        # sound
        ("extend", {"keeps_sound": "copy"}, "keeps_sound is true or false"),
        ("t2v", {"keeps_sound": True}, "only extend keeps sound"),
        *(
            (mode, {"keeps_sound": True, "clip": clip}, "only that of a video's file")
            for mode, clip in (("extend", CLIP), ("extend", "a.take"), ("interact", "a.mp4"))
        ),
    ],
)
def test_invalid_requests(mode: str, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        request(mode, **changes)


def test_a_request_stays_as_it_was_checked() -> None:
    with pytest.raises(AttributeError):
        request("t2v").seed = -1  # type: ignore[misc]


def test_prompts_is_always_a_tuple() -> None:
    assert request("t2v").prompts == ("a cat",)
    assert request("interact").prompts == ("a cat", "it sleeps")


@pytest.mark.parametrize("quarters", range(1, 41))
def test_every_quarter_second_is_a_length(quarters: int) -> None:
    check_seconds(quarters / 4, least=0.25)
    with pytest.raises(UsageError, match=r"multiple of 0\.25"):
        check_seconds(quarters / 4 + 0.125, least=0.25)


@pytest.mark.parametrize(
    "wanted",
    [
        GenerationRequest(mode="t2i", prompt="a red circle", aspect=1, seed=2**64 - 1),
        GenerationRequest(mode="t2v", prompt="[/oops] ☃", seconds=1.25, negative_prompt="grey"),
        GenerationRequest(mode="i2v", image="boat.jpg", tau_image=0.5, suffix=False),
        GenerationRequest(mode="extend", clip=Path("a.mp4"), guidance_scale=1, keeps_sound=True),
        GenerationRequest(mode="interact", prompt=("one", "two")),
    ],
)
def test_json_gives_the_same_request(wanted: GenerationRequest) -> None:
    assert GenerationRequest.from_json(wanted.to_json()) == wanted


def test_what_was_typed_before_it_was_rewritten_is_kept() -> None:
    wanted = GenerationRequest(mode="t2v", prompt="a red fox runs", typed_prompt="a fox")
    assert GenerationRequest.from_json(wanted.to_json()) == wanted
    # As takes of before say nothing of it.
    earlier = json.loads(wanted.to_json())
    del earlier["typed_prompt"]
    assert GenerationRequest.from_json(json.dumps(earlier)) == replace(wanted, typed_prompt=None)
    with pytest.raises(UsageError, match="typed prompt is empty"):
        GenerationRequest(mode="t2v", prompt="a red fox runs", typed_prompt=" ")
    prompts, typed = ("a red fox runs", "it stops"), ("a fox", "it stops")
    several = GenerationRequest(mode="interact", prompt=prompts, typed_prompt=typed)
    assert GenerationRequest.from_json(several.to_json()) == several
    assert several.typed_prompts == typed
    plain = replace(several, typed_prompt=prompts)
    assert (plain.typed_prompt, plain.typed_prompts) == (None, prompts)
    for wrong in ("fox", ("a fox",), ("a fox", " ")):
        with pytest.raises(UsageError, match="typed prompt"):
            replace(several, typed_prompt=wrong)


def test_pixels_are_handed_over_beside_the_json() -> None:
    pixels = torch.zeros(8, 8, 3, dtype=torch.uint8)
    text = GenerationRequest(mode="i2v", image=pixels).to_json()
    assert GenerationRequest.from_json(text, image=pixels).image is pixels
    with pytest.raises(UsageError, match="image"):
        GenerationRequest.from_json(text)
    by_path = GenerationRequest(mode="i2v", image=Path("boat.jpg")).to_json()
    assert GenerationRequest.from_json(by_path, image=pixels).image == Path("boat.jpg")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "a JSON object"),
        ("[]", "an object of"),
        ('{"mode": "t2i", "prompt": "a", "pages": 3}', "an object of"),
        ('{"prompt": "a"}', "lacks its mode"),
        ('{"mode": "t2i", "prompt": ["a"]}', "one prompt"),
        ('{"mode": "t2i", "prompt": "a", "seed": 1.5}', "whole number"),
        ('{"mode": "i2v", "image": 7}', "torch tensor, not int"),
    ],
)
def test_json_that_is_not_a_request(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        GenerationRequest.from_json(text)


def test_numbers_of_other_libraries_become_pythons() -> None:
    wanted = GenerationRequest(
        mode="t2v",
        prompt="a",
        seed=np.int64(7),  # type: ignore[arg-type]
        seconds=Fraction(5, 4),  # type: ignore[arg-type]
        aspect=np.float32(0.5),  # type: ignore[arg-type]
        guidance_scale=np.float64(3),
        tau_video=np.int32(1),  # type: ignore[arg-type]
    )
    values = (wanted.seed, wanted.seconds, wanted.aspect, wanted.guidance_scale, wanted.tau_video)
    assert values == (7, 1.25, 0.5, 3, 1)
    assert [type(value) for value in values] == [int, float, float, float, int]
    assert GenerationRequest.from_json(wanted.to_json()) == wanted


@pytest.mark.parametrize("seed", [np.float64(1), np.bool_(True), Decimal(1), "1", 1.0])
def test_seeds_must_be_whole_numbers(seed: Any) -> None:
    with pytest.raises(UsageError, match="whole number"):
        GenerationRequest(mode="t2i", prompt="a", seed=seed)


@pytest.mark.parametrize("name", ["aspect", "seconds", "seed", "guidance_scale", "tau_image"])
def test_numbers_beyond_all_floats_are_refused(name: str) -> None:
    with pytest.raises(UsageError):
        GenerationRequest(mode="t2v", prompt="a", **{name: 10**400})

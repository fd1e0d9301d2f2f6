"""The bundled model: it is there, whole and small, and does what its card says in all modes."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest
import torch

from istar import GenerationRequest, InfinityStarPipeline
from istar.cli.app import run
from istar.lab.measure import measure
from istar.lab.report import ShapesReport
from istar.lab.score import ShapesTest, evaluate_shapes
from istar.lab.world import Scene, random_scene
from istar.media import read_clip
from istar.models.bundled import bundled_bytes

SIDE = 80
MOST_BYTES = 14_000_000


@pytest.fixture(scope="module")
def tiny() -> InfinityStarPipeline:
    return InfinityStarPipeline.from_pretrained("tiny", device="cpu")


@pytest.fixture(scope="module")
def scene() -> Scene:
    return random_scene(1, held_out=True)


def test_it_is_whole_and_small(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "verify", "tiny"]) == 0
    assert capfd.readouterr().out == "tiny: every file is right\n"
    assert bundled_bytes() <= MOST_BYTES


def test_the_command_makes_two_seconds(tmp_path: Path) -> None:
    target = tmp_path / "circle.mp4"
    prompt = "a red circle moves right on a blue background"
    assert run(["t2v", prompt, "--model", "tiny", "--seed", "1", "-o", str(target)]) == 0
    assert read_clip(target).frames.shape == (33, SIDE, SIDE, 3)


@pytest.mark.parametrize(
    ("count", "ground", "motion", "shape"),
    [
        (3, 3, 2, 2),
        *(
            pytest.param(*least, marks=pytest.mark.slow)
            for least in ((8, 7, 5, 4), (100, 97, 80, 70))
        ),
    ],
)
def test_most_of_what_prompts_say_that_it_never_saw_is_shown(
    tiny: InfinityStarPipeline, count: int, ground: int, motion: int, shape: int
) -> None:
    """With 8 scenes a rate is uncertain by 35 points, with 100 by 9; 3 show that it works."""
    test = ShapesTest(count=count, seed=7, modes=("t2v",), seconds=2)
    records = tuple(outcome.record for outcome in evaluate_shapes(tiny, test))
    report = ShapesReport(model="tiny", device="cpu", dtype="fp32", test=test, records=records)
    rates = report.rates("t2v")
    assert rates["background"].hits >= ground
    assert rates["colour"].hits >= ground
    assert rates["motion"].hits >= motion
    assert rates["shape"].hits >= shape


def test_a_picture_shows_the_background(tiny: InfinityStarPipeline, scene: Scene) -> None:
    request = GenerationRequest(mode="t2i", prompt=scene.canonical_caption(), seed=1)
    frames = tiny.generate(request).frames
    assert frames.shape == (1, SIDE, SIDE, 3)
    assert measure(frames.expand(3, -1, -1, -1)).background == scene.background


def test_a_picture_given_is_the_first(tiny: InfinityStarPipeline, scene: Scene) -> None:
    image = scene.frames(1, SIDE, SIDE)[0]
    request = GenerationRequest(mode="i2v", image=image, prompt=scene.canonical_caption(), seed=1)
    frames = tiny.generate(request).frames
    assert torch.equal(frames[0], image)
    assert measure(frames).background == scene.background


@pytest.mark.slow
def test_a_given_clip_is_continued(tiny: InfinityStarPipeline, scene: Scene) -> None:
    clip = scene.frames(33, SIDE, SIDE)
    prompt = scene.canonical_caption()
    request = GenerationRequest(mode="extend", clip=clip, prompt=prompt, seconds=1, seed=1)
    frames = tiny.generate(request).frames
    assert torch.equal(frames[:33], clip)
    assert len(frames) == 33 + 16
    assert measure(frames[33:]).background == scene.background


@pytest.mark.slow
def test_pictures_decoded_in_bf16_look_the_same(tiny: InfinityStarPipeline, scene: Scene) -> None:
    latents = tiny.networks.encode(scene.frames(33, SIDE, SIDE))
    half = deepcopy(tiny.networks.tokenizer)
    half.decode_in(torch.bfloat16)
    with torch.inference_mode():
        exact, found = (
            torch.cat([piece.pictures for piece in one.decode_pieces(latents)], dim=2) * 127.5
            for one in (tiny.networks.tokenizer, half)
        )
    wrong = found - exact
    assert 0 < wrong.abs().max() < 5
    assert 10 * torch.log10(255**2 / wrong.square().mean()) > 59  # decibels


@pytest.mark.slow
def test_it_continues_prompt_by_prompt(tiny: InfinityStarPipeline, scene: Scene) -> None:
    prompts = (scene.canonical_caption(),) * 2
    frames = tiny.generate(GenerationRequest(mode="interact", prompt=prompts, seed=1)).frames
    assert frames.shape == (65, SIDE, SIDE, 3)
    assert measure(frames[33:]).background == scene.background

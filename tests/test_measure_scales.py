"""The measurement of scales: its two ends are generation and the clip itself."""

from __future__ import annotations

from math import log
from pathlib import Path
from statistics import fmean

import pytest
import torch

from istar import GenerationRequest, InfinityStarPipeline
from istar.generation.schedule import nearest_template
from istar.inputs import picture_size
from istar.lab.held_out import held_out_scenes
from istar.lab.score import perfect_prediction
from istar.lab.trials import Case
from measure_scales import SECONDS, certainty, forced, scales_of


@pytest.fixture(scope="module")
def pipeline(checkpoint: Path) -> InfinityStarPipeline:
    return InfinityStarPipeline.from_pretrained(checkpoint, device="cpu", dtype="fp32")


@pytest.fixture(scope="module")
def case(pipeline: InfinityStarPipeline) -> Case:
    size = picture_size(nearest_template(pipeline.spec.aspect), pipeline.spec)
    (scene,) = held_out_scenes(5, 1)
    return Case(mode="t2v", scene=scene, seed=5, seconds=SECONDS, size=size)


def test_without_true_bits_it_is_generation(pipeline: InfinityStarPipeline, case: Case) -> None:
    clip = forced(pipeline.networks, case, 0)
    request = GenerationRequest(mode="t2v", prompt=case.caption, seconds=SECONDS, seed=case.seed)
    # The pipeline overwrites the first picture with the second, as the released reference does.
    assert clip.frames[1:].equal(pipeline.generate(request).frames[1:])
    assert not clip.certainties


def test_with_all_bits_true_it_is_the_clip_after_quantization(
    pipeline: InfinityStarPipeline, case: Case
) -> None:
    networks = pipeline.networks
    scales = scales_of(networks)
    clip = forced(networks, case, len(scales))
    expected = perfect_prediction(pipeline, case.frames, SECONDS)
    assert (clip.frames.int() - expected.int()).abs().max() <= 1
    assert {one.scale for one in clip.certainties} == set(range(len(scales)))


def test_certainty_is_in_nats_a_bit() -> None:
    probabilities = torch.tensor([[0.9, 0.9], [0.5, 0.2]])
    logits = torch.stack((torch.zeros(2, 2), probabilities.logit()), dim=-1)
    found = certainty(2, logits, torch.tensor([[True, False], [True, False]]))
    assert found.scale == 2
    assert found.cross_entropy == pytest.approx(-(log(0.9) + log(0.1) + log(0.5) + log(0.8)) / 4)
    entropies = [-p * log(p) - (1 - p) * log(1 - p) for p in (0.9, 0.9, 0.5, 0.2)]
    assert found.entropy == pytest.approx(fmean(entropies))

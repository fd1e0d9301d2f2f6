from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from istar.errors import CheckpointError
from istar.generation.guidance import GuidanceConfig, guide


def branches(random: torch.Generator, apart: float = 1.0) -> tuple[Tensor, Tensor]:
    conditional = torch.randn(7, 16, 2, generator=random)
    return conditional, conditional + apart * torch.randn(7, 16, 2, generator=random)


def apg(scale: float = 34.0, threshold: float = 0.05, eta: float = 0.0) -> GuidanceConfig:
    return GuidanceConfig(kind="apg", scale=scale, norm_threshold=threshold, eta=eta)


def test_cfg_of_3_is_three_times_one_less_twice_the_other(random: torch.Generator) -> None:
    c, u = branches(random)
    found = guide(c, u, GuidanceConfig(kind="cfg", scale=3))
    torch.testing.assert_close(found, 3 * c - 2 * u)


def test_cfg_of_0_is_the_unconditional_branch(random: torch.Generator) -> None:
    c, u = branches(random)
    torch.testing.assert_close(guide(c, u, GuidanceConfig(kind="cfg", scale=0)), u)


@pytest.mark.parametrize("kind", ["cfg", "apg"])
def test_a_scale_of_1_is_the_conditional_branch_exactly(random: torch.Generator, kind: str) -> None:
    c, u = branches(random)
    assert torch.equal(guide(c, u, GuidanceConfig(kind=kind, scale=1)), c)  # type: ignore[arg-type]


@pytest.mark.parametrize("apart", [0.001, 10.0])
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_apg_literally(random: torch.Generator, apart: float, eta: float) -> None:
    c, u = branches(random, apart)
    along = c.double().flatten().tolist()
    difference = [x - y for x, y in zip(along, u.double().flatten().tolist(), strict=True)]
    size = math.sqrt(sum(g * g for g in difference) / len(difference))
    difference = [g * min(1.0, 0.05 / size) for g in difference]
    share = sum(g * x for g, x in zip(difference, along, strict=True)) / sum(x * x for x in along)
    expected = [
        x + 33 * (g - (1 - eta) * share * x) for g, x in zip(difference, along, strict=True)
    ]
    found = guide(c, u, apg(eta=eta))
    torch.testing.assert_close(found.flatten(), torch.tensor(expected), atol=1e-4, rtol=1e-5)
    assert found.shape == c.shape


def test_what_apg_adds_is_orthogonal_to_the_conditional_branch(random: torch.Generator) -> None:
    c, u = branches(random)
    added = (guide(c, u, apg()) - c).double().flatten()
    cosine = added @ c.double().flatten() / added.norm() / c.double().norm()
    assert abs(cosine) < 1e-5
    plain = (c - u).double().flatten()
    assert abs(plain @ c.double().flatten() / plain.norm() / c.double().norm()) > 1e-3


@pytest.mark.parametrize("threshold", [0.01, 0.5])
def test_what_apg_adds_keeps_to_the_threshold(random: torch.Generator, threshold: float) -> None:
    c, u = branches(random, apart=100.0)
    added = guide(c, u, apg(scale=2, threshold=threshold, eta=1.0)) - c
    torch.testing.assert_close(added.square().mean().sqrt().item(), threshold, atol=0, rtol=1e-3)


def test_apg_leaves_small_differences_their_size(random: torch.Generator) -> None:
    c, u = branches(random, apart=0.001)
    found = guide(c, u, apg(eta=1.0))
    torch.testing.assert_close(found, c + 33 * (c - u))


def test_apg_takes_a_branch_of_zeros() -> None:
    zeros = torch.zeros(3, 4, 2)
    assert torch.equal(guide(zeros, zeros, apg()), zeros)


@pytest.mark.parametrize(
    "settings",
    [
        {"kind": "cgf", "scale": 3},
        {"kind": "cfg", "scale": float("nan")},
        {"kind": "apg", "scale": float("inf")},
        {"kind": "apg", "scale": 3, "eta": float("nan")},
        {"kind": "apg", "scale": 3, "norm_threshold": 0},
        {"kind": "apg", "scale": 3, "norm_threshold": float("nan")},
    ],
)
def test_invalid_settings(settings: dict[str, float]) -> None:
    with pytest.raises(CheckpointError, match="guidance"):
        GuidanceConfig(**settings)  # type: ignore[arg-type]

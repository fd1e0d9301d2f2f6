"""The quantizer with gradients: generation's numbers forward, the smooth part's slopes back."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from istar.generation.canvas import Canvas
from istar.generation.residual import bits_of_latent
from istar.generation.schedule import ClipPlan, Step, steps
from istar.training.quantization import (
    Quantized,
    bit_entropy,
    bit_probabilities,
    quantize,
)
from istar.video_tokenizer.quantizer import shrink

SCALES = ((1, 1), (2, 3))
SETTINGS = {"semantic_bits": 2, "sharpness": 1.3}
NUDGE = 1e-6


def schedule(
    *repeats: int, frames: int = 2, scales: tuple[tuple[int, int], ...] = SCALES
) -> tuple[Step, ...]:
    return steps([ClipPlan(frames=frames, repeats=repeats)], scales, semantic_scales=1)


def latent_of(batch: int, random: torch.Generator, frames: int = 2) -> Tensor:
    return torch.randn(batch, 4, frames, *SCALES[-1], generator=random, dtype=torch.float64) / 2


def residuals(latent: Tensor, own: tuple[Step, ...]) -> list[Tensor]:
    """What each step takes the signs of, clip by clip, computed without `quantize`."""
    found = []
    for clip in latent:
        canvas = Canvas(torch.zeros_like(clip[None]))
        bits = bits_of_latent(clip[None], own, semantic_bits=SETTINGS["semantic_bits"])
        for step, value in zip(own, bits, strict=True):
            rest = clip[None] - canvas.total
            size = {"height": step.grid.height, "width": step.grid.width}
            found.append(shrink(rest, bits=value.shape[1], **size))
            canvas.add(step, value)
    return found


@pytest.fixture
def latent(random: torch.Generator) -> Tensor:
    """Latents of which no residual is near a change of sign."""
    own = schedule(2, 2)
    while True:
        latent = latent_of(2, random)
        if min(float(r.abs().min()) for r in residuals(latent, own)) > 100 * NUDGE:
            return latent


@pytest.mark.parametrize("term", ["commitment", "entropy", "diversity"])
def test_gradients_are_finite_differences(latent: Tensor, term: str) -> None:
    own = schedule(2, 2)

    def value(x: Tensor) -> Tensor:
        return getattr(quantize(x, own, **SETTINGS), term)

    x = latent.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(value(x), x)
    differences = torch.empty_like(latent)
    for place in range(latent.numel()):
        shift = torch.zeros(latent.numel(), dtype=latent.dtype)
        shift[place] = NUDGE
        shift = shift.view_as(latent)
        rise = value(latent + shift) - value(latent - shift)
        differences.view(-1)[place] = rise / (2 * NUDGE)
    assert gradient.abs().max() > 1e-3
    assert torch.allclose(gradient, differences, rtol=1e-6, atol=1e-8)


def test_torchs_own_check_agrees(latent: Tensor) -> None:
    def smooth(x: Tensor) -> tuple[Tensor, ...]:
        quantized: Quantized = quantize(x, schedule(2, 2), **SETTINGS)
        return quantized[1:]

    assert torch.autograd.gradcheck(smooth, latent.clone().requires_grad_(), eps=NUDGE)


@pytest.mark.parametrize("dropped", [None, torch.tensor([[False], [True]])])
def test_the_pictures_gradient_passes_straight_through(
    latent: Tensor, dropped: Tensor | None, random: torch.Generator
) -> None:
    x = latent.clone().requires_grad_()
    wanted = torch.randn(latent.shape, generator=random, dtype=latent.dtype)
    quantized = quantize(x, schedule(2, 2), dropped=dropped, **SETTINGS)
    (gradient,) = torch.autograd.grad((quantized.latent * wanted).sum(), x)
    assert torch.equal(gradient, wanted)


def test_the_forward_value_is_generations_running_sum(random: torch.Generator) -> None:
    own = schedule(2, 3, frames=3)
    latent = latent_of(3, random, frames=3).float()
    quantized = quantize(latent, own, **SETTINGS)
    for number, clip in enumerate(latent):
        canvas = Canvas(torch.zeros_like(clip[None]))
        bits = bits_of_latent(clip[None], own, semantic_bits=SETTINGS["semantic_bits"])
        for step, value in zip(own, bits, strict=True):
            canvas.add(step, value)
        assert torch.allclose(quantized.latent[number], canvas.total[0], atol=1e-6)


def test_each_clip_is_quantized_without_its_own_lost_scales(random: torch.Generator) -> None:
    """All repetitions of a lost scale go, and the scales after it code what it leaves over."""
    own = schedule(2, 3, 2, scales=((1, 1), (1, 2), (2, 3)))
    latent = latent_of(5, random)
    lost = [(), (2,), (1,), (2, 1), (2,)]
    dropped = torch.tensor([[2 in scales, 1 in scales] for scales in lost])
    quantized = quantize(latent, own, dropped=dropped, **SETTINGS)
    for number, scales in enumerate(lost):
        rest = [step for step in own if step.scale not in scales]
        alone = quantize(latent[number, None], rest, **SETTINGS)
        assert torch.allclose(quantized.latent[number], alone.latent[0], atol=1e-12)


def test_the_first_scale_is_never_lost(latent: Tensor) -> None:
    """Not even where a clip has fewer scales than may be lost."""
    own = schedule(2, 2)
    shallow = quantize(latent, own, dropped=torch.tensor([[True] * 3] * 2), **SETTINGS)
    assert torch.allclose(shallow.latent, quantize(latent, own[:2], **SETTINGS).latent)


def test_lost_scales_change_nothing_but_what_is_shown(latent: Tensor) -> None:
    whole = quantize(latent, schedule(2, 2), **SETTINGS)
    shallow = quantize(latent, schedule(2, 2), dropped=torch.tensor([[True]] * 2), **SETTINGS)
    assert not torch.equal(whole.latent, shallow.latent)
    assert all(torch.equal(a, b) for a, b in zip(whole[1:], shallow[1:], strict=True))


def test_diversity_is_of_the_pooled_bits(latent: Tensor) -> None:
    """Two processes with a clip each, and their mean: what one with both clips says."""
    own = schedule(2, 2)
    means: list[list[Tensor]] = [[], []]

    def remember(number: int) -> Callable[[Tensor], Tensor]:
        def pooled(mean: Tensor) -> Tensor:
            means[number].append(mean)
            return mean

        return pooled

    for number in range(2):
        quantize(latent[number, None], own, pooled=remember(number), **SETTINGS)
    both = iter([(a + b) / 2 for a, b in zip(*means, strict=True)])
    pooled = quantize(latent[:1], own, pooled=lambda _: next(both), **SETTINGS)
    assert torch.allclose(pooled.diversity, quantize(latent, own, **SETTINGS).diversity)


def test_entropy_counts_bits() -> None:
    assert bit_entropy(torch.tensor([0.5, 0.0, 1.0])).tolist() == pytest.approx([1, 0, 0], abs=1e-4)
    certain = bit_probabilities(torch.tensor([[0.0, 0.5, -0.5, 0.5]]), sharpness=2.0)
    assert certain.tolist()[0] == pytest.approx([0.5, 0.982, 0.018, 0.982], abs=1e-3)


def test_bits_that_are_decided_and_used_have_low_entropy_and_high_diversity() -> None:
    own = steps([ClipPlan(frames=1, repeats=(1,))], [(2, 2)], semantic_scales=0)
    signs = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64).repeat(4, 1, 1)
    decided = quantize(signs[None, :, None] * 2, own, semantic_bits=2, sharpness=2.0)
    assert decided.entropy < 0.01
    assert decided.diversity > 0.99
    same = quantize(signs.abs()[None, :, None] * 2, own, semantic_bits=2, sharpness=2.0)
    assert same.diversity < 0.01

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from istar.generation.canvas import Canvas
from istar.generation.residual import bits_of_latent
from istar.generation.schedule import ClipPlan, Step, steps
from istar.video_tokenizer.quantizer import grow, shrink, to_codes

SCALES = ((1, 1), (2, 3), (4, 6), (8, 12))
CHANNELS = 16
SEMANTIC_BITS = 4


def clip(frames: int = 3, repeats: tuple[int, ...] = (2, 1, 2, 2)) -> tuple[Step, ...]:
    return steps([ClipPlan(frames=frames, repeats=repeats)], SCALES, semantic_scales=2)


def latent(random: torch.Generator, frames: int = 3) -> torch.Tensor:
    return torch.randn(1, CHANNELS, frames, *SCALES[-1], generator=random)


def bits_per_token(step: Step) -> int:
    return SEMANTIC_BITS if step.semantic else CHANNELS


def random_bits(step: Step, random: torch.Generator) -> torch.Tensor:
    shape = (step.grid.tokens, bits_per_token(step))
    return torch.rand(shape, generator=random) < 0.5


def test_the_first_step_of_a_clip_sees_nothing() -> None:
    first = clip()[0]
    tokens = Canvas.blank(first.full_grid, CHANNELS).tokens(first)
    assert tokens.shape == (1, 3, CHANNELS)
    assert not tokens.any()


def test_the_sum_is_the_sum_of_every_steps_codes(random: torch.Generator) -> None:
    schedule = clip()
    canvas = Canvas.blank(schedule[0].full_grid, CHANNELS)
    expected = torch.zeros(1, CHANNELS, *schedule[0].full_grid)
    for step in schedule:
        bits = random_bits(step, random)
        canvas.add(step, bits)
        volume = to_codes(bits).reshape(*step.grid, -1).movedim(-1, 1).unsqueeze(1)  # T 1 d h w
        full = F.interpolate(volume, size=(CHANNELS, *SCALES[-1]), mode="trilinear")
        expected += full.squeeze(1).movedim(0, 1)
    assert canvas.total.dtype == torch.float32
    torch.testing.assert_close(canvas.total, expected)


def test_tokens_are_the_sum_at_the_steps_size(random: torch.Generator) -> None:
    total = latent(random)
    step = clip()[-4]
    assert step.grid == (3, 4, 6)
    tokens = Canvas(total).tokens(step).reshape(1, 3, 4, 6, CHANNELS)
    expected = total.reshape(1, CHANNELS, 3, 4, 2, 6, 2).mean((4, 6))  # every 2×2 averaged
    torch.testing.assert_close(tokens.movedim(-1, 1), expected)


def test_adding_leaves_the_former_sum_alone(random: torch.Generator) -> None:
    step = clip()[0]
    canvas = Canvas(latent(random))
    before, kept = canvas.total, canvas.total.clone()
    canvas.add(step, random_bits(step, random))
    assert torch.equal(before, kept)
    assert not torch.equal(canvas.total, kept)


def test_teacher_forcing_reads_the_signs_of_what_is_left(random: torch.Generator) -> None:
    schedule, target = clip(), latent(random)
    found = bits_of_latent(target, schedule, semantic_bits=SEMANTIC_BITS)
    done = torch.zeros_like(target)
    for step, bits in zip(schedule, found, strict=True):
        frames, height, width = step.grid
        d = bits_per_token(step)
        left = shrink(target - done, bits=d, height=height, width=width)
        assert bits.dtype == torch.bool
        assert torch.equal(bits, left[0] > 0)
        codes = to_codes(bits)[None]
        done = done + grow(codes, frames=frames, height=height, width=width, size=target.shape)


def test_every_step_leaves_less_to_draw(random: torch.Generator) -> None:
    schedule, target = clip(repeats=(1, 1, 1, 6)), 3 + latent(random) / 2
    target[:, :, 1] *= -1
    canvas = Canvas(torch.zeros_like(target))
    errors = [target.square().mean().item()]
    for step, bits in zip(
        schedule, bits_of_latent(target, schedule, semantic_bits=SEMANTIC_BITS), strict=True
    ):
        canvas.add(step, bits)
        errors.append((target - canvas.total).square().mean().item())
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0] / 2


@pytest.mark.parametrize("changed", [0, 1, 2])
def test_frames_are_quantized_apart(random: torch.Generator, changed: int) -> None:
    schedule, target = clip(), latent(random)
    other = target.clone()
    other[:, :, changed] *= -1
    for step, one, two in zip(
        schedule,
        bits_of_latent(target, schedule, semantic_bits=SEMANTIC_BITS),
        bits_of_latent(other, schedule, semantic_bits=SEMANTIC_BITS),
        strict=True,
    ):
        different = (one != two).reshape(step.grid.frames, -1).any(dim=1)
        assert different.tolist() == [frame == changed for frame in range(3)]


def test_a_drawn_latent_quantizes_to_the_bits_that_drew_it(random: torch.Generator) -> None:
    schedule = steps([ClipPlan(frames=2, repeats=(1,))], [SCALES[-1]], semantic_scales=0)
    bits = random_bits(schedule[0], random)
    canvas = Canvas.blank(schedule[0].full_grid, CHANNELS)
    canvas.add(schedule[0], bits)
    (found,) = bits_of_latent(canvas.total, schedule, semantic_bits=SEMANTIC_BITS)
    assert torch.equal(found, bits)

"""A latent as bits, step by step: each step codes what the steps before it left over."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from istar.generation.schedule import Step
from istar.video_tokenizer.quantizer import grow, shrink, to_bits, to_codes


class ResidualStep(NamedTuple):
    """One step of a clip's quantization.

    Attributes:
        step: which.
        before: `(B, C, T, H, W)`: the running sum of codes before it.
        residual: `(B, t·h·w, d)`: what the sum lacks of the latent, at the step's size.
        bits: `(B, t·h·w, d)` booleans: the residual's signs.
        codes: `(B, C, T, H, W)`: what enters the sum, at full size.
        total: `(B, C, T, H, W)`: the running sum after it.
    """

    step: Step
    before: Tensor
    residual: Tensor
    bits: Tensor
    codes: Tensor
    total: Tensor


def residual_steps(
    latent: Tensor,
    steps: Sequence[Step],
    *,
    semantic_bits: int,
    flip: Callable[[Step, Tensor], Tensor] = lambda step, bits: bits,
) -> Iterator[ResidualStep]:
    """Quantize the latents of one clip, or of several of one size, over the clip's steps.

    Args:
        latent: `(B, C, T, H, W)`, before quantization.
        steps: steps of the clip, in order.
        semantic_bits: bits of a token on semantic scales; on detail scales they are C.
        flip: the bits that enter the sum in place of a step's own; later steps make up for them.
    """
    total = torch.zeros_like(latent)
    for step in steps:
        frames, height, width = step.grid
        d = semantic_bits if step.semantic else latent.shape[1]
        residual = shrink(latent - total, bits=d, height=height, width=width)
        bits = to_bits(residual)
        small = to_codes(flip(step, bits), latent.dtype)
        codes = grow(small, frames=frames, height=height, width=width, size=latent.shape)
        before, total = total, total + codes
        yield ResidualStep(step, before, residual, bits, codes, total)


def quantized_latent(latent: Tensor, steps: Sequence[Step], *, semantic_bits: int) -> Tensor:
    """The sum `(B, C, T, H, W)` of the codes of all steps, as `residual_steps` takes them."""
    total = torch.zeros_like(latent)
    for one in residual_steps(latent, steps, semantic_bits=semantic_bits):
        total = one.total
    return total


def bits_of_latent(latent: Tensor, steps: Sequence[Step], *, semantic_bits: int) -> list[Tensor]:
    """Teacher forcing: the bits that the steps of one clip must predict to draw a latent.

    Args:
        latent: `(1, C, T, H, W)`, the clip's latent before quantization.
        steps: all steps of that clip.
        semantic_bits: bits of a token on semantic scales; on detail scales they are C.

    Returns:
        for every step `(t·h·w, d)` booleans.
    """
    parts = residual_steps(latent, steps, semantic_bits=semantic_bits)
    return [part.bits[0] for part in parts]

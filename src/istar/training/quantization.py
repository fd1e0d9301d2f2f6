"""The pyramid's quantizer with gradients, for training a tokenizer.

The forward pass is generation's (`istar.generation.residual`). Signs have no slope, so the gradient
of the pictures passes straight through to the latent (a straight-through estimator), and the terms
that shape the bits themselves (commitment, entropy, diversity) are smooth in the latent. Source:
binary spherical quantization (arXiv 2406.07548); InfinityStar paper, stochastic quantizer depth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from istar.generation.residual import quantized_latent, residual_steps
from istar.generation.schedule import Step


class Quantized(NamedTuple):
    """One clip's latent after the quantizer.

    Attributes:
        latent: `(B, C, T, H, W)`: the sum of the codes, with the latent's own gradient.
        commitment: mean squared distance of the latent from the sum of all its codes, in units of
            a detail code's number, 1/√C.
        entropy: mean entropy, in bits, of every single bit.
        diversity: entropy, in bits, of each position's mean bit, averaged over positions and steps.
    """

    latent: Tensor
    commitment: Tensor
    entropy: Tensor
    diversity: Tensor


def quantize(
    latent: Tensor,
    steps: Sequence[Step],
    *,
    semantic_bits: int,
    sharpness: float,
    dropped: Tensor | None = None,
    pooled: Callable[[Tensor], Tensor] | None = None,
) -> Quantized:
    """Quantize the latents of a batch of clips over one clip's steps.

    Args:
        latent: `(B, C, T, H, W)`.
        steps: all steps of that clip.
        semantic_bits: bits of a token on semantic scales.
        sharpness: of the bits' probabilities, see `bit_probabilities`.
        dropped: `(B, N)` booleans, which scales each clip is quantized without, from the last
            scale on; none when absent. The first always stays. They change the latent alone:
            commitment, entropy and diversity are those of all scales.
        pooled: from a mean over these clips to the mean over all processes' clips, of which
            `diversity` is the entropy.
    """
    total = torch.zeros_like(latent)
    entropies, diversities = [], []
    for part in residual_steps(latent, steps, semantic_bits=semantic_bits):
        total = part.total
        probabilities = bit_probabilities(part.residual, sharpness)
        entropies.append(bit_entropy(probabilities).mean())
        mean = probabilities.flatten(0, 1).mean(0)
        diversities.append(bit_entropy(mean if pooled is None else pooled(mean)).mean())
    decoded = total.detach()
    if dropped is not None:
        decoded = _without_scales(latent.detach(), decoded, steps, dropped, semantic_bits)
    return Quantized(
        latent=latent + (decoded - latent).detach(),
        commitment=F.mse_loss(latent, total) * latent.shape[1],
        entropy=torch.stack(entropies).mean(),
        diversity=torch.stack(diversities).mean(),
    )


def _without_scales(
    latent: Tensor, whole: Tensor, steps: Sequence[Step], dropped: Tensor, semantic_bits: int
) -> Tensor:
    """The sums of codes of clips that lose scales; those that lose none have their `whole` ones.

    A lost scale is no part of a clip's schedule: the scales after it code what it leaves over.
    """
    decoded = whole.clone()
    last = steps[-1].scale
    choices = [
        tuple(last - place for place, is_lost in enumerate(choice) if is_lost and place < last)
        for choice in dropped.tolist()
    ]
    for lost in set(choices) - {()}:
        kept = [step for step in steps if step.scale not in lost]
        own = [number for number, choice in enumerate(choices) if choice == lost]
        decoded[own] = quantized_latent(latent[own], kept, semantic_bits=semantic_bits)
    return decoded


def bit_probabilities(residual: Tensor, sharpness: float) -> Tensor:
    """The soft counterpart of a sign: the probability that each of `(…, d)` numbers is a one.

    A logistic of the number in units of the code's length 1/√d; at `sharpness` 2 a number as
    long as its own code is a one with probability 0.98.
    """
    return torch.sigmoid(2 * sharpness * residual * residual.shape[-1] ** 0.5)


def bit_entropy(probabilities: Tensor) -> Tensor:
    """The entropy in bits of independent binary draws, elementwise."""
    p = probabilities.clamp(1e-6, 1 - 1e-6)
    return -(p * p.log2() + (1 - p) * (1 - p).log2())

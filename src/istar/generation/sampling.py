"""Logits to bits."""

from __future__ import annotations

import torch
from torch import Tensor


def sample_bits(logits: Tensor, generator: torch.Generator) -> Tensor:
    """One draw of every bit.

    The draws come from a generator on the CPU, so a seed means the same on every device.

    Args:
        logits: `(…, 2)`, float32, of bit 0 and bit 1.
        generator: on the CPU.

    Returns:
        `(…)` booleans on the logits' device.
    """
    draws = torch.rand(logits.shape[:-1], generator=generator)
    return draws.to(logits.device) < torch.sigmoid(logits[..., 1] - logits[..., 0])

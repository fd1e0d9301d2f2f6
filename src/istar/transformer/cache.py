"""Keys and values of tokens that later steps look at."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class KeysValues(NamedTuple):
    """One layer's keys and values, each `(B, H_kv, L, D)`; the keys are already rotated."""

    keys: Tensor
    values: Tensor


Context = tuple[KeysValues, ...]
"""Keys and values of every layer, first layer first."""


def join(contexts: list[Context]) -> Context:
    """One context of several token runs, layer by layer."""
    if len(contexts) == 1:
        return contexts[0]
    return tuple(
        KeysValues(
            torch.cat([layer.keys for layer in layers], dim=2),
            torch.cat([layer.values for layer in layers], dim=2),
        )
        for layers in zip(*contexts, strict=True)
    )

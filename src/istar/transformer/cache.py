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


def stored(own: KeysValues, *, host_from: int | None) -> KeysValues:
    """A layer's keys and values where they wait for later steps.

    Args:
        own: of L tokens.
        host_from: of so many tokens or more they go to host memory. None: they stay.
    """
    if host_from is None or own.keys.shape[2] < host_from:
        return own
    return KeysValues(*map(in_host_memory, own))


def in_host_memory(x: Tensor) -> Tensor:
    """`x` in host memory, pinned where it comes from CUDA; it is there when this returns."""
    if x.device.type == "cpu":
        return x
    # A tensor without values may be on a device that is not there.
    pinned = x.is_cuda and torch.cuda.is_available()
    return torch.empty_like(x, device="cpu", pin_memory=pinned).copy_(x)

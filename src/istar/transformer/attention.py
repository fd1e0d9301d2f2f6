"""The one place where attention is computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention.flex_attention import BlockMask, flex_attention


class Pattern(Protocol):
    """Which tokens see which, by an object that computes the attention itself."""

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """As the function below, of as many key and value heads as query heads."""


Mask = Tensor | BlockMask | Pattern


def attend(queries: Tensor, keys: Tensor, values: Tensor, mask: Mask | None = None) -> Tensor:
    """Scaled dot-product attention with shared key and value heads.

    Args:
        queries: `(B, H, L, D)`.
        keys, values: `(B, H_kv, M, D)`, H_kv a divisor of H.
        mask: `(L, M)` booleans, true where a query may look; a block mask, with which
            FlexAttention skips masked blocks; or a pattern. None: no mask.

    Returns:
        `(B, H, L, D)`.
    """
    if isinstance(mask, BlockMask):
        # Under autocast their norms' float32 weights make queries and keys float32.
        queries, keys = queries.to(values.dtype), keys.to(values.dtype)
        blockwise: Any = _fused_flex_attention() if queries.is_cuda else flex_attention
        attended: Tensor = blockwise(queries, keys, values, block_mask=mask, enable_gqa=True)
        return attended
    half = queries.dtype in (torch.bfloat16, torch.float16) or torch.is_autocast_enabled("cpu")
    if queries.device.type == "cpu" and half and torch.is_grad_enabled():
        # On CPUs the backward pass in bfloat16 takes twice as long as in float32.
        with torch.autocast("cpu", enabled=False):
            return attend(queries.float(), keys.float(), values.float(), mask).to(queries.dtype)
    groups = queries.shape[1] // keys.shape[1]
    shares_heads = queries.device.type == "cuda" and queries.dtype != torch.float32
    has_pattern = not isinstance(mask, Tensor | None)
    if groups > 1 and (has_pattern or not shares_heads):
        # Only CUDA's half-precision kernels take shared heads; the fallback that does would hold
        # all scores at once.
        keys, values = (x.repeat_interleave(groups, dim=1) for x in (keys, values))
        groups = 1
    if not isinstance(mask, Tensor | None):
        return mask.attend(queries, keys, values)
    return F.scaled_dot_product_attention(
        queries, keys, values, attn_mask=mask, enable_gqa=groups > 1
    )


@cache
def _fused_flex_attention() -> Callable[..., Any]:
    """FlexAttention as one kernel; without it all scores would be held at once."""
    return torch.compile(flex_attention)


def look_back(contexts: Sequence[Tensor], own: Tensor) -> Tensor:
    """What a step can look at: keys or values of its contexts, each `(1, H, C, D)`, and its own.

    The contexts may be on another device.
    """
    if not contexts:
        return own
    seen = [context.to(own.device).expand(len(own), -1, -1, -1) for context in contexts]
    return torch.cat([*seen, own], dim=2)


def room_behind(contexts: Sequence[Tensor], room: tuple[int, ...], like: Tensor) -> Tensor:
    """What `look_back` gives, its own part, `(B, H, L, D)` of `room`, yet to be written.

    The contexts may be in host memory while `like` is on a device.
    """
    batch, heads, length, size = room
    behind = sum(context.shape[2] for context in contexts)
    seen = like.new_empty(batch, heads, behind + length, size)
    parts = seen.split([*(context.shape[2] for context in contexts), length], dim=2)
    for part, context in zip(parts[:-1], contexts, strict=True):
        part.copy_(context, non_blocking=True)
    return seen

"""One transformer block: attention with normed queries and keys, then a gated MLP."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from istar.transformer.attention import Mask, attend, look_back
from istar.transformer.cache import KeysValues
from istar.transformer.config import TransformerConfig
from istar.transformer.rope import Rotation, rotate
from istar.transformer.rows import LayerRow

NORM_EPSILON = 1e-6


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last dimension, computed in float32."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        """`(…, size)`, the same shape and dtype."""
        y = x.float()
        y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + NORM_EPSILON)
        return y.to(x.dtype) * self.weight


class Attention(nn.Module):
    """Grouped-query attention of a run of tokens to its context and itself."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.head_size = config.head_size
        queries = config.heads * config.head_size
        shared = config.key_value_heads * config.head_size
        self.query = nn.Linear(config.width, queries, bias=False)
        self.key = nn.Linear(config.width, shared, bias=False)
        self.value = nn.Linear(config.width, shared, bias=False)
        self.output = nn.Linear(queries, config.width, bias=False)
        self.query_norm = RMSNorm(config.head_size)
        self.key_norm = RMSNorm(config.head_size)

    def _heads(self, x: Tensor) -> Tensor:
        """`(B, L, H·D)` to `(B, H, L, D)`."""
        return x.unflatten(-1, (-1, self.head_size)).transpose(1, 2)

    def keys_values(self, x: Tensor, rotation: Rotation) -> KeysValues:
        """Keys and values of tokens `(B, L, width)`."""
        keys = rotate(self.key_norm(self._heads(self.key(x))), rotation)
        return KeysValues(keys, self._heads(self.value(x)))

    def forward(
        self,
        x: Tensor,
        rotation: Rotation,
        contexts: Sequence[KeysValues] = (),
        mask: Mask | None = None,
    ) -> tuple[Tensor, KeysValues]:
        """Tokens `(B, L, width)` to the same shape, and their own keys and values.

        With `contexts` of C tokens together a `mask` is `(L, C + L)`.
        """
        queries = rotate(self.query_norm(self._heads(self.query(x))), rotation)
        own = self.keys_values(x, rotation)
        keys = look_back([context.keys for context in contexts], own.keys)
        values = look_back([context.values for context in contexts], own.values)
        attended = attend(queries, keys, values, mask)  # B H L D
        return self.output(attended.transpose(1, 2).flatten(2)), own


class GatedMLP(nn.Module):
    """SwiGLU."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.gate = nn.Linear(config.width, config.mlp_width, bias=False)
        self.up = nn.Linear(config.width, config.mlp_width, bias=False)
        self.down = nn.Linear(config.mlp_width, config.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """`(…, width)`, the same shape."""
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Block(nn.Module):
    """Norm, attention, norm, MLP, both added to the stream."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.width)
        self.attention = Attention(config)
        self.mlp_norm = RMSNorm(config.width)
        self.mlp = GatedMLP(config)

    def forward(self, rows: Sequence[LayerRow]) -> list[tuple[Tensor, KeysValues]]:
        """Every row's tokens `(B, L, width)` to the same shape, and their keys and values.

        The rows are computed one by one, so that each gives what it gives alone.
        """
        return [self._pass(row) for row in rows]

    def keys_values(self, rows: Sequence[LayerRow]) -> list[KeysValues]:
        """Only the keys and values of every row's tokens, the rest of the block not run."""
        return [self.attention.keys_values(self.attention_norm(r.x), r.rotation) for r in rows]

    def _pass(self, row: LayerRow) -> tuple[Tensor, KeysValues]:
        x = row.x
        attended, own = self.attention(self.attention_norm(x), row.rotation, row.contexts, row.mask)
        x = x + attended
        return x + self.mlp(self.mlp_norm(x)), own

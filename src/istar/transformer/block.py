"""One transformer block: attention with normed queries and keys, then a gated MLP."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from istar.transformer.attention import attend, look_back, room_behind
from istar.transformer.cache import KeysValues
from istar.transformer.config import TransformerConfig
from istar.transformer.rope import Rotation, rotate, rotate_into
from istar.transformer.rows import LayerRow, slices_of

NORM_EPSILON = 1e-6


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last dimension, computed in float32."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        """`(…, size)`, the same shape and dtype."""
        if x.dtype == self.weight.dtype != torch.float32:
            # One kernel on CUDA, and one rounding. In float32 on a CPU it is the slower of the two.
            return F.rms_norm(x, self.weight.shape, self.weight, NORM_EPSILON)
        y = x.float()
        y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + NORM_EPSILON)
        return y.to(x.dtype) * self.weight


class Attention(nn.Module):
    """Grouped-query attention of tokens to their context and each other: the projections."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.key_value_heads = config.key_value_heads
        self.head_size = config.head_size
        queries = config.heads * config.head_size
        shared = config.key_value_heads * config.head_size
        self.query = nn.Linear(config.width, queries, bias=False)
        self.key = nn.Linear(config.width, shared, bias=False)
        self.value = nn.Linear(config.width, shared, bias=False)
        self.output = nn.Linear(queries, config.width, bias=False)
        self.query_norm = RMSNorm(config.head_size)
        self.key_norm = RMSNorm(config.head_size)

    def _split(self, x: Tensor, norm: RMSNorm | None = None) -> Tensor:
        """`(B, L, H·D)` to `(B, H, L, D)`, normed before: kernels read one piece."""
        heads = x.unflatten(-1, (-1, self.head_size))
        return (heads if norm is None else norm(heads)).transpose(1, 2)

    def queries(self, x: Tensor, rotation: Rotation) -> Tensor:
        """Queries `(B, H, L, D)` of tokens `(B, L, width)`."""
        return rotate(self._split(self.query(x), self.query_norm), rotation)

    def keys_values(self, x: Tensor, rotation: Rotation) -> KeysValues:
        """Keys and values of tokens `(B, L, width)`."""
        keys = rotate(self._split(self.key(x), self.key_norm), rotation)
        return KeysValues(keys, self._split(self.value(x)))

    def write(self, x: Tensor, rotation: Rotation, queries: Tensor, own: KeysValues) -> None:
        """Write the queries, keys and values of tokens `(B, L, width)` where they are wanted.

        Without gradients only.
        """
        rotate_into(queries, self._split(self.query(x), self.query_norm), rotation)
        rotate_into(own.keys, self._split(self.key(x), self.key_norm), rotation)
        own.values.copy_(self._split(self.value(x)))

    def joined(self, attended: Tensor) -> Tensor:
        """What the heads `(B, H, L, D)` saw, to `(B, L, width)`."""
        return self.output(attended.transpose(1, 2).flatten(2))


class GatedMLP(nn.Module):
    """SwiGLU."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.gate = nn.Linear(config.width, config.mlp_width, bias=False)
        self.up = nn.Linear(config.width, config.mlp_width, bias=False)
        self.down = nn.Linear(config.mlp_width, config.width, bias=False)

    def forward(self, x: Tensor, *, overwrite: bool = False) -> Tensor:
        """`(…, width)`, the same shape.

        Args:
            x: the tokens.
            overwrite: hold two wide tensors at once instead of three; without gradients only.
        """
        gate = F.silu(self.gate(x), inplace=overwrite)
        return self.down(torch.mul(gate, self.up(x), out=gate if overwrite else None))


class Block(nn.Module):
    """Norm, attention, norm, MLP, both added to the stream."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.width)
        self.attention = Attention(config)
        self.mlp_norm = RMSNorm(config.width)
        self.mlp = GatedMLP(config)

    def forward(
        self, rows: Sequence[LayerRow], *, keep: bool = False, rows_at_once: int | None = None
    ) -> list[tuple[Tensor, KeysValues | None]]:
        """Every row's tokens `(B, L, width)` to the same shape.

        The rows are computed one by one, so that each gives what it gives alone. Without gradients
        their tokens are changed in place, unless torch compiles the block.

        Args:
            rows: the tokens and what they look at.
            keep: also return their keys and values.
            rows_at_once: about how many tokens are projected, normed and gated at a time. None:
                all. With gradients it is all, since autograd remembers them in any case, and also
                in a compiled block.
        """
        # Autograd needs every tensor as it was; all that is overwritten is overwritten here below.
        # The compiler fuses what is not in place, and cannot trace writes into parts of a tensor.
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return [self._remembering(row, keep) for row in rows]
        return [self._overwriting(row, keep, rows_at_once) for row in rows]

    def keys_values(self, rows: Sequence[LayerRow]) -> list[KeysValues]:
        """Only the keys and values of every row's tokens, the rest of the block not run."""
        return [self.attention.keys_values(self.attention_norm(r.x), r.rotation) for r in rows]

    def _remembering(self, row: LayerRow, keep: bool) -> tuple[Tensor, KeysValues | None]:
        x = row.x
        y = self.attention_norm(x)
        queries = self.attention.queries(y, row.rotation)
        own = self.attention.keys_values(y, row.rotation)
        keys = look_back([context.keys for context in row.contexts], own.keys)
        values = look_back([context.values for context in row.contexts], own.values)
        x = x + self.attention.joined(attend(queries, keys, values, row.mask))
        return x + self.mlp(self.mlp_norm(x)), own if keep else None

    def _overwriting(
        self, row: LayerRow, keep: bool, rows_at_once: int | None
    ) -> tuple[Tensor, KeysValues | None]:
        """As `_remembering`, in as little memory as it takes."""
        x, attention = row.x, self.attention
        batch, length, _ = x.shape
        pieces = slices_of(batch, length, rows_at_once)
        # 1. Queries, keys and values, one slice of tokens after the other, written where they stay.
        queries = x.new_empty(batch, length, attention.heads, attention.head_size).transpose(1, 2)
        room = (batch, attention.key_value_heads, length, attention.head_size)
        keys = room_behind([context.keys for context in row.contexts], room, x)
        values = room_behind([context.values for context in row.contexts], room, x)
        own = KeysValues(keys[:, :, -length:], values[:, :, -length:])
        for piece in pieces:
            attention.write(
                self.attention_norm(x[:, piece]),
                row.rotation.of(piece),
                queries[:, :, piece],
                KeysValues(own.keys[:, :, piece], own.values[:, :, piece]),
            )
        # 2. All tokens look at their contexts and at each other.
        attended = attend(queries, keys, values, row.mask)  # B H L D
        # What is kept is a copy: a view would hold the contexts, too.
        kept = KeysValues(*(part.contiguous() for part in own)) if keep else None
        del queries, keys, values, own
        # 3. What they saw joins the stream, and then the MLP's part does.
        for piece in pieces:
            x[:, piece].add_(attention.joined(attended[:, :, piece]))
        del attended
        for piece in pieces:
            x[:, piece].add_(self.mlp(self.mlp_norm(x[:, piece]), overwrite=True))
        return x, kept

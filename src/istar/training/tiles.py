"""Attention of packed rows on a CPU, in tiles that skip pairs which never see each other.

FlexAttention does the same on CUDA; on CPUs it has no backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from istar.training.packing import PackedBatch, visible

_TOGETHER = 128
"""Groups of no more tokens in all share a tile: one larger tile is quicker than many small ones.

128 was the quickest of 48, 128, 200 and 320 for istar-tiny's rows.
"""


class Tile(NamedTuple):
    """Queries that follow each other, and the groups that one of them sees.

    Attributes:
        tokens: how many queries.
        groups: which groups' keys, numbered through all rows.
        scores: `(tokens, groups' tokens)`, float32: minus infinity where a query does not see a
            key, otherwise zero; absent where all see all.
    """

    tokens: int
    groups: tuple[int, ...]
    scores: Tensor | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Tiles:
    """The attention pattern of R rows of L tokens, an `istar.transformer.attention.Pattern`.

    Attributes:
        lengths: tokens of every group, row after row; R·L together.
        tiles: likewise of all tokens.
    """

    lengths: tuple[int, ...]
    tiles: tuple[Tile, ...]

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Scaled dot-product attention of `(R, H, L, D)`."""
        return _not_compiled(self, queries, keys, values)


def _attend(tiles: Tiles, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    rows = len(queries)
    x, y, z = (each.transpose(1, 2).flatten(0, 1) for each in (queries, keys, values))  # R·L H D
    parts = x.split([tile.tokens for tile in tiles.tiles])
    keys_of, values_of = y.split(list(tiles.lengths)), z.split(list(tiles.lengths))
    attended = [
        F.scaled_dot_product_attention(
            _heads_first([part]),
            _heads_first([keys_of[group] for group in tile.groups]),
            _heads_first([values_of[group] for group in tile.groups]),
            attn_mask=tile.scores,
        )[0].transpose(0, 1)
        for part, tile in zip(parts, tiles.tiles, strict=True)
    ]
    return torch.cat(attended).unflatten(0, (rows, -1)).transpose(1, 2)


_not_compiled: Callable[[Tiles, Tensor, Tensor, Tensor], Tensor] = torch.compiler.disable(_attend)
"""No two batches have the same tiles, so that each would be compiled again."""


def _heads_first(pieces: Sequence[Tensor]) -> Tensor:
    """`(1, H, N, D)` of pieces `(n, H, D)` of N tokens together."""
    return torch.cat(list(pieces)).transpose(0, 1).unsqueeze(0)


def tiles_of(batch: PackedBatch) -> Tiles:
    """The tiles of packed rows; padding is a group of its own and sees itself."""
    every: list[int] = []
    tiles: list[Tile] = []
    for group, looks_at in zip(batch.group, batch.looks_at, strict=True):
        numbers, counts = group.unique_consecutive(return_counts=True)
        lengths = counts.tolist()
        starts = [0, *accumulate(lengths)]
        for first, end in _together(lengths):
            own = slice(starts[first], starts[end])
            seen = visible(group[own], looks_at[own], numbers).any(0).nonzero()[:, 0]
            keys = numbers[seen].repeat_interleave(counts[seen])
            scores = _scores(visible(group[own], looks_at[own], keys))
            groups = tuple(len(every) + number for number in seen.tolist())
            tiles.append(Tile(starts[end] - starts[first], groups, scores))
        every += lengths
    return Tiles(lengths=tuple(every), tiles=tuple(tiles))


def _together(lengths: Sequence[int]) -> Iterator[tuple[int, int]]:
    """First and end of the groups that share a tile."""
    first, tokens = 0, 0
    for number, length in enumerate(lengths):
        if tokens and tokens + length > _TOGETHER:
            yield first, number
            first, tokens = number, 0
        tokens += length
    yield first, len(lengths)


def _scores(seen: Tensor) -> Tensor | None:
    """The bias on a tile's attention scores; None where every query sees every key."""
    if seen.all():
        return None
    return torch.zeros(seen.shape, device=seen.device).masked_fill(~seen, -torch.inf)

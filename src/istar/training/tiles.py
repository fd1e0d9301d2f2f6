"""Who sees whom in packed rows, as tiles of attention for CPUs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate

import torch
from torch import Tensor

from istar.training.packing import PackedBatch, visible
from istar.transformer.tiles import Tile, Tiles

_TOGETHER = 128


def tiles_of(batch: PackedBatch) -> Tiles:
    """The tiles of packed rows; their pieces are the groups."""
    pieces: list[int] = []
    tiles: list[Tile] = []
    for group, looks_at in zip(batch.group, batch.looks_at, strict=True):
        numbers, counts = group.unique_consecutive(return_counts=True)
        lengths = counts.tolist()
        ends = [0, *accumulate(lengths)]
        for first, last in _together(lengths):
            own = slice(ends[first], ends[last])
            seen = visible(group[own], looks_at[own], numbers).any(0).nonzero()[:, 0]
            mask = visible(group[own], looks_at[own], numbers[seen].repeat_interleave(counts[seen]))
            keys = tuple(len(pieces) + number for number in seen.tolist())
            tiles.append(Tile(ends[last] - ends[first], keys, _scores(mask)))
        pieces += lengths
    return Tiles(pieces, tiles)


def _together(lengths: Sequence[int]) -> Iterator[tuple[int, int]]:
    """First and end of the groups that share a tile: many small ones take longer than one."""
    first, tokens = 0, 0
    for number, length in enumerate(lengths):
        if tokens and tokens + length > _TOGETHER:
            yield first, number
            first, tokens = number, 0
        tokens += length
    yield first, len(lengths)


def _scores(mask: Tensor) -> Tensor | None:
    """What to add to the scores of a tile; nothing where all see all."""
    if mask.all():
        return None
    return torch.zeros(mask.shape).masked_fill(~mask, -torch.inf)

"""Attention in tiles: some queries together, and of the keys only those that one of them sees.

What FlexAttention's blocks are on CUDA, where CPUs lack its backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Tile(NamedTuple):
    """Queries that follow each other, and what they see.

    Attributes:
        queries: how many.
        keys: numbers of the pieces that they see.
        mask: `(queries, keys' tokens)`, float32, added to the scores; all see all when absent.
    """

    queries: int
    keys: tuple[int, ...]
    mask: Tensor | None


@dataclass(eq=False)
class Tiles:
    """Who sees whom in R rows of L tokens, which are one sequence of R·L tokens here.

    Attributes:
        pieces: how many tokens each piece has; a tile sees a piece or does not.
        tiles: of all queries in order.
    """

    pieces: Sequence[int]
    tiles: Sequence[Tile]


def _attend_in_tiles(queries: Tensor, keys: Tensor, values: Tensor, tiles: Tiles) -> Tensor:
    """Scaled dot-product attention `(R, H, L, D)` of tensors of that shape."""
    rows = len(queries)
    x, y, z = (each.transpose(1, 2).flatten(0, 1) for each in (queries, keys, values))  # R·L H D
    parts = x.split([tile.queries for tile in tiles.tiles])
    key_pieces, value_pieces = y.split(list(tiles.pieces)), z.split(list(tiles.pieces))
    attended = [
        F.scaled_dot_product_attention(
            _heads_first([part]),
            _heads_first([key_pieces[number] for number in tile.keys]),
            _heads_first([value_pieces[number] for number in tile.keys]),
            attn_mask=tile.mask,
        )[0].transpose(0, 1)
        for part, tile in zip(parts, tiles.tiles, strict=True)
    ]
    return torch.cat(attended).unflatten(0, (rows, -1)).transpose(1, 2)


attend_in_tiles: Callable[[Tensor, Tensor, Tensor, Tiles], Tensor]
attend_in_tiles = torch.compiler.disable(_attend_in_tiles)


def _heads_first(pieces: Sequence[Tensor]) -> Tensor:
    """`(1, H, N, D)` of pieces `(n, H, D)` of N tokens together."""
    return torch.cat(list(pieces)).transpose(0, 1).unsqueeze(0)

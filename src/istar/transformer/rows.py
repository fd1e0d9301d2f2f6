"""Rows: the sequences of tokens that pass the network together."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from istar.transformer.attention import Mask
from istar.transformer.cache import Context, KeysValues
from istar.transformer.rope import Rotation


class Row(NamedTuple):
    """Tokens to pass the network: in generation, one guidance branch of one seed.

    Attributes:
        x: `(B, L, width)`, embedded.
        rotation: of the L tokens.
        contexts: keys and values that all L may look at, of C tokens together.
        mask: see `istar.transformer.attention.attend`: `(L, C + L)`, or of the L
            tokens alone where there are no contexts. None: no mask.
    """

    x: Tensor
    rotation: Rotation
    contexts: tuple[Context, ...] = ()
    mask: Mask | None = None


class LayerRow(NamedTuple):
    """A row as it enters one block: its contexts are those of that layer."""

    x: Tensor
    rotation: Rotation
    contexts: Sequence[KeysValues] = ()
    mask: Mask | None = None


class RowOutput(NamedTuple):
    """A row that has passed the network.

    Attributes:
        x: `(B, L, width)` after the last block, not normed.
        context: the tokens' own keys and values, where they were to be kept.
    """

    x: Tensor
    context: Context | None


def batches(rows: Sequence[Row], *, together: bool) -> list[list[int]]:
    """The numbers of the rows that are computed as one batch: alone unless they go `together`.

    Rows fit if they have as many tokens, one rotation, and contexts of the same lengths.
    """
    groups: dict[object, list[int]] = {}
    for number, row in enumerate(rows):
        lengths = tuple(context[0].keys.shape[2] for context in row.contexts)
        alike = (row.x.shape, id(row.rotation), lengths, id(row.mask))
        groups.setdefault(alike if together else number, []).append(number)
    return list(groups.values())


def layer_contexts(batch: Sequence[Row], layer: int) -> list[KeysValues]:
    """The contexts of a batch's rows at one layer, joined for that layer only.

    Returns:
        for each context keys and values `(B, H_kv, C, D)`, B of all rows together.
    """
    if len(batch) == 1:
        return [context[layer] for context in batch[0].contexts]

    def joined(position: int, part: int) -> Tensor:
        own = [(row.contexts[position][layer][part], row.x) for row in batch]
        return torch.cat([seen.to(x.device).expand(len(x), -1, -1, -1) for seen, x in own])

    return [KeysValues(joined(n, 0), joined(n, 1)) for n in range(len(batch[0].contexts))]


def slices_of(batch: int, length: int, at_once: int | None) -> list[slice]:
    """Nearly equal slices of a batch's L tokens, at most `at_once` of the whole batch in each.

    None: one slice.
    """
    count = 1 if at_once is None else max(1, min(length, -(-batch * length // at_once)))
    return [slice(*ends) for ends in pairwise(length * n // count for n in range(count + 1))]

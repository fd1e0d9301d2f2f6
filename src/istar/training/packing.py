"""Runs of tokens packed into rows, and the attention mask of a row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from istar.training.sequences import NOWHERE, Run

_PADDING = -1


class PackedBatch(NamedTuple):
    """Rows of runs; R rows of L tokens with N texts of at most M tokens.

    Attributes:
        texts: `(N, M)` ids, zero after a text's end.
        text_lengths: `(N,)`.
        unconditional: `(N,)` booleans.
        text_positions: `(sum of lengths,)`: index of each text token among the R·L, text by text.
        inputs: `(R, L, C)`.
        coordinates: `(R, L, 4)`.
        group: `(R, L)`, unlike in a run, unique within a row; -1 is padding.
        looks_at: `(R, L, 2, 2)`.
        targets: `(R, L, C)` booleans.
        bit_weight: `(R, L, C)`.
        kind, scale: `(R, L)`.
        weight: `(R, L)`.
    """

    texts: Tensor
    text_lengths: Tensor
    unconditional: Tensor
    text_positions: Tensor
    inputs: Tensor
    coordinates: Tensor
    group: Tensor
    looks_at: Tensor
    targets: Tensor
    bit_weight: Tensor
    kind: Tensor
    weight: Tensor
    scale: Tensor


_FILL = {"group": _PADDING, "looks_at": NOWHERE}


def pack(rows: Sequence[Sequence[Run]], length: int) -> PackedBatch:
    """Pack runs into rows, each filled up to `length` tokens; no row may be longer."""
    texts, unconditional, positions = [], [], []
    columns: dict[str, list[Tensor]] = {name: [] for name in Run._fields[2:]}
    for number, runs in enumerate(rows):
        at, groups = number * length, 0
        joined = []
        for run in runs:
            # 1. The run's text begins at `at`; its features replace those tokens' inputs later.
            texts.append(run.text)
            unconditional.append(run.unconditional)
            positions.append(torch.arange(at, at + len(run.text)))
            at += run.tokens
            # 2. Its groups are numbered on from the run before, so that no two runs see each other.
            looks = torch.where(run.looks_at == NOWHERE, NOWHERE, run.looks_at + groups)
            joined.append(run._replace(group=run.group + groups, looks_at=looks))
            groups += int(run.group.max()) + 1
        # 3. What has one entry a token is joined and padded; padding is a group of its own.
        for name, values in columns.items():
            value = torch.cat([getattr(run, name) for run in joined])
            rest = value.new_full((length - len(value), *value.shape[1:]), _FILL.get(name, 0))
            values.append(torch.cat((value, rest)))
    return PackedBatch(
        torch.nn.utils.rnn.pad_sequence(texts, batch_first=True),
        torch.tensor([len(text) for text in texts]),
        torch.stack(unconditional),
        torch.cat(positions),
        **{name: torch.stack(values) for name, values in columns.items()},
    )


def visible(group: Tensor, looks_at: Tensor, keys: Tensor | None = None) -> Tensor:
    """The mask `(…, L, M)` of tokens, true where a query sees a key.

    Args:
        group: `(…, L)`, of tokens of the same row.
        looks_at: `(…, L, 2, 2)`, likewise.
        keys: `(…, M)`, the groups of the keys; the same tokens when absent.
    """
    at = (group if keys is None else keys).unsqueeze(-2)
    seen = group.unsqueeze(-1) == at
    for first, last in (bounds.unsqueeze(-2).unbind(-1) for bounds in looks_at.unbind(-2)):
        seen |= (first <= at) & (at <= last)
    return seen

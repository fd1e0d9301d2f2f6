"""Attention of packed rows in tiles."""

from __future__ import annotations

import pytest
import torch
from test_sequences import PLAIN, example, teacher_forced

from istar.generation.schedule import ContextKind
from istar.training.packing import PackedBatch, pack, visible
from istar.training.sequences import run_of
from istar.training.tiles import Tiles, tiles_of
from istar.transformer.attention import attend
from istar.transformer.model import Transformer


def packed(
    transformer: Transformer, random: torch.Generator, context: ContextKind = "sparse"
) -> PackedBatch:
    """Two rows, one of them of two examples, both with padding."""
    examples = [example(random, *frames, context=context) for frames in ((1, 2), (1,), (1, 1))]
    runs = [run_of(one, transformer.config, PLAIN, random) for one in examples]
    return pack([runs[:1], runs[1:]], 128)


@pytest.mark.parametrize("together", [1, 20, 1000])
@pytest.mark.parametrize("context", ["sparse", "full"])
def test_tiles_give_what_the_dense_mask_gives(
    transformer: Transformer,
    random: torch.Generator,
    context: ContextKind,
    together: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However many groups share one, logits and gradients are the same."""
    monkeypatch.setattr("istar.training.tiles._TOGETHER", together)
    batch = packed(transformer, random, context)
    transformer.requires_grad_()
    found = []
    for mask in (visible(batch.group, batch.looks_at).unsqueeze(1), tiles_of(batch)):
        transformer.zero_grad()
        outcome = teacher_forced(transformer, batch, mask=mask)
        (outcome.semantic.square().mean() + outcome.detail.square().mean()).backward()
        found.append([*outcome, *(value.grad for value in transformer.blocks.parameters())])
    for dense, tiled in zip(*found, strict=True):
        torch.testing.assert_close(tiled, dense, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("heads", [2, 4])
def test_tiles_take_half_precision_and_shared_heads(
    transformer: Transformer, random: torch.Generator, heads: int
) -> None:
    batch = packed(transformer, random)
    rows, length = batch.group.shape
    tensors = [
        torch.randn(rows, count, length, 8, generator=random).requires_grad_()
        for count in (4, heads, heads)
    ]
    mask = visible(batch.group, batch.looks_at).unsqueeze(1)
    exact = attend(*tensors, mask)
    with torch.autocast("cpu", torch.bfloat16):
        found = attend(*tensors, tiles_of(batch))
    torch.testing.assert_close(found, exact, atol=1e-5, rtol=1e-5)


def test_unseen_pairs_are_left_out(
    transformer: Transformer, random: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A group sees the text, itself and, from the second clip on, the largest scale before."""
    monkeypatch.setattr("istar.training.tiles._TOGETHER", 1)
    run = run_of(example(random, 1, 2, length=5), transformer.config, PLAIN, random)
    tiles = tiles_of(pack([[run], [run]], run.tokens + 3))
    row = [(5, 5), *((n, 5 + n) for n in (1, 6, 24)), *((n, 29 + n) for n in (2, 12, 48)), (3, 3)]
    assert sizes(tiles) == [*row, *row]
    assert all(tile.scores is None for tile in tiles.tiles)


def test_few_tokens_share_a_tile(
    transformer: Transformer, random: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("istar.training.tiles._TOGETHER", 40)
    run = run_of(example(random, 1, 2, length=5), transformer.config, PLAIN, random)
    tiles = tiles_of(pack([[run]], run.tokens))
    assert sizes(tiles) == [(38, 38), (12, 41), (48, 77)]
    shared, *alone = tiles.tiles
    assert shared.scores is not None
    assert shared.scores.shape == (38, 38)
    assert all(tile.scores is None for tile in alone)


def sizes(tiles: Tiles) -> list[tuple[int, int]]:
    """Queries and keys of every tile."""
    return [
        (tile.tokens, sum(tiles.lengths[group] for group in tile.groups)) for tile in tiles.tiles
    ]

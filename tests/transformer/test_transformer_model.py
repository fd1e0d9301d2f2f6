from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from istar.errors import CheckpointError
from istar.transformer.block import Block, RMSNorm
from istar.transformer.cache import Context, KeysValues
from istar.transformer.config import TransformerConfig
from istar.transformer.model import Transformer
from istar.transformer.rope import Rotation, rotate, rotation
from istar.transformer.rows import LayerRow, Row

TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture(autouse=True, params=["remembering", "overwriting"])
def gradients(request: pytest.FixtureRequest) -> Iterator[bool]:
    """With gradients, where blocks keep every tensor, and without, where they overwrite them."""
    with torch.set_grad_enabled(request.param == "remembering"):
        yield request.param == "remembering"


def run(
    random: torch.Generator, length: int, batch: int = 2, head_size: int = 8
) -> tuple[torch.Tensor, Rotation]:
    """Random tokens at random places."""
    x = torch.randn(batch, length, 32, generator=random)
    where = torch.randint(0, 20, (length, 4), generator=random)
    return x, rotation(where, head_size)


def test_norm_against_its_formula(random: torch.Generator) -> None:
    norm = RMSNorm(32).requires_grad_(False)
    norm.weight.copy_(torch.randn(32, generator=random))
    x = torch.randn(3, 5, 32, generator=random) * 1e-3
    expected = x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * norm.weight
    torch.testing.assert_close(norm(x), expected)


def test_norm_of_bf16_is_computed_in_float32(random: torch.Generator) -> None:
    norm = RMSNorm(32).requires_grad_(False)
    x = torch.randn(3, 5, 32, generator=random).bfloat16()
    expected = norm(x.float()).bfloat16()
    assert torch.equal(norm.bfloat16()(x), expected)


def test_block_against_its_formula(
    transformer: Transformer, small_config: TransformerConfig, random: torch.Generator
) -> None:
    block = transformer.blocks[1]
    assert isinstance(block, Block)
    x, turn = run(random, 6)

    def norm(y: torch.Tensor, layer: RMSNorm) -> torch.Tensor:
        return F.rms_norm(y, y.shape[-1:], layer.weight, 1e-6)

    def heads(y: torch.Tensor, count: int) -> torch.Tensor:
        return y.reshape(2, 6, count, small_config.head_size).transpose(1, 2)

    attention, mlp = block.attention, block.mlp
    y = norm(x, block.attention_norm)
    q = rotate(norm(heads(y @ attention.query.weight.T, 4), attention.query_norm), turn)
    k = rotate(norm(heads(y @ attention.key.weight.T, 2), attention.key_norm), turn)
    v = heads(y @ attention.value.weight.T, 2)
    scores = q @ k[:, [0, 0, 1, 1]].mT / small_config.head_size**0.5
    z = scores.softmax(-1) @ v[:, [0, 0, 1, 1]]
    after = x + z.transpose(1, 2).reshape(2, 6, 32) @ attention.output.weight.T
    y = norm(after, block.mlp_norm)
    gated = F.silu(y @ mlp.gate.weight.T) * (y @ mlp.up.weight.T)
    ((found, own),) = block([LayerRow(x, turn)], keep=True)
    torch.testing.assert_close(found, after + gated @ mlp.down.weight.T, **TOLERANCE)
    torch.testing.assert_close(own, KeysValues(k, v), **TOLERANCE)


def passed(model: Transformer, row: Row, **options: bool) -> torch.Tensor:
    """One row after the last block."""
    ((x, _),) = model([row], **options)
    return x


def context_of(model: Transformer, row: Row) -> Context:
    (output,) = model([row], keep=True)
    assert output.context is not None
    return output.context


def test_keys_and_values_alone_equal_those_kept(
    transformer: Transformer, random: torch.Generator
) -> None:
    context = context_of(transformer, Row(*run(random, 4)))
    x, turn = run(random, 5)
    for before in ((), (context,)):
        row = Row(x, turn, before)
        kept = context_of(transformer, row)
        assert len(kept) == len(transformer.blocks)
        (alone,) = transformer.keys_values([row])
        for found, expected in zip(alone, kept, strict=True):
            torch.testing.assert_close(found, expected, **TOLERANCE)


def test_nothing_is_kept_unless_asked(transformer: Transformer, random: torch.Generator) -> None:
    (output,) = transformer([Row(*run(random, 3))])
    assert output.context is None


def test_a_context_equals_a_mask_over_one_sequence(
    transformer: Transformer, random: torch.Generator
) -> None:
    first, first_turn = run(random, 4)
    second, second_turn = run(random, 5)
    context = context_of(transformer, Row(first, first_turn))
    after = passed(transformer, Row(second, second_turn, (context,)))
    mask = torch.ones(9, 9, dtype=torch.bool)
    mask[:4, 4:] = False
    turn = Rotation(*(torch.cat(parts) for parts in zip(first_turn, second_turn, strict=True)))
    joined = passed(transformer, Row(torch.cat((first, second), dim=1), turn, mask=mask))
    torch.testing.assert_close(after, joined[:, 4:], **TOLERANCE)


def test_a_mask_covers_context_and_own_tokens(
    transformer: Transformer, random: torch.Generator
) -> None:
    x, turn = run(random, 5)
    context = context_of(transformer, Row(*run(random, 3)))
    mask = torch.ones(5, 8, dtype=torch.bool)
    whole = passed(transformer, Row(x, turn, (context,)))
    masked = passed(transformer, Row(x, turn, (context,), mask))
    torch.testing.assert_close(masked, whole, **TOLERANCE)
    mask[:, :3] = False
    alone = passed(transformer, Row(x, turn))
    masked = passed(transformer, Row(x, turn, (context,), mask))
    torch.testing.assert_close(masked, alone, **TOLERANCE)
    assert (alone - whole).abs().max() > 1e-2


def test_several_contexts_are_seen_in_any_order(
    transformer: Transformer, random: torch.Generator
) -> None:
    one, two = (context_of(transformer, Row(*run(random, length))) for length in (3, 4))
    x, turn = run(random, 5)
    forward = passed(transformer, Row(x, turn, (one, two)))
    torch.testing.assert_close(forward, passed(transformer, Row(x, turn, (two, one))), **TOLERANCE)
    assert (forward - passed(transformer, Row(x, turn, (one,)))).abs().max() > 1e-2


# --- Rows --------------------------------------------------------------------------------------


def some_rows(model: Transformer, random: torch.Generator, lengths: tuple[int, ...]) -> list[Row]:
    """Rows of five tokens at the same places, with texts of the given lengths to look at."""
    size = model.config.head_size
    _, turn = run(random, 5, head_size=size)
    return [
        Row(
            torch.randn(1, 5, 32, generator=random),
            turn,
            (context_of(model, Row(*run(random, length, batch=1, head_size=size))),),
        )
        for length in lengths
    ]


def test_rows_in_one_call_equal_rows_alone(
    transformer: Transformer, random: torch.Generator
) -> None:
    rows = some_rows(transformer, random, (3, 7, 3, 2))
    found = transformer(rows, keep=True)
    contexts = transformer.keys_values(rows)
    for row, output, context in zip(rows, found, contexts, strict=True):
        (alone,) = transformer([row], keep=True)
        assert torch.equal(output.x, alone.x)
        assert output.context is not None
        assert alone.context is not None
        for ours, theirs in zip(output.context, alone.context, strict=True):
            assert torch.equal(ours.keys, theirs.keys)
            assert torch.equal(ours.values, theirs.values)
        (own,) = transformer.keys_values([row])
        for ours, theirs in zip(context, own, strict=True):
            assert torch.equal(ours.keys, theirs.keys)


@pytest.mark.parametrize("lengths", [(3, 3, 3), (3, 7, 3, 2)])
def test_rows_in_one_batch_are_near_rows_alone(
    transformer: Transformer, random: torch.Generator, lengths: tuple[int, ...]
) -> None:
    rows = some_rows(transformer, random, lengths)
    batches: list[int] = []
    transformer.blocks[0].mlp.register_forward_pre_hook(  # type: ignore[union-attr]
        lambda _, args: batches.append(len(args[0]))
    )
    found = transformer(rows, keep=True, together=True)
    assert sorted(batches) == sorted(lengths.count(length) for length in set(lengths))
    for row, output in zip(rows, found, strict=True):
        (alone,) = transformer([row], keep=True)
        # Activations of these random weights are of the order of one.
        torch.testing.assert_close(output.x, alone.x, atol=1e-6, rtol=1e-6)
        assert output.context is not None
        assert alone.context is not None
        for ours, theirs in zip(output.context, alone.context, strict=True):
            torch.testing.assert_close(ours.keys, theirs.keys, atol=1e-6, rtol=1e-6)
            torch.testing.assert_close(ours.values, theirs.values, atol=1e-6, rtol=1e-6)


def test_rows_of_several_examples_in_one_batch(
    transformer: Transformer, random: torch.Generator
) -> None:
    """Two rows of two examples each, which share their row's context."""
    _, turn = run(random, 5)
    rows = [
        Row(
            torch.randn(2, 5, 32, generator=random),
            turn,
            (context_of(transformer, Row(*run(random, 3, batch=1))),),
        )
        for _ in range(2)
    ]
    found = transformer(rows, together=True)
    contexts = transformer.keys_values(rows, together=True)
    for row, output, context in zip(rows, found, contexts, strict=True):
        torch.testing.assert_close(output.x, passed(transformer, row), atol=1e-6, rtol=1e-6)
        (own,) = transformer.keys_values([row])
        for ours, theirs in zip(context, own, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6)


def test_all_rows_pass_a_block_before_any_enters_the_next(
    transformer: Transformer, random: torch.Generator
) -> None:
    visited: list[tuple[str, int]] = []
    for number, block in enumerate(transformer.blocks):
        block.register_forward_pre_hook(lambda *_, number=number: visited.append(("block", number)))
        block.attention_norm.register_forward_pre_hook(  # type: ignore[union-attr]
            lambda *_, number=number: visited.append(("row", number))
        )
    transformer([Row(*run(random, 5)) for _ in range(3)])
    assert visited == [
        visit for number in range(3) for visit in [("block", number), *[("row", number)] * 3]
    ]


# --- In place, and in slices -------------------------------------------------------------------


@pytest.mark.parametrize("together", [False, True])
def test_overwriting_gives_the_bits_of_remembering(
    small_config: TransformerConfig, random: torch.Generator, together: bool
) -> None:
    sizes = replace(small_config, heads=2, key_value_heads=1, head_size=32)
    torch.manual_seed(1)
    transformer = Transformer(sizes).requires_grad_(False)
    rows = some_rows(transformer, random, (3, 7, 3, 2))
    before = [row.x.clone() for row in rows]
    outputs: list[list[torch.Tensor]] = []
    for with_gradients in (False, True):
        with torch.set_grad_enabled(with_gradients):
            through = transformer(rows, keep=True, together=together)
            kept = [part for output in through for layer in output.context for part in layer]
            logits = [transformer.logits(output.x, semantic=True) for output in through]
            outputs.append([*(output.x for output in through), *kept, *logits])
    assert all(torch.equal(one, two) for one, two in zip(*outputs, strict=True))
    # What came in is as it was.
    assert all(torch.equal(row.x, x) for row, x in zip(rows, before, strict=True))


@pytest.mark.parametrize("rows_at_once", [1, 2, 4, 100])
def test_tokens_in_slices_equal_all_at_once(
    transformer: Transformer, random: torch.Generator, rows_at_once: int
) -> None:
    rows = some_rows(transformer, random, (3, 7))
    widths: list[int] = []
    transformer.blocks[0].mlp.register_forward_pre_hook(  # type: ignore[union-attr]
        lambda _, args: widths.append(args[0].shape[1])
    )
    with torch.no_grad():
        whole = transformer(rows, keep=True)
        transformer.rows_at_once = rows_at_once
        found = transformer(rows, keep=True)
        ours, theirs = (transformer.logits(each[0].x, semantic=False) for each in (found, whole))
        torch.testing.assert_close(ours, theirs, **TOLERANCE)
        for one, two in zip(found, whole, strict=True):
            torch.testing.assert_close(one, two, **TOLERANCE)
    assert sum(widths) == 4 * 5
    assert max(widths[2:]) <= rows_at_once


@pytest.mark.parametrize("rows_at_once", [None, 3])
def test_rows_of_one_batch_may_be_turned_differently(
    transformer: Transformer, random: torch.Generator, rows_at_once: int | None
) -> None:
    alone = [run(random, 5, batch=1) for _ in range(2)]
    turns = [
        torch.stack(parts).unsqueeze(1) for parts in zip(*(by for _, by in alone), strict=True)
    ]
    batch = Row(torch.cat([x for x, _ in alone]), Rotation(*turns))
    transformer.rows_at_once = rows_at_once
    (found,) = transformer([batch])
    transformer.rows_at_once = None
    wanted = torch.cat([transformer([Row(*one)])[0].x for one in alone])
    torch.testing.assert_close(found.x, wanted, **TOLERANCE)


def test_kept_keys_and_values_hold_nothing_else(
    transformer: Transformer, random: torch.Generator
) -> None:
    (row,) = some_rows(transformer, random, (7,))
    for part in (part for layer in context_of(transformer, row) for part in layer):
        assert part.untyped_storage().nbytes() == part.nbytes


@pytest.mark.parametrize(("semantic", "bits"), [(True, 16), (False, 64)])
def test_logits_are_adjacent_pairs(
    transformer: Transformer, random: torch.Generator, semantic: bool, bits: int
) -> None:
    x = torch.randn(1, 3, 32, generator=random)
    head = transformer.semantic_head if semantic else transformer.detail_head
    flat = transformer.norm(x) @ head.weight.T + head.bias
    found = transformer.logits(x, semantic=semantic)
    assert found.shape == (1, 3, bits, 2)
    for bit in (0, bits - 1):
        for value in (0, 1):
            torch.testing.assert_close(found[..., bit, value], flat[..., 2 * bit + value])


def test_heads_compute_in_float32_in_a_bf16_model(
    transformer: Transformer, random: torch.Generator
) -> None:
    heads = (transformer.semantic_head, transformer.detail_head)
    transformer.bfloat16()
    for head in heads:
        head.float()
        head.weight.add_(torch.randn(head.weight.shape, generator=random) * 1e-4)
    x = torch.randn(1, 7, 32, generator=random).bfloat16()
    assert transformer.dtype == torch.bfloat16
    for semantic, head in zip((True, False), heads, strict=True):
        logits = transformer.logits(x, semantic=semantic)
        expected = transformer.norm(x).float() @ head.weight.T + head.bias
        assert logits.dtype == torch.float32
        torch.testing.assert_close(logits.flatten(2), expected, **TOLERANCE)


def test_bf16_stays_near_float32(transformer: Transformer, random: torch.Generator) -> None:
    x, turn = run(random, 6)
    full = passed(transformer, Row(x, turn))
    half = passed(transformer.bfloat16(), Row(x.bfloat16(), turn))
    assert half.dtype == torch.bfloat16
    assert (half.float() - full).abs().mean() < 0.03 * full.std()


@pytest.mark.parametrize(
    "sizes",
    [
        {"width": 0},
        {"depth": True},
        {"heads": 2.0},
        {"heads": 6, "key_value_heads": 4},
        {"head_size": 12},
        {"latent_channels": 64, "semantic_bits": 24},
    ],
)
def test_sizes_that_do_not_fit(sizes: dict[str, int]) -> None:
    with pytest.raises(CheckpointError, match="transformer: "):
        TransformerConfig(**sizes)

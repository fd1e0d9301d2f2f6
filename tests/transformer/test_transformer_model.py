from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from istar.errors import CheckpointError
from istar.transformer.block import Block, RMSNorm
from istar.transformer.cache import KeysValues, join
from istar.transformer.config import TransformerConfig
from istar.transformer.model import Transformer
from istar.transformer.rope import Rotation, rotate, rotation

TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}


def run(random: torch.Generator, length: int, batch: int = 2) -> tuple[torch.Tensor, Rotation]:
    """Random tokens at random places."""
    x = torch.randn(batch, length, 32, generator=random)
    where = torch.randint(0, 20, (length, 4), generator=random)
    return x, rotation(where, 8)


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
    found, own = block(x, turn)
    torch.testing.assert_close(found, after + gated @ mlp.down.weight.T, **TOLERANCE)
    torch.testing.assert_close(own, KeysValues(k, v), **TOLERANCE)


def test_keys_and_values_alone_equal_those_kept(
    transformer: Transformer, random: torch.Generator
) -> None:
    _, context = transformer(*run(random, 4), keep=True)
    x, turn = run(random, 5)
    for before in ([], [context]):
        _, kept = transformer(x, turn, before, keep=True)
        assert len(kept) == len(transformer.blocks)
        for found, expected in zip(transformer.keys_values(x, turn, before), kept, strict=True):
            torch.testing.assert_close(found, expected, **TOLERANCE)


def test_nothing_is_kept_unless_asked(transformer: Transformer, random: torch.Generator) -> None:
    assert transformer(*run(random, 3))[1] is None


def test_a_context_equals_a_mask_over_one_sequence(
    transformer: Transformer, random: torch.Generator
) -> None:
    first, first_turn = run(random, 4)
    second, second_turn = run(random, 5)
    _, context = transformer(first, first_turn, keep=True)
    after, _ = transformer(second, second_turn, [context])
    mask = torch.ones(9, 9, dtype=torch.bool)
    mask[:4, 4:] = False
    turn = Rotation(*(torch.cat(parts) for parts in zip(first_turn, second_turn, strict=True)))
    together, _ = transformer(torch.cat((first, second), dim=1), turn, mask=mask)
    torch.testing.assert_close(after, together[:, 4:], **TOLERANCE)


def test_a_mask_covers_context_and_own_tokens(
    transformer: Transformer, random: torch.Generator
) -> None:
    x, turn = run(random, 5)
    _, context = transformer(*run(random, 3), keep=True)
    mask = torch.ones(5, 8, dtype=torch.bool)
    whole, _ = transformer(x, turn, [context])
    torch.testing.assert_close(transformer(x, turn, [context], mask=mask)[0], whole, **TOLERANCE)
    mask[:, :3] = False
    alone, _ = transformer(x, turn)
    torch.testing.assert_close(transformer(x, turn, [context], mask=mask)[0], alone, **TOLERANCE)
    assert (alone - whole).abs().max() > 1e-2


def test_several_contexts_are_seen_in_any_order(
    transformer: Transformer, random: torch.Generator
) -> None:
    _, one = transformer(*run(random, 3), keep=True)
    _, two = transformer(*run(random, 4), keep=True)
    x, turn = run(random, 5)
    forward, _ = transformer(x, turn, [one, two])
    backward, _ = transformer(x, turn, [two, one])
    torch.testing.assert_close(forward, backward, **TOLERANCE)
    assert torch.equal(forward, transformer(x, turn, [join([one, two])])[0])
    assert (forward - transformer(x, turn, [one])[0]).abs().max() > 1e-2


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
    full = transformer(x, turn)[0]
    half = transformer.bfloat16()(x.bfloat16(), turn)[0]
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

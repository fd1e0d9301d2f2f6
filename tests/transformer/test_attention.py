from __future__ import annotations

import torch

from istar.transformer.attention import attend, look_back


def literal(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor | None
) -> torch.Tensor:
    """Softmax attention, one head and one query at a time."""
    batch, heads, length, size = queries.shape
    groups = heads // keys.shape[1]
    result = torch.empty_like(queries)
    for b in range(batch):
        for head in range(heads):
            shared = head // groups
            for place in range(length):
                scores = keys[b, shared] @ queries[b, head, place] / size**0.5
                if mask is not None:
                    scores = scores.masked_fill(~mask[place], float("-inf"))
                result[b, head, place] = torch.softmax(scores, 0) @ values[b, shared]
    return result


def inputs(random: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return (
        torch.randn(2, 6, 5, 8, generator=random),
        torch.randn(2, 2, 7, 8, generator=random),
        torch.randn(2, 2, 7, 8, generator=random),
    )


def test_shared_heads_equal_a_literal_softmax(random: torch.Generator) -> None:
    queries, keys, values = inputs(random)
    expected = literal(queries, keys, values, None)
    torch.testing.assert_close(attend(queries, keys, values), expected, atol=1e-5, rtol=1e-5)


def test_masked_heads_equal_a_literal_softmax(random: torch.Generator) -> None:
    queries, keys, values = inputs(random)
    mask = torch.rand(5, 7, generator=random) < 0.5
    mask[:, 0] = True
    expected = literal(queries, keys, values, mask)
    torch.testing.assert_close(attend(queries, keys, values, mask), expected, atol=1e-5, rtol=1e-5)
    assert (attend(queries, keys, values) - expected).abs().max() > 1e-2


def test_what_learns_in_half_precision_is_computed_exactly_on_the_cpu(
    random: torch.Generator,
) -> None:
    half = [x.bfloat16().requires_grad_() for x in inputs(random)]
    exact = [x.detach().float().requires_grad_() for x in half]
    found, expected = attend(*half), attend(*exact)
    torch.testing.assert_close(found, expected.bfloat16(), atol=0, rtol=0)
    found.float().square().sum().backward()
    expected.square().sum().backward()
    for one, other in zip(half, exact, strict=True):
        torch.testing.assert_close(one.grad.float(), other.grad, atol=2e-2, rtol=2e-2)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(attend(*exact), expected, atol=0, rtol=0)
    with torch.inference_mode():
        assert attend(*half).dtype is torch.bfloat16


def test_shared_heads_equal_expanded_heads(random: torch.Generator) -> None:
    queries, keys, values = inputs(random)
    expanded = [x[:, [0, 0, 0, 1, 1, 1]] for x in (keys, values)]
    torch.testing.assert_close(attend(queries, keys, values), attend(queries, *expanded))


def test_looking_back_puts_the_contexts_first(random: torch.Generator) -> None:
    context = torch.randn(1, 2, 3, 4, generator=random)
    later = torch.randn(1, 2, 1, 4, generator=random)
    own = torch.randn(2, 2, 5, 4, generator=random)
    seen = look_back([context, later], own)
    assert seen.shape == (2, 2, 9, 4)
    assert torch.equal(seen[:, :, 4:], own)
    for one in seen:
        assert torch.equal(one[:, :3], context[0])
        assert torch.equal(one[:, 3:4], later[0])
    assert look_back([], own) is own

from __future__ import annotations

from math import log

import pytest
import torch

from istar.generation.likelihood import NOTHING, Score, step_score, token_scores, total

PROBABILITIES = torch.tensor([[0.5, 0.9], [0.2, 0.75]])
"""That each of two bits of two tokens is set."""

BITS = torch.tensor([[True, True], [True, False]])


def logits_of(probabilities: torch.Tensor) -> torch.Tensor:
    """`(L, d, 2)`, each bit's two shifted by something of its own."""
    both = torch.stack((1 - probabilities, probabilities), dim=-1).log()
    return both + torch.arange(both.shape[0] * both.shape[1]).reshape(*both.shape[:2], 1)


def test_a_score_is_the_logarithm_of_a_probability() -> None:
    logits = logits_of(PROBABILITIES)
    unconditional = logits_of(torch.full((2, 2), 0.5))
    found = token_scores((logits, unconditional), 2 * logits, BITS)
    conditional = [log(0.5 * 0.9), log(0.2 * 0.25)]
    # At half the temperature odds are squared.
    drawn = [log(0.5) + log(0.81 / 0.82), log(0.04 / 0.68) + log(0.0625 / 0.625)]
    explained = [value - 2 * log(0.5) for value in conditional]
    assert torch.allclose(found, torch.tensor([drawn, conditional, explained]), atol=1e-6)


def test_without_an_unconditional_branch_no_prompt_explains_anything() -> None:
    logits = logits_of(PROBABILITIES)
    found = token_scores((logits,), logits, BITS)
    assert torch.equal(found[0], found[1])
    assert not found[2].any()


def test_tokens_that_were_not_drawn_do_not_count() -> None:
    logits = logits_of(PROBABILITIES)
    branches = (logits, -logits)
    every = token_scores(branches, logits, BITS)
    some = token_scores(branches, logits, BITS, torch.tensor([False, True]))
    assert torch.equal(some[:, 1], every[:, 1])
    assert not some[:, 0].any()


def test_certain_and_impossible_bits_have_finite_scores() -> None:
    logits = torch.tensor([[[0.0, 300.0], [300.0, 0.0]]])
    found = token_scores((logits, logits), logits, torch.tensor([[True, True]]))
    assert found.tolist() == [[-300.0], [-300.0], [0.0]]


def test_scores_add_up() -> None:
    parts = [Score(-1.001, -2.5, 0.5), Score(-3.002, -1.0, -0.25)]
    assert total(parts) == Score(-4.003, -3.5, 0.25)
    assert total([]) == NOTHING
    tokens = torch.tensor([[-1.5, -2.25], [-1.0, -1.0], [0.0004, 0.0]])
    assert step_score(tokens) == pytest.approx(Score(-3.75, -2.0, 0.0))

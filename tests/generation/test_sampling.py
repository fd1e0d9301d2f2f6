from __future__ import annotations

import pytest
import torch

from istar.generation.sampling import probabilities, uniform_numbers


def sample_bits(logits: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return uniform_numbers(logits, generator) < probabilities(logits)


def seeded(seed: int = 5) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("pair", [(0.0, 0.0), (1.0, 0.0), (-2.0, 0.5), (3.0, 5.0)])
def test_bits_follow_the_softmax_of_each_pair(pair: tuple[float, float]) -> None:
    logits = torch.tensor(pair).expand(200, 500, 2)
    probability = torch.softmax(torch.tensor(pair), 0)[1].item()
    bits = sample_bits(logits, seeded())
    assert bits.shape == (200, 500)
    assert bits.dtype == torch.bool
    # five standard deviations of the mean of 100,000 draws
    deviation = 5 * (probability * (1 - probability) / bits.numel()) ** 0.5
    assert abs(bits.float().mean().item() - probability) < deviation


def test_bits_of_different_places_are_independent() -> None:
    bits = sample_bits(torch.zeros(20_000, 2, 2), seeded())
    assert abs((bits[:, 0] == bits[:, 1]).float().mean().item() - 0.5) < 0.02
    assert abs((bits[1:, 0] == bits[:-1, 0]).float().mean().item() - 0.5) < 0.02


def test_certain_bits_are_certain() -> None:
    logits = torch.tensor([[1e4, -1e4], [-1e4, 1e4], [200.0, 0.0], [0.0, 200.0]])
    for seed in range(100):
        assert sample_bits(logits, seeded(seed)).tolist() == [False, True, False, True]


def test_the_generator_alone_decides_and_moves_on() -> None:
    logits = torch.zeros(8, 64, 2)
    generator = seeded()
    first, second = sample_bits(logits, generator), sample_bits(logits, generator)
    assert not torch.equal(first, second)
    again = seeded()
    torch.manual_seed(123)  # the global generator has no say
    assert torch.equal(sample_bits(logits, again), first)
    assert torch.equal(sample_bits(logits, again), second)
    assert torch.equal(again.get_state(), generator.get_state())


def test_logits_do_not_change_how_far_the_generator_moves() -> None:
    one, two = seeded(), seeded()
    sample_bits(torch.zeros(5, 16, 2), one)
    sample_bits(torch.full((5, 16, 2), 30.0), two)
    assert torch.equal(one.get_state(), two.get_state())

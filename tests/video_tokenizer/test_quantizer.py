from __future__ import annotations

import pytest
import torch

from istar.video_tokenizer.quantizer import grow, shrink, to_bits, to_codes


@pytest.mark.parametrize("size", [1, 16, 64])
def test_bits_to_codes_to_bits(random: torch.Generator, size: int) -> None:
    bits = torch.rand(3, 50, size, generator=random) < 0.5
    assert torch.equal(to_bits(to_codes(bits)), bits)


@pytest.mark.parametrize("size", [16, 64])
def test_codes_are_two_values_on_the_unit_sphere(random: torch.Generator, size: int) -> None:
    codes = to_codes(torch.rand(50, size, generator=random) < 0.5)
    torch.testing.assert_close(codes.norm(dim=-1), torch.ones(50))
    assert codes.unique().tolist() == [-(size**-0.5), size**-0.5]


def test_zero_is_the_lower_bit() -> None:
    numbers = torch.tensor([-1.0, -0.0, 0.0, 1e-30])
    assert to_bits(numbers).tolist() == [False, False, False, True]


def test_shrink_averages_blocks(random: torch.Generator) -> None:
    latent = torch.randn(2, 8, 3, 4, 6, generator=random)
    tokens = shrink(latent, bits=4, height=2, width=2)
    assert tokens.shape == (2, 3 * 2 * 2, 4)
    for b, t, row, column, d in ((0, 0, 0, 0, 0), (1, 2, 1, 0, 3), (0, 1, 0, 1, 2)):
        block = latent[b, 2 * d : 2 * d + 2, t, 2 * row : 2 * row + 2, 3 * column : 3 * column + 3]
        token = tokens[b, (t * 2 + row) * 2 + column, d]
        torch.testing.assert_close(token, block.mean())


def test_shrink_takes_overlapping_windows_where_sizes_do_not_divide() -> None:
    latent = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0]).reshape(1, 1, 1, 1, 5)
    # The area of output i of 2 is floor(5i/2) up to ceil(5(i+1)/2): 0…2 and 2…4.
    tokens = shrink(latent, bits=1, height=1, width=2)
    torch.testing.assert_close(tokens.flatten(), torch.tensor([7 / 3, 28 / 3]))


def test_full_size_is_the_identity_both_ways(
    random: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an interpolation, which would take as long as any other."""
    monkeypatch.delattr("torch.nn.functional.interpolate")
    latent = torch.randn(2, 8, 3, 4, 5, generator=random)
    tokens = shrink(latent, bits=8, height=4, width=5)
    assert torch.equal(tokens, latent.movedim(1, -1).flatten(1, 3))
    back = grow(tokens, frames=3, height=4, width=5, size=latent.shape)
    assert torch.equal(back, latent)


def test_grow_interpolates_between_half_pixel_centres() -> None:
    tokens = torch.tensor([0.0, 4.0]).reshape(1, 2, 1)
    size = torch.Size((1, 1, 1, 1, 4))
    wide = grow(tokens, frames=1, height=1, width=2, size=size)
    assert wide.flatten().tolist() == [0, 1, 3, 4]


def test_grow_interpolates_between_channels() -> None:
    tokens = torch.tensor([0.0, 4.0]).reshape(1, 1, 2)
    size = torch.Size((1, 4, 1, 1, 1))
    deep = grow(tokens, frames=1, height=1, width=1, size=size)
    assert deep.flatten().tolist() == [0, 1, 3, 4]


def test_resizing_keeps_frames_and_batch_apart(random: torch.Generator) -> None:
    latent = torch.randn(2, 8, 3, 4, 6, generator=random)
    whole = shrink(latent, bits=4, height=2, width=3)
    back = grow(whole, frames=3, height=2, width=3, size=latent.shape)
    for b in range(2):
        for t in range(3):
            alone = latent[b : b + 1, :, t : t + 1]
            tokens = shrink(alone, bits=4, height=2, width=3)
            assert torch.equal(tokens[0], whole[b].reshape(3, 6, 4)[t])
            grown = grow(tokens, frames=1, height=2, width=3, size=alone.shape)
            assert torch.equal(grown[0, :, 0], back[b, :, t])

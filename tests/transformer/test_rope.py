from __future__ import annotations

import torch

from istar.transformer.rope import (
    rotate,
    rotate_into,
    rotation,
    text_coordinates,
    visual_coordinates,
)


def coordinates(random: torch.Generator, count: int) -> torch.Tensor:
    return torch.randint(0, 60, (count, 4), generator=random).float()


def test_text_is_counted_on_the_scale_axis() -> None:
    assert text_coordinates(3).tolist() == [[0, 0, 0, 0], [1, 0, 0, 0], [2, 0, 0, 0]]


def test_coordinates_of_a_small_grid() -> None:
    # Columns 0, 2.5, 5, 7.5 round half to even: 0, 2, 5, 8; rows 0 and 1.5 to 0 and 2.
    found = visual_coordinates(
        scale=517, times=torch.tensor([4, 9]), grid=(2, 4), full_grid=(3, 10)
    )
    assert found.tolist() == [
        [517, time, row, column] for time in (4, 9) for row in (0, 2) for column in (0, 2, 5, 8)
    ]


def test_the_finest_grid_counts_rows_and_columns() -> None:
    found = visual_coordinates(scale=0, times=torch.tensor([0]), grid=(45, 80), full_grid=(45, 80))
    assert found[:, 2:].tolist() == [[row, column] for row in range(45) for column in range(80)]


def test_rotation_against_complex_numbers(random: torch.Generator) -> None:
    head_size = 32
    where = coordinates(random, 7)
    x = torch.randn(2, 3, 7, head_size, generator=random)
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
    found = torch.view_as_complex(
        rotate(x, rotation(where, head_size)).unflatten(-1, (-1, 2)).contiguous()
    )
    for pair in range(16):
        axis, place = divmod(pair, 4)  # four groups: scale, time, height, width
        angle = where[:, axis] * 10000 ** (-place / 4)
        turn = torch.polar(torch.ones(7), angle)
        torch.testing.assert_close(found[..., pair], pairs[..., pair] * turn, atol=1e-5, rtol=1e-5)


def test_rotation_keeps_norms(random: torch.Generator) -> None:
    x = torch.randn(2, 3, 9, 16, generator=random)
    turned = rotate(x, rotation(coordinates(random, 9), 16))
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    assert (turned - x).abs().max() > 0.5


def test_products_depend_on_differences_of_coordinates(random: torch.Generator) -> None:
    queries, keys = torch.randn(2, 1, 1, 5, 16, generator=random)
    one, two = coordinates(random, 5), coordinates(random, 5)

    def products(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (rotate(queries, rotation(a, 16)) * rotate(keys, rotation(b, 16))).sum(-1)

    moved = torch.tensor([3.0, 5.0, 7.0, 11.0])
    torch.testing.assert_close(
        products(one, two), products(one + moved, two + moved), atol=1e-4, rtol=1e-4
    )
    for axis in range(4):
        apart = torch.zeros(4)
        apart[axis] = 1
        assert (products(one, two) - products(one + apart, two)).abs().max() > 1e-2


def test_the_origin_is_not_turned(random: torch.Generator) -> None:
    x = torch.randn(1, 1, 3, 8, generator=random)
    assert torch.equal(rotate(x, rotation(torch.zeros(3, 4), 8)), x)


def test_bf16_is_turned_in_float32(random: torch.Generator) -> None:
    x = torch.randn(1, 2, 5, 16, generator=random).bfloat16()
    by = rotation(coordinates(random, 5) * 10, 16)
    found = rotate(x, by)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, rotate(x.float(), by).bfloat16())


def test_written_in_place_are_the_same_bits(random: torch.Generator) -> None:
    x = torch.randn(2, 7, 3, 64, generator=random).transpose(1, 2)  # as heads lie after a linear
    by = rotation(coordinates(random, 7) * 10, 64)
    room = torch.zeros(2, 3, 9, 64)
    rotate_into(room[:, :, 2:], x, by)
    assert torch.equal(room[:, :, 2:], rotate(x, by))
    assert not room[:, :, :2].any()


def test_written_in_bf16_is_rounded_once(random: torch.Generator) -> None:
    x = torch.randn(1, 2, 500, 16, generator=random).bfloat16()
    by = rotation(coordinates(random, 500) * 10, 16)
    room = torch.empty_like(x)
    rotate_into(room, x, by)
    exact = rotate(x.float(), by)
    # Half of bfloat16's last place, and what float32 rounds.
    torch.testing.assert_close(room.float(), exact, rtol=2**-8 * 1.001, atol=1e-6)
    assert (room != exact.bfloat16()).float().mean() < 1e-3

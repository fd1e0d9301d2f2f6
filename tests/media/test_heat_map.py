from __future__ import annotations

import pytest
import torch
from torch import Tensor

from istar.media.heat_map import Layer, heat_map

GREY = torch.full((32, 48, 3), 128, dtype=torch.uint8)


def bands(page: Tensor, count: int) -> tuple[Tensor, ...]:
    """The lines of a heat map, as integers."""
    return page.int().split(page.shape[0] // count)


def colour(line: Tensor) -> Tensor:
    """How much more red than blue `(H, W)` there is in a line below its text."""
    return line[30:, :, 0] - line[30:, :, 2]


def test_red_is_above_nothing_and_blue_below() -> None:
    values = torch.tensor([[-2.0, 2.0]])
    page = heat_map([GREY], ["0 s"], [Layer(title="something", values=[values])])
    pictures, layer = bands(page, 2)
    assert not colour(pictures).any()
    cell = colour(layer)[:, 6:390]
    assert (cell[:200, :80] < -100).all()
    assert (cell[:200, -80:] > 100).all()
    assert abs(int(cell[100, 192])) < 10


def test_what_is_nothing_stays_grey() -> None:
    zero, one = torch.zeros(2, 2), torch.ones(2, 2)
    page = heat_map([GREY, GREY], ["", ""], [Layer(title="", values=[zero, one])])
    _, layer = bands(page, 2)
    cells = colour(layer)
    assert not cells[:, :390].any()
    assert (cells[50:150, 420:760] > 100).all()


def test_few_extremes_do_not_hide_the_rest() -> None:
    values = [torch.ones(10, 10) for _ in range(4)]
    values[0][0, 0] = 1000.0
    assert Layer(title="", values=values).reach == pytest.approx(1.0)
    assert Layer(title="", values=[torch.zeros(2, 2)]).reach > 0


def test_a_bar_ends_where_numbers_do() -> None:
    below = Layer(title="", values=[torch.tensor([[-3.0, 0.0]])])
    low, high = below.ends
    assert low == pytest.approx(-3, rel=0.05)
    assert high == 0
    both = Layer(title="", values=[torch.tensor([[-3.0, 1.0]])])
    assert both.ends == (-both.reach, both.reach)


@pytest.mark.parametrize(("count", "rows"), [(1, 1), (12, 1), (13, 2), (25, 3)])
def test_many_pictures_go_in_several_rows(count: int, rows: int) -> None:
    one = heat_map([GREY] * 12, [""] * 12, [])
    page = heat_map([GREY] * count, [""] * count, [])
    assert page.shape[1] <= 1600
    if count > 1:
        assert page.shape == (rows * one.shape[0], one.shape[1], 3)


@pytest.mark.parametrize("size", [(2000, 1000), (1, 1), (720, 1280)])
def test_pictures_of_any_size_are_shown(size: tuple[int, int]) -> None:
    picture = torch.full((*size, 3), 200, dtype=torch.uint8)
    page = heat_map([picture] * 3, ["a", "b", "c"], [])
    assert page[60, 100].tolist() == [200, 200, 200]
    assert page.shape[1] <= 1600

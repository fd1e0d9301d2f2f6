"""What a clip under way is shown as."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from istar.generation.preview import preview_latent
from istar.generation.schedule import Grid
from istar.video_tokenizer.quantizer import shrink

FULL = Grid(3, 6, 8)


@pytest.fixture
def before(random: torch.Generator) -> Tensor:
    return torch.randn(1, 4, 1, *FULL[1:], generator=random)


def coarse(latent: Tensor, grid: Grid) -> Tensor:
    return shrink(latent, bits=4, height=grid.height, width=grid.width)


def test_without_a_frame_before_it_is_the_canvas(random: torch.Generator) -> None:
    canvas = torch.randn(1, 4, *FULL, generator=random)
    assert preview_latent(canvas, Grid(3, 2, 2), None) is canvas


def test_at_the_finest_scale_it_is_the_canvas(before: Tensor, random: torch.Generator) -> None:
    canvas = torch.randn(1, 4, *FULL, generator=random)
    torch.testing.assert_close(preview_latent(canvas, FULL, before), canvas)


def test_where_a_frame_agrees_at_the_scale_its_detail_is_taken(before: Tensor) -> None:
    """The left half of the last frame is as before at the scale; the right half is not."""
    grid = Grid(3, 3, 4)
    canvas = before.expand(-1, -1, 3, -1, -1).clone()
    # The same at the scale, without anything finer.
    tokens = coarse(before, grid).unflatten(1, (1, *grid[1:])).movedim(-1, 1)
    smooth = torch.nn.functional.interpolate(tokens[:, :, 0], size=FULL[1:], mode="nearest")
    canvas[:, :, 2, :, :4] = smooth[:, :, :, :4]
    canvas[:, :, 2, :, 4:] = 9
    shown = preview_latent(canvas, grid, before)
    added = (shown - canvas)[0, :, 2]
    # Next to the middle the two mix.
    assert added[:, :, :3].abs().mean() > 0.3
    assert added[:, :, 5:].abs().max() < 1e-3
    closer = (shown - before)[0, :, 2, :, :3].abs().mean()
    assert closer < 0.8 * (canvas - before)[0, :, 2, :, :3].abs().mean()

"""Rotary position embedding over scale, time, height and width.

A head's adjacent pairs are split in four equal groups, one for each coordinate. Source: released
reference; InfinityStar paper, spacetime position embedding.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_AXES = 4
_BASE = 10000.0


class Rotation(NamedTuple):
    """Cosine and sine of every token's angles, each `(L, head_size / 2)`, float32."""

    cosine: Tensor
    sine: Tensor


def text_coordinates(length: int, device: torch.device | str = "cpu") -> Tensor:
    """Coordinates `(L, 4)` of text tokens: the scale axis counts them, the others stay zero."""
    coordinates = torch.zeros(length, _AXES, device=device, dtype=torch.float32)
    coordinates[:, 0] = torch.arange(length, device=device)
    return coordinates


def visual_coordinates(
    *,
    scale: int,
    times: Tensor,
    grid: tuple[int, int],
    full_grid: tuple[int, int],
) -> Tensor:
    """Coordinates `(T·h·w, 4)` of a grid of visual tokens, frames outermost, columns innermost.

    Args:
        scale: the scale coordinate, already counted past the text.
        times: `(T,)` latent frame of each of the grid's frames.
        grid: rows and columns.
        full_grid: rows and columns of the clip's finest scale, onto which rows and columns are
            spread and rounded (half to even).
    """
    rows, columns = (
        (torch.arange(count, device=times.device, dtype=torch.float32) * (full / count)).round()
        for count, full in zip(grid, full_grid, strict=True)
    )
    t, h, w = torch.meshgrid(times.float(), rows, columns, indexing="ij")
    return torch.stack((torch.full_like(t, scale), t, h, w), dim=-1).flatten(0, 2)


def rotation(coordinates: Tensor, head_size: int) -> Rotation:
    """The rotation that stands for coordinates `(L, 4)`."""
    pairs = head_size // (2 * _AXES)
    exponents = torch.arange(pairs, device=coordinates.device, dtype=torch.float32) / pairs
    angles = coordinates.float()[:, :, None] * _BASE**-exponents  # L 4 pairs
    angles = angles.flatten(1)
    return Rotation(angles.cos(), angles.sin())


def rotate(x: Tensor, by: Rotation) -> Tensor:
    """`x` `(B, H, L, D)` with each adjacent pair of features turned; computed in float32."""
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack(
        (even * by.cosine - odd * by.sine, even * by.sine + odd * by.cosine), dim=-1
    )
    return turned.flatten(-2).to(x.dtype)

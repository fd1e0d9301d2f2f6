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
    """Where every token's angles turn a pair of features, each `(…, L, head_size / 2, 2)`, float32.

    `…` is empty where all rows of a batch have the same angles, or else `B, 1`.

    Attributes:
        even: where the pair (1, 0) is turned: cosine and sine.
        odd: where (0, 1) is: minus sine and cosine.
    """

    even: Tensor
    odd: Tensor

    def of(self, tokens: slice) -> Rotation:
        """The rotation of some of the tokens."""
        return Rotation(self.even[..., tokens, :, :], self.odd[..., tokens, :, :])


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
    cosine, sine = angles.cos(), angles.sin()
    return Rotation(torch.stack((cosine, sine), dim=-1), torch.stack((-sine, cosine), dim=-1))


def rotate(x: Tensor, by: Rotation) -> Tensor:
    """`x` `(B, H, L, D)` with each adjacent pair of features turned; computed in float32."""
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    cosine, sine = by.even.unbind(-1)
    turned = torch.stack((even * cosine - odd * sine, even * sine + odd * cosine), dim=-1)
    return turned.flatten(-2).to(x.dtype)


def rotate_into(room: Tensor, x: Tensor, by: Rotation) -> None:
    """Write `rotate(x, by)` into `room`, with as few passes over memory as torch has operations.

    Without gradients only. In float32 on a CPU the bits are those of `rotate` where a head is as
    wide as the vectors that torch multiplies at once: 32 features or a multiple.
    """
    pairs, turned = x.unflatten(-1, (-1, 2)), room.unflatten(-1, (-1, 2))
    if x.dtype == room.dtype == torch.float32:
        # A pair is a complex number and its rotation another.
        pairs, turned, turn = (torch.view_as_complex(z) for z in (pairs, turned, by.even))
        torch.mul(pairs, turn, out=turned)
        return
    # Half types: the sum is float32 until it is written.
    even, odd = pairs.split(1, dim=-1)
    torch.addcmul(even * by.even, odd, by.odd, out=turned)

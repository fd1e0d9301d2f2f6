"""The shape and rotation of an outline, by its overlap with templates."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from istar.lab.draw import coverage
from istar.lab.subject import SHAPES

SYMMETRY = {"square": 4, "triangle": 3, "star": 5}
"""Of each shape with corners, in how many ways it can be turned and look the same."""

LEAST_OVERLAP = 0.7
"""An outline that overlaps less with every template is of no known shape."""

_SIDE = 32
_ANGLES_PER_TURN = 120
_EXTENT = 1.05
"""Half the side of a normalised outline, in square roots of the outline's area."""


@dataclass(frozen=True, kw_only=True)
class Outlines:
    """Outlines of a clip, compared with the templates of every shape.

    Attributes:
        overlaps: by shape `(F, R)`: intersection over union with the shape at R rotations, evenly
            over one turn that makes it look the same.
    """

    overlaps: dict[str, Tensor]

    def shape(self, frames: Tensor) -> str | None:
        """The shape of the outlines in some frames, by the mean of their best overlaps.

        Args:
            frames: `(F)` booleans, which frames count.

        Returns:
            a name, or None where no shape reaches `LEAST_OVERLAP`.
        """
        if not frames.any():
            return None
        means = {
            name: float(overlap[frames].amax(dim=1).mean())
            for name, overlap in self.overlaps.items()
        }
        best = max(means, key=lambda name: means[name])
        return best if means[best] >= LEAST_OVERLAP else None

    def turns(self, shape: str) -> Tensor:
        """How a shape is turned in each frame `(F)`, in shares of `1 / SYMMETRY` of a turn."""
        overlap = self.overlaps[shape]
        return overlap.argmax(dim=1) / overlap.shape[1]


def compare(share: Tensor, centres: Tensor, areas: Tensor) -> Outlines:
    """Compare outlines with every shape, whatever their place and size.

    Args:
        share: `(F, H, W)`, how much of each pixel belongs to the outline.
        centres: `(F, 2)`, down and across, in pixels.
        areas: `(F)`, in pixels, above zero.
    """
    frames, height, width = share.shape
    steps = (torch.arange(_SIDE) + 0.5) * (2 / _SIDE) - 1
    reach = _EXTENT * areas.sqrt()[:, None]
    # grid_sample's coordinates: -1 and 1 are the outer borders of the picture
    down = (centres[:, :1] + steps * reach) * (2 / height) - 1
    across = (centres[:, 1:] + steps * reach) * (2 / width) - 1
    grid = torch.stack(
        (
            across[:, None, :].expand(frames, _SIDE, _SIDE),
            down[:, :, None].expand(frames, _SIDE, _SIDE),
        ),
        dim=-1,
    )
    patches = F.grid_sample(share[:, None], grid, align_corners=False).flatten(1)[:, None]  # F 1 P
    return Outlines(
        overlaps={
            shape: torch.minimum(patches, own).sum(dim=-1) / torch.maximum(patches, own).sum(dim=-1)
            for shape, own in _templates().items()
        }
    )


@cache
def _templates() -> dict[str, Tensor]:
    """Every shape, of area 1, at every rotation: `(R, P)` each."""
    pixels = _SIDE / (2 * _EXTENT)
    places = torch.arange(_SIDE) + 0.5 - _SIDE / 2
    result = {}
    for shape in SHAPES:
        angles = _ANGLES_PER_TURN // SYMMETRY[shape] if shape in SYMMETRY else 1
        turns = torch.arange(angles) / _ANGLES_PER_TURN
        # drawn once at any size to learn the area, then at the size of area 1
        size = torch.tensor(pixels / 2)
        for _ in range(2):
            drawn = coverage(
                shape,
                places[None, :, None],
                places[None, None, :],
                size,
                turns[:, None, None],
            )
            size = size * pixels / drawn[0].sum().sqrt()
        result[shape] = drawn.flatten(1)
    return result

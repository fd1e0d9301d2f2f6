"""Connected regions of masks."""

from __future__ import annotations

import torch
from torch import Tensor


def largest_share(masks: Tensor) -> Tensor:
    """How much of each mask lies in its largest connected region.

    Pixels that touch at a corner are connected.

    Args:
        masks: `(F, H, W)` booleans.

    Returns:
        `(F)`, from 0 to 1; 1 for an empty mask.
    """
    frames, height, width = masks.shape
    inside = masks.float()
    # Every pixel begins with a number of its own; numbers spread until regions have one each.
    numbers = inside * torch.arange(1, height * width + 1).view(height, width)
    while True:
        spread = _largest_of_neighbours(_largest_of_neighbours(numbers, 1), 2) * inside
        if torch.equal(spread, numbers):
            break
        numbers = spread
    areas = torch.zeros(frames, height * width + 1)
    areas.scatter_add_(1, numbers.flatten(1).long(), inside.flatten(1))
    whole = areas.sum(dim=1)
    return torch.where(whole > 0, areas.amax(dim=1) / whole.clamp(min=1), 1.0)


def _largest_of_neighbours(numbers: Tensor, dim: int) -> Tensor:
    """The largest of every number and its two neighbours along a dimension."""
    length = numbers.shape[dim] - 1
    result = numbers.clone()
    later, earlier = result.narrow(dim, 1, length), result.narrow(dim, 0, length)
    torch.maximum(later, numbers.narrow(dim, 0, length), out=later)
    torch.maximum(earlier, numbers.narrow(dim, 1, length), out=earlier)
    return result

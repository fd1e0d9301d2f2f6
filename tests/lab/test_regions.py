"""Connected regions."""

from __future__ import annotations

import torch

from istar.lab.regions import largest_share


def test_the_largest_region_of_every_mask_is_found() -> None:
    masks = torch.zeros(4, 5, 7, dtype=torch.bool)
    masks[0, 1:3, 1:3] = True  # one of 4
    masks[1, 0, :3] = True  # one of 3, one of 1
    masks[1, 4, 6] = True
    masks[2, [0, 1, 2, 3], [0, 1, 2, 3]] = True  # corners touch
    assert largest_share(masks).tolist() == [1, 0.75, 1, 1]


def test_a_winding_region_is_one() -> None:
    mask = torch.zeros(1, 9, 9, dtype=torch.bool)
    mask[0, ::2] = True
    mask[0, 1, 8] = mask[0, 3, 0] = mask[0, 5, 8] = True
    whole = int(mask.sum())
    # the last row hangs on nothing
    assert largest_share(mask).tolist() == [(whole - 9) / whole]

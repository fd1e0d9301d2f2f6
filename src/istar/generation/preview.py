"""What a clip under way is decoded from: its canvas, with detail of the frame before it."""

from __future__ import annotations

import torch
from torch import Tensor

from istar.generation.schedule import Grid
from istar.video_tokenizer.quantizer import grow, shrink

_UNLIKE = 0.1
"""The difference of two tokens, as a share of a frame's mean square, at which little is taken."""


def preview_latent(canvas: Tensor, grid: Grid, before: Tensor | None) -> Tensor:
    """The latent `(1, C, T, H, W)` that shows best what a clip becomes.

    The canvas says nothing yet of what is finer than its last scale. Where it agrees at that scale
    with the frame before the clip, that frame's finer detail is likely to stay, and is added.

    Args:
        canvas: `(1, C, T, H, W)`, the sum so far.
        grid: of the last step.
        before: `(1, C, 1, H, W)`, the latent frame before the clip; None at a video's beginning.
    """
    if before is None:
        return canvas
    channels = canvas.shape[1]
    coarse, own = (_at_scale(x, grid) for x in (before, canvas))
    # 1. What the frame before has beyond the scale.
    detail = before - _enlarged(coarse, grid, before.shape)
    # 2. How much of it each token takes: all where the two are alike.
    unlike = (own - coarse).square().mean(dim=1, keepdim=True) / before.square().mean()
    taken = torch.exp(-unlike / _UNLIKE).expand(-1, channels, -1, -1, -1)
    return canvas + _enlarged(taken, grid, canvas.shape) * detail


def _at_scale(latent: Tensor, grid: Grid) -> Tensor:
    """`(1, C, T, h, w)` of a latent `(1, C, T, H, W)`."""
    tokens = shrink(latent, bits=latent.shape[1], height=grid.height, width=grid.width)
    return tokens.unflatten(1, (-1, grid.height, grid.width)).movedim(-1, 1)


def _enlarged(coarse: Tensor, grid: Grid, size: torch.Size) -> Tensor:
    """`(1, C, T, H, W)` of tokens `(1, C, T, h, w)`."""
    tokens = coarse.movedim(1, -1).flatten(1, 3)
    return grow(tokens, frames=size[2], height=grid.height, width=grid.width, size=size)

"""The running sum of codes across the scales of a clip."""

from __future__ import annotations

import torch
from torch import Tensor

from istar.generation.schedule import Grid, Step
from istar.video_tokenizer.quantizer import grow, shrink, to_codes


class Canvas:
    """The sum of all codes of one clip so far, at the clip's full size.

    Attributes:
        total: `(1, C, T, H, W)`, float32; after the clip's last step it is the clip's latent.
    """

    def __init__(self, total: Tensor) -> None:
        self.total = total

    @classmethod
    def blank(cls, grid: Grid, channels: int, device: torch.device | str = "cpu") -> Canvas:
        """The canvas of a clip that has not begun."""
        return cls(torch.zeros(1, channels, *grid, device=device, dtype=torch.float32))

    def tokens(self, step: Step) -> Tensor:
        """The network's input for a step, `(1, t·h·w, C)`: the sum at the step's size."""
        return shrink(
            self.total,
            bits=self.total.shape[1],
            height=step.grid.height,
            width=step.grid.width,
        )

    def add(self, step: Step, bits: Tensor) -> None:
        """Add a step's bits `(t·h·w, d)` to the sum."""
        codes = to_codes(bits.to(self.total.device)).unsqueeze(0)
        frames, height, width = step.grid
        self.total = self.total + grow(
            codes, frames=frames, height=height, width=width, size=self.total.shape
        )

"""A small critic of clips, for the optional adversarial term of the tokenizer's loss."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

_WIDTHS = (32, 64, 128)


class Discriminator(nn.Module):
    """Patches of a clip to numbers, above zero where they look real.

    3-D convolutions, each halving height and width. Source: the patch discriminator of
    arXiv 1611.07004, with time added.
    """

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for width in _WIDTHS:
            layers += [
                nn.Conv3d(before, width, (3, 4, 4), stride=(1, 2, 2), padding=1),
                nn.LeakyReLU(0.2),
            ]
            before = width
        self.layers = nn.Sequential(*layers, nn.Conv3d(before, 1, kernel_size=3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """`(B, 3, F, H, W)` to `(B, 1, F, H/8, W/8)`."""
        return self.layers(x)


def adversarial_terms(
    discriminator: nn.Module, real: Tensor, made: Tensor
) -> tuple[Tensor, Tensor]:
    """The hinge losses of the two sides, to be minimized together in one step.

    The first reaches only what made the pictures, the second only the discriminator.

    Args:
        discriminator: the critic.
        real, made: clips `(B, 3, F, H, W)`.
    """
    fixed = {name: value.detach() for name, value in discriminator.named_parameters()}
    generator = -functional_call(discriminator, fixed, (made,)).mean()
    discriminator_loss = torch.stack(
        [F.relu(1 - discriminator(real)).mean(), F.relu(1 + discriminator(made.detach())).mean()]
    ).mean()
    return generator, discriminator_loss

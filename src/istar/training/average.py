"""The exponential moving average of a network's weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


class MovingAverage:
    """A second set of weights that follows the first slowly.

    Attributes:
        weights: by parameter name, float32, on the parameters' device and sharded as they are.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self._decay = decay
        self.weights: dict[str, Tensor] = {
            name: parameter.detach().clone() for name, parameter in network.named_parameters()
        }

    @torch.no_grad()
    def follow(self, network: nn.Module, step: int) -> None:
        """Move towards the network's weights; in early steps by more, so as to forget the start."""
        decay = min(self._decay, (1 + step) / (10 + step))
        for name, parameter in network.named_parameters():
            _own_part(self.weights[name]).lerp_(_own_part(parameter.detach()), 1 - decay)


def _own_part(value: Tensor) -> Tensor:
    """The part of a sharded tensor that this process holds."""
    return value.to_local() if isinstance(value, DTensor) else value

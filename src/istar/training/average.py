"""The exponential moving average of a network's weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

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

    @contextmanager
    def in_use(self, network: nn.Module) -> Iterator[None]:
        """Compute with the averaged weights inside; the network's own are put back afterwards."""
        self._swap(network)
        try:
            yield
        finally:
            self._swap(network)

    @torch.no_grad()
    def _swap(self, network: nn.Module) -> None:
        """Exchange the network's weights and the averaged ones, one at a time."""
        for name, parameter in network.named_parameters():
            own, other = own_part(parameter.detach()), own_part(self.weights[name])
            kept = own.clone()
            own.copy_(other)
            other.copy_(kept)

    @torch.no_grad()
    def follow(self, network: nn.Module, step: int) -> None:
        """Move towards the network's weights; in early steps by more, so as to forget the start."""
        decay = min(self._decay, (1 + step) / (10 + step))
        for name, parameter in network.named_parameters():
            own_part(self.weights[name]).lerp_(own_part(parameter.detach()), 1 - decay)


def own_part(value: Tensor) -> Tensor:
    """The part of a sharded tensor that this process holds."""
    return value.to_local() if isinstance(value, DTensor) else value

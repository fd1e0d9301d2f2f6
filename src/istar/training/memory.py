"""The memory that a run's network takes, counted without building it.

Activations are not counted: they depend on the rows, and on `recompute`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

_FLOAT = 4


@dataclass(frozen=True, kw_only=True)
class NetworkMemory:
    """Bytes of each of several processes that share a network; all numbers are float32.

    Attributes:
        weights: its part of them.
        gradients: likewise; only of weights that learn.
        average: likewise.
        optimizer: likewise; two numbers for a weight, with Muon one for a hidden matrix.
        gathered: what is whole in every process during a step: the largest block, and all outside
            of blocks.
        largest: of the largest weight, whole: what loading takes beside the parts.
        whole: of all weights, whole: what the first process takes to write the model, and again,
            in the run's precision, on its device to generate samples.
    """

    weights: int
    gradients: int
    average: int
    optimizer: int
    gathered: int
    largest: int
    whole: int

    @property
    def checkpoint(self) -> int:
        """Its part of a checkpoint on disk."""
        return self.weights + self.average + self.optimizer

    @property
    def step(self) -> int:
        """During a step."""
        return self.weights + self.gradients + self.average + self.optimizer + self.gathered


def memory_of(
    network: nn.Module,
    *,
    processes: int,
    blocks: Sequence[nn.Module] = (),
    hidden: Collection[Tensor] = (),
) -> NetworkMemory:
    """The memory of a network that processes share.

    Args:
        network: may be on the meta device; weights that require no gradient do not learn.
        processes: how many share it, weight by weight: each has as many rows of it as any.
        blocks: its modules that are put together one by one.
        hidden: the matrices that Muon steps.
    """

    def parts(weights: Iterable[Tensor]) -> int:
        return sum(_FLOAT * -(-len(w) // processes) * (w.numel() // len(w)) for w in weights)

    def whole(weights: Iterable[Tensor]) -> int:
        return sum(_FLOAT * weight.numel() for weight in weights)

    weights = list(network.parameters())
    learning = [weight for weight in weights if weight.requires_grad]
    by_muon = {id(matrix) for matrix in hidden}
    sizes = [whole(block.parameters()) for block in blocks]
    return NetworkMemory(
        weights=parts(weights),
        gradients=parts(learning),
        average=parts(weights),
        optimizer=2 * parts(learning) - parts(w for w in learning if id(w) in by_muon),
        gathered=whole(weights) - sum(sizes) + max(sizes, default=0) if processes > 1 else 0,
        largest=max(whole([weight]) for weight in weights),
        whole=whole(weights),
    )

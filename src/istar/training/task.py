"""What a training run trains, as `istar.training.trainer` sees it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from istar.training.distributed import Share, Weights


class Loss(NamedTuple):
    """The loss of one batch.

    Attributes:
        total: to be minimized.
        measures: single numbers to log, detached.
    """

    total: Tensor
    measures: dict[str, Tensor]


class Validation(Protocol):
    """What a run measures beside its steps.

    Attributes:
        every: steps between measurements.
    """

    every: int

    def measures(self, device: torch.device) -> dict[str, float]:
        """Measures of the task's network as it is; every process calls it and gets the same."""


class Task(Protocol):
    """What a run trains.

    Attributes:
        network: all weights that learn, in one module; on the meta device where each of several
            processes is to hold a part.
        frozen_until: by prefix of parameter names, the step at which they begin to learn.
        validation: if the run has one.
    """

    network: nn.Module
    frozen_until: Mapping[str, int]
    validation: Validation | None

    def starting_weights(self) -> Weights:
        """All weights with which a network on the meta device starts."""

    def hidden_matrices(self) -> Sequence[Tensor]:
        """The network's matrices `(out, in)` between hidden states, which Muon may step."""

    def batch(self, step: int, share: Share) -> Any:
        """This process's share of the batch of a step: tensors on the CPU, in any nesting."""

    def remarks(self, batch: Any) -> tuple[str, ...]:
        """What a person should read about a batch before its step; every process calls it."""

    def loss(self, batch: Any, step: int, device: torch.device) -> Loss:
        """The loss of a batch, averaged over the whole batch of all processes."""

    def export(self, weights: Mapping[str, Tensor], directory: Path) -> None:
        """Write the network, in the form that istar loads, to an empty directory."""

    def sample(self, weights: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
        """Contact sheets `(H, W, 3)`, uint8, of samples from the network, by name."""

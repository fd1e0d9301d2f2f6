"""Checkpoints of a run: weights, their average and the optimizers' state.

They are written with `torch.distributed.checkpoint`, by one process or by many, and read back by
any number of processes.
"""

from __future__ import annotations

import re
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from istar.errors import StateError
from istar.files import PendingDirectory, writing_failed
from istar.training.average import MovingAverage
from istar.training.optimizers import Optimizers

_NAME = re.compile(r"step-(\d{8})")


class Checkpoints:
    """The checkpoints in a directory, `step-00001000` and so on."""

    def __init__(self, directory: Path, keep: int) -> None:
        self._directory = directory
        self._keep = keep

    def steps(self) -> list[int]:
        """Steps with a complete checkpoint, in order."""
        if not self._directory.is_dir():
            return []
        names = (_NAME.fullmatch(path.name) for path in self._directory.iterdir())
        return sorted(int(name[1]) for name in names if name)

    def discard_unfinished(self) -> None:
        """Remove what a run that was killed had written of any step."""
        for left_behind in self._directory.glob(".step-*.tmp"):
            shutil.rmtree(left_behind, ignore_errors=True)

    def save(
        self,
        step: int,
        network: nn.Module,
        optimizers: Optimizers,
        average: MovingAverage,
    ) -> Path:
        """Write a checkpoint after `step` steps and remove the oldest; every process calls it.

        Raises:
            MediaError: it cannot be written; those before it stay.
        """
        final = self._directory / f"step-{step:08d}"
        first = not dist.is_initialized() or dist.get_rank() == 0
        pending = PendingDirectory(final, overwrite=True)
        with pending if first else nullcontext(), _single_process_is_fine():
            if dist.is_initialized():
                dist.barrier()  # every process makes the directory if the first has not yet
            try:
                save(_state(network, optimizers, average), checkpoint_id=pending.temporary)
            except CheckpointException as error:
                raise writing_failed(final, _failure(error)) from error
        if first:
            for old in self.steps()[: -self._keep]:
                shutil.rmtree(self._directory / f"step-{old:08d}")
        if dist.is_initialized():
            dist.barrier()
        return final

    def restore(self, network: nn.Module, optimizers: Optimizers, average: MovingAverage) -> int:
        """Load the last checkpoint in place; the optimizers' settings stay as they are.

        Returns:
            its step; 0 without a checkpoint, which changes nothing.

        Raises:
            StateError: it is damaged, of another network or of other optimizers.
        """
        steps = self.steps()
        if not steps:
            return 0
        path = self._directory / f"step-{steps[-1]:08d}"
        settings = [dict(group) for group in _groups(optimizers)]
        try:
            with _single_process_is_fine():
                _expect(path, network)
                state = _state(network, optimizers, average)
                load(state, checkpoint_id=path)
            set_model_state_dict(network, state["network"])
            set_optimizer_state_dict(network, optimizers, state["optimizer"])
            for group, wanted in zip(_groups(optimizers), settings, strict=True):
                group |= wanted
        except (CheckpointException, Exception) as error:
            cause = _failure(error) if isinstance(error, CheckpointException) else error
            reason = " ".join(str(cause).split()) or type(cause).__name__
            raise StateError(
                f"{path} is damaged or of another network or optimizer ({reason}); "
                "remove it to continue from the one before, or give the run another output"
            ) from error
        return steps[-1]


def _failure(error: CheckpointException) -> Exception:
    """The cause in the first process that failed; Ctrl-C and signals are raised again."""
    cause: BaseException
    cause, _ = next(iter(error.failures.values()))
    if isinstance(cause, Exception):
        return cause
    raise cause from error


def _expect(path: Path, network: nn.Module) -> None:
    """Require gradients only of parameters whose optimizer state a checkpoint holds.

    The others were frozen, or not yet used, when it was written; asked for its state, an optimizer
    would invent one for every parameter that requires gradients.

    Raises:
        ValueError: it holds a weight that the network does not have.
    """
    stored = FileSystemReader(path).read_metadata().state_dict_metadata
    own = {f"network.{name}" for name in get_model_state_dict(network)}
    if strange := sorted(
        name for name in stored if name.startswith("network.") and name not in own
    ):
        raise ValueError(f"unknown weight {strange[0].removeprefix('network.')}")
    for name, parameter in network.named_parameters():
        prefix = f"optimizer.state.{name}."
        parameter.requires_grad_(any(key.startswith(prefix) for key in stored))


def _groups(optimizers: Optimizers) -> list[dict[str, Any]]:
    """Weights and settings of all optimizers, shared with them."""
    return [group for optimizer in optimizers for group in optimizer.param_groups]


def _state(network: nn.Module, optimizers: Optimizers, average: MovingAverage) -> dict[str, Any]:
    return {
        "network": get_model_state_dict(network),
        "optimizer": get_optimizer_state_dict(network, optimizers),
        "average": average.weights,
    }


@contextmanager
def _single_process_is_fine() -> Iterator[None]:
    """Keep the library from warning that only one process writes."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        yield

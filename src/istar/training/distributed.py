"""More than one process: shares of the work, sharded weights and full ones.

A run started by torchrun is sharded with FSDP2, or every process holds all of it and they only
average their gradients; a run without torchrun is left as it is. A network to be sharded is built
on the meta device, and each process fills its own parts of it, a weight at a time.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from istar.training.average import MovingAverage, own_part

Weights = Iterable[tuple[str, Tensor]]
"""The values of a network's weights, by parameter name, one at a time, whole and on the CPU."""

_LONGEST_RESULTS = timedelta(days=1)

_Value = TypeVar("_Value")


@dataclass(frozen=True, kw_only=True)
class Share:
    """One process's part of the work.

    Attributes:
        rank: which process.
        processes: how many there are.
    """

    rank: int = 0
    processes: int = 1

    @classmethod
    def of_this_process(cls) -> Share:
        """This process's share of the run."""
        if not dist.is_initialized():
            return cls()
        return cls(rank=dist.get_rank(), processes=dist.get_world_size())

    @classmethod
    def by_torchrun(cls) -> Share:
        """This process's share where torchrun's processes do not communicate."""
        return cls(
            rank=int(os.environ.get("RANK", "0")), processes=int(os.environ.get("WORLD_SIZE", "1"))
        )

    def of(self, count: int) -> range:
        """The numbers below `count` that are this process's."""
        return range(self.rank, count, self.processes)


def use_device(device: torch.device) -> None:
    """Use this process's own of several CUDA devices from now on, if torchrun started it."""
    if device.type == "cuda" and "LOCAL_RANK" in os.environ:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """The group of processes that torchrun started, if it did."""
    if "WORLD_SIZE" not in os.environ:
        yield
        return
    use_device(device)
    # What is logged is averaged on the CPU.
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        with warnings.catch_warnings():
            # It warns of blocks whose output may be changed in place; istar changes none.
            warnings.filterwarnings("ignore", "FSDP2-wrapped module")
            yield
    finally:
        dist.destroy_process_group()


def waiting_group() -> dist.ProcessGroup | None:
    """A group in which processes may wait for the first one's results; every process must call it.

    Writing a model and generating samples of it can take longer than the half hour, or ten minutes
    between GPUs, after which a process that waits for another's part of a step gives up.
    """
    return (
        dist.new_group(backend="gloo", timeout=_LONGEST_RESULTS) if dist.is_initialized() else None
    )


def build_network(
    network: nn.Module, weights: Callable[[], Weights], device: torch.device, *, shard: bool
) -> nn.Module:
    """A network on its device, sharded over all processes if there are several.

    Args:
        network: with its weights, or on the meta device.
        weights: all weights of a network on the meta device.
        device: where it computes.
        shard: each process holds a part of it; otherwise all of it.
    """
    empty = any(parameter.is_meta for parameter in network.parameters())
    if not empty:
        network.to(device)
    if shard:
        shard_network(network, device)
    if empty:
        fill(network, weights(), device)
    return network


def shard_network(network: nn.Module, device: torch.device) -> None:
    """Shard a network over all processes; alone, leave it.

    Where the network names its blocks, `sharded_blocks`, each is put together only while it runs;
    all else is whole from the network's forward pass to the end of its backward pass.
    """
    if not dist.is_initialized():
        return
    for parameter in network.parameters():
        parameter.data = parameter.data.contiguous()
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for block in getattr(network, "sharded_blocks", ()):
        fully_shard(block, mesh=mesh)
    fully_shard(network, mesh=mesh, reshard_after_forward=False)


@torch.no_grad()
def fill(network: nn.Module, weights: Weights, device: torch.device) -> None:
    """Give memory to a network on the meta device, and its weights to it.

    Of a sharded network every process keeps its own parts: beside them it holds one whole weight
    at a time.

    Args:
        network: on the meta device, whole or sharded.
        weights: every weight once; a weight that several modules share, by its first name.
        device: where the network goes.
    """
    # 1. Memory; a weight that modules share would become two.
    shared = shared_weights(network)
    network.to_empty(device=device)
    for name, first in shared.items():
        owner, _, attribute = name.rpartition(".")
        setattr(network.get_submodule(owner), attribute, network.get_parameter(first))
    # 2. Values: a sharded weight's rows are divided as `torch.chunk` divides them.
    missing = dict(network.named_parameters())
    for name, value in weights:
        parameter = missing.pop(name)
        if isinstance(parameter, DTensor):
            parts = value.chunk(parameter.device_mesh.size())
            rank = parameter.device_mesh.get_local_rank()
            value = parts[rank] if rank < len(parts) else value[:0]
        own_part(parameter.detach()).copy_(value)
    if missing:
        raise ValueError(f"no value for {', '.join(missing)}")


def shared_weights(network: nn.Module) -> dict[str, str]:
    """Of weights that several modules share, the first name by each of the others."""
    first_names: dict[int, str] = {}
    names = {
        name: first_names.setdefault(id(parameter), name)
        for name, parameter in network.named_parameters(remove_duplicate=False)
    }
    return {name: first for name, first in names.items() if name != first}


def release_gathered(network: nn.Module) -> None:
    """Let a sharded network gather its weights anew, after a forward pass without a backward."""
    if isinstance(network, FSDPModule):
        network.reshard()


def average_gradients(network: nn.Module) -> None:
    """Give all processes the mean of their gradients, as FSDP2 does by itself where it shards.

    A process without a gradient for a weight that another one used counts with zeros.
    """
    if not dist.is_initialized():
        return
    learning = [weight for weight in network.parameters() if weight.requires_grad]
    users = summed(torch.tensor([float(weight.grad is not None) for weight in learning]))
    used = [weight for weight, count in zip(learning, users.tolist(), strict=True) if count]
    gradients = [(torch.zeros_like(p) if p.grad is None else p.grad).contiguous() for p in used]
    together = parameters_to_vector(gradients)
    dist.all_reduce(together)
    together /= dist.get_world_size()
    vector_to_parameters(together, gradients)
    for weight, gradient in zip(used, gradients, strict=True):
        weight.grad = gradient


def whole(value: Tensor) -> Tensor:
    """A tensor put together from all processes' parts; every process must call it."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def summed(value: Tensor) -> Tensor:
    """The sum of all processes' values, without gradient."""
    value = value.detach().clone()
    if dist.is_initialized():
        dist.all_reduce(value)
    return value


def gathered(values: Sequence[_Value]) -> list[_Value]:
    """The values of all processes in order, the first one's first; every process must call it."""
    if not dist.is_initialized():
        return list(values)
    if not summed(torch.tensor(float(len(values)))):
        return []
    parts: list[list[_Value]] = [[]] * dist.get_world_size()
    dist.all_gather_object(parts, list(values))
    return [value for part in parts for value in part]


def averaged(value: Tensor) -> Tensor:
    """The mean of all processes' values; each gets the gradient of its own."""
    if not dist.is_initialized():
        return value
    return value + (summed(value) / dist.get_world_size() - value).detach()


def full_weights(average: MovingAverage) -> dict[str, Tensor]:
    """The averaged weights, whole, on the first process's CPU; every process must call it.

    They are put together one at a time, and the other processes keep none: theirs are empty.
    """
    first = Share.of_this_process().rank == 0
    weights = {}
    for name, value in average.weights.items():
        together = whole(value).detach()
        if first:
            weights[name] = together.to("cpu", copy=not isinstance(value, DTensor))
        del together  # before the next one is put together
    return weights

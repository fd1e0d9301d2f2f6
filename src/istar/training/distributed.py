"""More than one process: shares of the work, sharded weights and full ones.

A run started by torchrun is sharded with FSDP2, or every process holds all of it and they only
average their gradients; a run without torchrun is left as it is.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from istar.training.average import MovingAverage

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


def shard_network(network: nn.Module) -> nn.Module:
    """Shard a network over all processes; alone, leave it.

    Where the network names its blocks, `sharded_blocks`, each is put together only while it runs;
    all else is whole from the network's forward pass to the end of its backward pass.
    """
    if not dist.is_initialized():
        return network
    for parameter in network.parameters():
        parameter.data = parameter.data.contiguous()
    device = next(network.parameters()).device
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for block in getattr(network, "sharded_blocks", ()):
        fully_shard(block, mesh=mesh)
    fully_shard(network, mesh=mesh, reshard_after_forward=False)
    return network


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


def full_weights(network: nn.Module, average: MovingAverage) -> dict[str, Tensor]:
    """The averaged weights, whole, on the CPU; every process must call it."""
    weights = {}
    for name, _ in network.named_parameters():
        weights[name] = whole(average.weights[name]).detach().cpu().clone()
    return weights

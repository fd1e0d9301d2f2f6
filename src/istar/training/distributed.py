"""More than one process: who works on what, sharded weights, and whole ones again.

A run started by torchrun is sharded with FSDP2; one without is left as it is.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from istar.training.average import MovingAverage


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

    def of(self, count: int) -> range:
        """The numbers below `count` that are this process's."""
        return range(self.rank, count, self.processes)


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """The group of processes that torchrun started, if it did."""
    if "WORLD_SIZE" not in os.environ:
        yield
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def shard_network(network: nn.Module) -> nn.Module:
    """Shard a network over all processes, block by block; alone, leave it."""
    if not dist.is_initialized():
        return network
    for module in network.modules():
        if isinstance(module, nn.ModuleList):
            for block in module:
                if any(True for _ in block.parameters()):
                    fully_shard(block)
    fully_shard(network)
    return network


def full_weights(network: nn.Module, average: MovingAverage) -> dict[str, Tensor]:
    """The averaged weights, whole, on the CPU; every process must call it."""
    whole = {}
    for name, _ in network.named_parameters():
        weight = average.weights[name]
        if isinstance(weight, DTensor):
            weight = weight.full_tensor()
        whole[name] = weight.detach().cpu().clone()
    return whole

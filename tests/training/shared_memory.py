"""The memory of one of two processes that share a network: a script for torchrun, see the test.

What is measured is the process's peak of resident memory, files that it maps included, beyond what
it held before.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from istar.training.average import MovingAverage, own_part
from istar.training.checkpoints import Checkpoints
from istar.training.config import TransformerTraining
from istar.training.distributed import (
    build_network,
    full_weights,
    process_group,
    release_gathered,
)
from istar.training.optimizers import build_optimizers
from istar.training.run_file import read_config
from istar.training.transformer import TransformerTask
from small_training import CPU


def resident(kind: str) -> int:
    """Bytes of memory of this process: `VmRSS` now, `VmHWM` at its peak."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(kind):
            return int(line.split()[1]) * 1024
    raise LookupError(kind)


def growth(work: Callable[[], Any]) -> tuple[Any, int]:
    """What work returns, and the peak of memory during it beyond what was held before."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak is now what is held
    before = resident("VmRSS")
    result = work()
    return result, resident("VmHWM") - before


def built(settings: Path) -> TransformerTask:
    """A task whose network is shared."""
    task = TransformerTask(read_config(settings, TransformerTraining))
    assert all(weight.is_meta for weight in task.network.parameters())
    build_network(task.network, task.starting_weights, CPU, shard=True)
    assert all(isinstance(weight, DTensor) for weight in task.network.parameters())
    return task


def main(small: Path, read: Path, new: Path, results: Path) -> None:
    """Measure, with all modules loaded by a small network before."""
    with process_group(CPU):
        task = built(small)
        assert task.validation is not None
        with torch.no_grad():
            found: dict[str, Any] = {"validation": task.validation.measures(CPU)}
        release_gathered(task.network)
        parts = [own_part(weight) for weight in task.network.parameters()]
        found["weights"] = sum(part.nbytes for part in parts)
        optimizers = build_optimizers(task.network, (), task.config.run)
        average = MovingAverage(task.network, 0.9)
        Checkpoints(results / "checkpoints", 1).save(1, task.network, optimizers, average)
        _, found["new"] = growth(lambda: built(new))
        task, found["read"] = growth(lambda: built(read))
        average = MovingAverage(task.network, 0.9)
        gathered, found["gathered"] = growth(lambda: full_weights(average))
        found["sums"] = {name: float(value.double().sum()) for name, value in gathered.items()}
        (results / f"{dist.get_rank()}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))

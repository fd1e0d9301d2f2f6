"""A few steps of a run by one of several processes; torchrun starts it, a test reads the log.

    torchrun --nproc-per-node 2 distributed_run.py DIRECTORY OUTPUT KIND STOP_AFTER SHARD

`KIND` is `tokenizer`, `adversarial`, `transformer` or `muon`, which trains a transformer too;
`DIRECTORY` holds the prepared sets; `SHARD` is `sharded` or `whole`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from istar.training.config import (
    ClipsConfig,
    InheritanceConfig,
    QuantizerConfig,
    ReconstructionConfig,
    RunConfig,
    ValidationConfig,
)
from istar.training.distributed import (
    Share,
    Weights,
    average_gradients,
    gathered,
    process_group,
)
from istar.training.task import Loss, Task, Validation
from istar.training.tokenizer import TokenizerTask
from istar.training.transformer import TransformerTask
from small_training import CPU, losses, run_config, tokenizer_run, transformer_run

STEPS = 4
PATIENCE = timedelta(seconds=10)


def task_of(kind: str, directory: Path) -> Task:
    """What is trained: clips of odd counts, parts frozen, a critic that comes late."""
    if kind in ("transformer", "muon"):
        sets = tuple(directory / "latents" / name for name in ("pictures", "clips", "long"))
        held_out = directory / "latents" / "held-out"
        validation = ValidationConfig(sets=(held_out,), every=2, rows=3)
        run = transformer_run(directory, sets, recompute=True, validation=validation)
        return TransformerTask(run)
    inherit = InheritanceConfig(
        weights=directory / "start.safetensors", freeze=("encoder",), until=2
    )
    judged = ReconstructionConfig(
        squared=0.5, adversarial=0.1 if kind == "adversarial" else 0.0, adversarial_from=2
    )
    return TokenizerTask(
        tokenizer_run(
            directory,
            data=ClipsConfig(lengths=(1, 17), pictures=51),
            quantizer=QuantizerConfig(drop_most=1, diversity=0.5),
            inherit=inherit,
            reconstruction=judged,
        )
    )


def run_of(kind: str, output: Path, *, shard: bool = True) -> RunConfig:
    """Its course."""
    optimizer: Literal["adamw", "muon"] = "muon" if kind == "muon" else "adamw"
    return run_config(output, steps=STEPS, optimizer=optimizer, shard=shard)


def write_averages(rank: int, place: Path) -> None:
    """Average gradients that not all of two processes have, and write down what comes of it.

    Gather values likewise.
    """
    network = nn.ParameterList(torch.zeros(1) for _ in range(3))
    for number, value in enumerate(((2.0, 4.0), (6.0,))[rank]):
        network[number].grad = torch.tensor([value])
    meeting = f"file://{place / 'meeting'}"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    average_gradients(network)
    values = [gathered(["a", "b"] if rank == 1 else []), gathered([rank]), gathered([])]
    dist.destroy_process_group()
    averages = [None if one.grad is None else one.grad.item() for one in network]
    (place / f"{rank}.json").write_text(json.dumps([averages, values]))


class SlowTask:
    """A task whose first process takes longer over a sample than processes wait in a step."""

    def __init__(self) -> None:
        self.frozen_until: Mapping[str, int] = {}
        self.validation: Validation | None = None
        self.network: nn.Module = nn.Linear(2, 2)

    def starting_weights(self) -> Weights:
        return ()

    def hidden_matrices(self) -> tuple[Tensor, ...]:
        return ()

    def batch(self, step: int, share: Share) -> Tensor:
        return torch.ones(1, 2)

    def remarks(self, batch: Tensor) -> tuple[str, ...]:
        return ()

    def loss(self, batch: Tensor, step: int, device: torch.device) -> Loss:
        return Loss(self.network(batch).square().sum(), {})

    def export(self, weights: Mapping[str, Tensor], directory: Path) -> None:
        torch.save(dict(weights), directory / "weights.pt")

    def sample(self, weights: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
        time.sleep(PATIENCE.total_seconds() * 1.5)
        return {"step": torch.zeros(8, 8, 3, dtype=torch.uint8)}


def run_slowly(rank: int, place: Path) -> None:
    """Run one of two processes of which the first is slow."""
    meeting = f"file://{place / 'meeting'}"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2, timeout=PATIENCE)
    found = losses(SlowTask(), run_config(place / "run", steps=4, sample_every=2))
    dist.destroy_process_group()
    (place / f"{rank}.json").write_text(json.dumps(list(found)))


def run_share(rank: int, directory: Path, output: Path, kind: str) -> None:
    """Run as one of the two processes that torchrun would start, which meet at a file."""
    os.environ["WORLD_SIZE"] = "2"
    meeting = f"file://{output.with_suffix('.meeting')}"
    dist.init_process_group = partial(
        dist.init_process_group, init_method=meeting, rank=rank, world_size=2
    )
    main(directory, output, kind, STEPS, shard=True)


def main(directory: Path, output: Path, kind: str, stop_after: int, *, shard: bool) -> None:
    """Run, and stop where the test wants it."""
    task = task_of(kind, directory)
    with process_group(CPU):
        run = run_of(kind, output, shard=shard)
        losses(task, run, stop_after=stop_after if stop_after < STEPS else None)


if __name__ == "__main__":
    place, results, kind, last, mode = sys.argv[1:]
    main(Path(place), Path(results), kind, int(last), shard=mode == "sharded")

"""A few steps of a run by one of several processes; torchrun starts it, a test reads the log.

    torchrun --nproc-per-node 2 distributed_run.py DIRECTORY OUTPUT KIND STOP_AFTER

`KIND` is `tokenizer`, `adversarial`, `transformer` or `muon`, which trains a transformer too;
`DIRECTORY` holds the prepared sets.
"""

from __future__ import annotations

import sys
from pathlib import Path

from istar.training.config import (
    ClipsConfig,
    InheritanceConfig,
    QuantizerConfig,
    ReconstructionConfig,
    RunConfig,
)
from istar.training.distributed import process_group
from istar.training.tokenizer import TokenizerTask
from istar.training.trainer import Task
from istar.training.transformer import TransformerTask
from small_training import CPU, losses, run_config, tokenizer_run, transformer_run

STEPS = 5


def task_of(kind: str, directory: Path) -> Task:
    """What is trained: clips of odd counts, parts frozen, a critic that comes late."""
    if kind in ("transformer", "muon"):
        sets = tuple(directory / "latents" / name for name in ("pictures", "clips", "long"))
        return TransformerTask(transformer_run(directory, sets, recompute=True))
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
            quantizer=QuantizerConfig(drop_most=2, diversity=0.5),
            inherit=inherit,
            reconstruction=judged,
        )
    )


def run_of(kind: str, output: Path) -> RunConfig:
    """Its course."""
    return run_config(output, steps=STEPS, optimizer="muon" if kind == "muon" else "adamw")


def main(directory: Path, output: Path, kind: str, stop_after: int) -> None:
    """Run, and stop where the test wants it."""
    task = task_of(kind, directory)
    with process_group(CPU):
        run = run_of(kind, output)
        losses(task, run, stop_after=stop_after if stop_after < STEPS else None)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))

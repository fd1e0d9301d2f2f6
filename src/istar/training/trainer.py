"""The training loop: batches, losses, optimizer steps, validation, checkpoints, results.

`train` yields events as they happen. A batch is a function of the run's seed and the step, so that
a run that was killed continues from its last checkpoint with the same result.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Mapping
from math import cos, isfinite, pi
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from istar.byte_size import readable_size
from istar.errors import GenerationError, IstarError, MediaError
from istar.files import PendingDirectory, discard_unfinished, free_bytes
from istar.placement import DTYPES, memory_failure
from istar.training.average import MovingAverage
from istar.training.checkpoints import Checkpoints
from istar.training.config import RunConfig
from istar.training.distributed import (
    Share,
    average_gradients,
    build_network,
    full_weights,
    release_gathered,
    waiting_group,
    whole,
)
from istar.training.events import Remarked, Resumed, Saved, StepDone, TrainingEvent, Validated
from istar.training.log import RunLog
from istar.training.memory import memory_of
from istar.training.optimizers import Optimizers, build_optimizers
from istar.training.run_lock import held_alone
from istar.training.task import Task, Validation

MODEL_NAME = "model"


def train(task: Task, config: RunConfig, device: torch.device) -> Iterator[TrainingEvent]:
    """Run a task to its last step, from its last checkpoint if there is one.

    Raises:
        GenerationError: the loss is not finite.
        MediaError: the output cannot be written, or the disk has no room for the checkpoints.
        StateError: the last checkpoint cannot be read, or another run writes to the same directory.
        UsageError: the optimizer does not suit the task.
    """
    with held_alone(config.output):
        yield from _train(task, config, device)


def _train(task: Task, config: RunConfig, device: torch.device) -> Iterator[TrainingEvent]:
    """`train`, in a directory of its own."""
    share = Share.of_this_process()
    waiting = waiting_group()
    network = build_network(task.network, task.starting_weights, device, shard=config.shard)
    optimizers = build_optimizers(network, task.hidden_matrices(), config)
    average = MovingAverage(network, config.ema)
    checkpoints = Checkpoints(config.output / "checkpoints", config.keep)
    done = checkpoints.restore(network, optimizers, average)
    if share.rank == 0:
        # What a run that was killed left half written takes no room.
        checkpoints.discard_unfinished()
        discard_unfinished(config.output / MODEL_NAME)
        _check_room(task, network, config, kept=len(checkpoints.steps()), done=done)
    if done:
        yield Resumed(step=done)
    with RunLog(config.output, done, enabled=share.rank == 0) as log:
        if done >= config.steps:
            yield from _results(task, average, config, done, device, log, waiting, sampled=True)
        clock = time.monotonic()
        for batch in _batches(task, config, share, done):
            if isinstance(batch, IstarError):
                raise batch
            if notes := task.remarks(batch):
                yield Remarked(notes=notes)
            measures = _step(task, network, optimizers, config, batch, done, device)
            average.follow(network, done)
            done += 1
            now = time.monotonic()
            last = done == config.steps
            found = {}
            if task.validation and (last or done % task.validation.every == 0):
                found = _validate(task.validation, network, average, config, device)
            if last or found or done % config.log_every == 0:
                log.write(done, measures | found)
            yield StepDone(step=done, total=config.steps, measures=measures, seconds=now - clock)
            clock = now
            if found:
                yield Validated(step=done, measures=found)
                clock = time.monotonic()
            if last or done % config.save_every == 0:
                path = checkpoints.save(done, network, optimizers, average)
                yield Saved(what="checkpoint", path=path)
            sampled = last or done % config.sample_every == 0
            if sampled or done % config.save_every == 0:
                yield from _results(
                    task, average, config, done, device, log, waiting, sampled=sampled
                )
                clock = time.monotonic()


def _check_room(task: Task, network: nn.Module, config: RunConfig, *, kept: int, done: int) -> None:
    """Refuse a run for whose checkpoints and model the disk has too little room.

    Args:
        task: of the run.
        network: as it is trained.
        config: of the run.
        kept: how many checkpoints are there.
        done: steps.
    """
    _freeze(network, task, config.steps - 1)
    hidden = task.hidden_matrices() if config.optimizer == "muon" else ()
    size = memory_of(network, processes=1, hidden=hidden)
    steps = range(done + 1, config.steps + 1)
    to_come = sum(step == config.steps or step % config.save_every == 0 for step in steps)
    # A new checkpoint is written beside those that are kept, and a new model beside the last one.
    beside = min(to_come, max(1, config.keep + 1 - kept)) * size.checkpoint
    more = min(to_come, max(0, config.keep - kept)) * size.checkpoint
    exists = (config.output / MODEL_NAME).exists()
    again = size.whole if exists or to_come > 1 or config.sample_every < config.steps else 0
    needed = max(beside, more + again) + (0 if exists else size.whole)
    free = free_bytes(config.output)
    if free < needed:
        raise MediaError(
            f"the run needs {readable_size(needed)} for its checkpoints and model, and the disk of "
            f"'{config.output}' has {readable_size(free)} free; lower keep, or give the run "
            "another output"
        )


def _freeze(network: nn.Module, task: Task, step: int) -> None:
    """Let the parts that are frozen at a step have no gradient."""
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(
            all(step >= until for part, until in task.frozen_until.items() if name.startswith(part))
        )


def _validate(
    validation: Validation,
    network: nn.Module,
    average: MovingAverage,
    config: RunConfig,
    device: torch.device,
) -> dict[str, float]:
    """Measure the averaged weights, which are what is exported; every process must call it."""
    network.eval()
    with average.in_use(network), torch.no_grad(), _autocast(config, device):
        found = validation.measures(device)
        release_gathered(network)
    return found


def _results(
    task: Task,
    average: MovingAverage,
    config: RunConfig,
    done: int,
    device: torch.device,
    log: RunLog,
    waiting: dist.ProcessGroup | None,
    *,
    sampled: bool,
) -> Iterator[Saved | Remarked]:
    """Write the model and samples of the averaged weights; every process must call it.

    The first process does it all, and the others wait as long as it takes.
    """
    weights = full_weights(average)
    if Share.of_this_process().rank == 0:
        yield Saved(what="model", path=_export(task, weights, config.output))
        if sampled:
            yield from _samples(task, weights, done, device, log)
    if waiting:
        dist.barrier(waiting)


def _samples(
    task: Task, weights: Mapping[str, Tensor], done: int, device: torch.device, log: RunLog
) -> list[Saved | Remarked]:
    """Write contact sheets, or say why not: the run continues without them."""
    try:
        sheets = task.sample(weights, device)
        return [
            Saved(what="samples", path=log.picture(name, done, sheet))
            for name, sheet in sheets.items()
        ]
    except Exception as error:
        reason = error if isinstance(error, IstarError) else memory_failure(error, "making them")
        if reason is None:
            raise
        return [Remarked(notes=(f"no samples after step {done}: {reason}",))]


def _export(task: Task, weights: Mapping[str, Tensor], output: Path) -> Path:
    """Write the model beside the last one, which it replaces once it is whole."""
    with PendingDirectory(output / MODEL_NAME, overwrite=True) as pending:
        task.export(weights, pending.temporary)
    return pending.target


def learning_rate(config: RunConfig, step: int) -> float:
    """The learning rate of the step after `step` others: a line up, then half a cosine down."""
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    way = (step - config.warmup) / max(1, config.steps - 1 - config.warmup)
    fall = (1 + cos(pi * min(1.0, way))) / 2
    return config.learning_rate * (config.last_share + (1 - config.last_share) * fall)


def _step(
    task: Task,
    network: nn.Module,
    optimizers: Optimizers,
    config: RunConfig,
    batch: Any,
    step: int,
    device: torch.device,
) -> dict[str, float]:
    """One optimizer step and its measures."""
    network.train()
    # 1. Frozen parts get no gradient until their step, and no optimizer state either.
    _freeze(network, task, step)
    # 2. The learning rate of this step.
    rate = learning_rate(config, step)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate
    # 3. Forward and backward; FSDP2 averages gradients by itself where it shards.
    with _autocast(config, device):
        loss = task.loss(batch, step, device)
    loss.total.backward()
    if not config.shard:
        average_gradients(network)
    # 4. Clip the gradients by the norm of all together.
    norm = whole(nn.utils.clip_grad_norm_(network.parameters(), config.clip_norm)).item()
    # 5. The measures, averaged over processes; a loss that is no number ends the run here.
    measures = {"loss": loss.total.detach(), **loss.measures}
    values = torch.stack([value.detach().float().cpu() for value in measures.values()])
    if dist.is_initialized():
        dist.all_reduce(values)
        values /= dist.get_world_size()
    numbers = dict(zip(measures, values.tolist(), strict=True))
    if not isfinite(numbers["loss"]) or not isfinite(norm):
        what = "gradient" if isfinite(numbers["loss"]) else "loss"
        raise GenerationError(
            f"the {what} is not a number at step {step + 1}; lower learning_rate and start again, "
            "the run continues from its last checkpoint"
        )
    # 6. Step.
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return {**numbers, "gradient": norm, "learning_rate": rate}


def _autocast(config: RunConfig, device: torch.device) -> torch.autocast:
    """The run's precision inside."""
    return torch.autocast(device.type, DTYPES["bf16"], enabled=config.precision == "bf16")


class _Batches(Dataset[Any]):
    """The batches of a task, by step; workers make them in advance."""

    def __init__(self, task: Task, share: Share) -> None:
        self._task = task
        self._share = share

    def __getitem__(self, step: int) -> Any:
        try:
            return self._task.batch(step, self._share)
        except IstarError as error:
            return error  # a worker's exceptions would arrive with its traceback as their text


def _batches(task: Task, config: RunConfig, share: Share, done: int) -> DataLoader[Any]:
    return DataLoader(
        _Batches(task, share),
        batch_size=None,
        sampler=range(done, config.steps),
        num_workers=config.workers,
        worker_init_fn=_leave_interrupts_to_the_parent,
    )


def _leave_interrupts_to_the_parent(worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)

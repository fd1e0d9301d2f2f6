"""The training loop: a resumed run is the uninterrupted one."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from errno import ENOSPC
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.planner import SavePlan

from istar.errors import GenerationError, MediaError, StateError, UsageError
from istar.training.average import MovingAverage
from istar.training.checkpoints import Checkpoints
from istar.training.config import RunConfig
from istar.training.distributed import Share, Weights
from istar.training.events import Remarked, Resumed, StepDone
from istar.training.log import LOG_NAME, read_log
from istar.training.optimizers import build_optimizers
from istar.training.task import Loss, Validation
from istar.training.trainer import learning_rate, train
from small_training import CPU, losses, run_config, written


class Line(nn.Module):
    """Two layers, and a third that is not used before its time."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.early = nn.Linear(3, 4)
        self.late = nn.Linear(4, 1)
        self.extra = nn.Linear(4, 1)


class LineTask:
    """A task of microseconds."""

    def __init__(self, frozen: Mapping[str, int] | None = None, extra_from: int = 0) -> None:
        self.network: nn.Module = Line()
        self.frozen_until = frozen or {}
        self.validation: Validation | None = None
        self.extra_from = extra_from
        self.spoilt_at: int | None = None

    def starting_weights(self) -> Weights:
        return ()

    def hidden_matrices(self) -> Sequence[Tensor]:
        return [self.network.early.weight, self.network.extra.weight]

    def batch(self, step: int, share: Share) -> Tensor:
        if step == 4 and self.spoilt_at == -1:
            raise UsageError("there is nothing to learn from")
        return torch.randn(5, 3, generator=torch.Generator().manual_seed(step))

    def remarks(self, batch: Tensor) -> tuple[str, ...]:
        return ()

    def loss(self, batch: Tensor, step: int, device: torch.device) -> Loss:
        hidden = self.network.early(batch)
        made = self.network.late(hidden)
        if step >= self.extra_from:
            made = made + self.network.extra(hidden)
        total = (made - batch.sum(1, keepdim=True)).square().mean()
        if step == self.spoilt_at:
            total = total * float("nan")
        return Loss(total, {"half": total.detach() / 2})

    def export(self, weights: Mapping[str, Tensor], directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        torch.save(dict(weights), directory / "weights.pt")

    def sample(self, weights: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
        return {"step": torch.zeros(8, 8, 3, dtype=torch.uint8)}


def weights_of(run: RunConfig) -> dict[str, Tensor]:
    return torch.load(run.output / "model" / "weights.pt")


def test_the_learning_rate_rises_then_falls() -> None:
    run = run_config(Path("out"), steps=100, warmup=10, learning_rate=2.0, last_share=0.1)
    rates = [learning_rate(run, step) for step in range(100)]
    assert rates[:10] == pytest.approx([0.2 * (n + 1) for n in range(10)])
    assert rates[10] == 2.0
    assert rates[-1] == pytest.approx(0.2)
    assert all(a > b for a, b in pairwise(rates[10:]))
    assert (rates[10] + rates[-1]) / 2 == pytest.approx((rates[54] + rates[55]) / 2)


def test_a_run_of_nothing_but_warm_up(tmp_path: Path) -> None:
    run = run_config(tmp_path, steps=3, warmup=3)
    assert learning_rate(run, 2) == run.learning_rate
    assert learning_rate(run_config(tmp_path, steps=1, warmup=0), 0) == run.learning_rate


def test_the_average_follows_faster_at_first() -> None:
    network = nn.Linear(1, 1, bias=False)
    nn.init.constant_(network.weight, 0.0)
    average = MovingAverage(network, 0.9)
    nn.init.constant_(network.weight, 1.0)
    wanted = 0.0
    for step in (0, 1, 2, 80, 81, 500):
        average.follow(network, step)
        decay = min(0.9, (1 + step) / (10 + step))
        wanted = decay * wanted + (1 - decay)
        assert float(average.weights["weight"]) == pytest.approx(wanted)


TASKS: dict[str, dict[str, Any]] = {
    "plain": {},
    "frozen": {"frozen": {"early.": 3}},
    "frozen beyond its end": {"frozen": {"early.": 100}},
    "unused at first": {"extra_from": 4},
}


USUAL = {
    *(("adamw", 5, kind) for kind in TASKS),
    *(("muon", 3, kind) for kind in TASKS),
    *(("adamw", stop_after, "plain") for stop_after in (1, 2)),
}
"""What is tested without `slow`."""


@pytest.mark.parametrize(
    ("optimizer", "stop_after", "name"),
    [
        pytest.param(*case, marks=() if case in USUAL else pytest.mark.slow)
        for case in product(("adamw", "muon"), (1, 2, 3, 5), TASKS)
    ],
)
def test_a_run_cut_off_and_started_again_is_one_that_was_not(
    tmp_path: Path, name: str, stop_after: int, optimizer: str
) -> None:
    kind = TASKS[name]
    whole = run_config(tmp_path / "whole", optimizer=optimizer)
    assert list(losses(LineTask(**kind), whole)) == [1, 2, 3, 4, 5, 6]
    cut = run_config(tmp_path / "cut", optimizer=optimizer)
    first = losses(LineTask(**kind), cut, stop_after=stop_after)
    assert list(first) == list(range(1, stop_after + 1))
    losses(LineTask(**kind), cut)
    logs = [(run.output / LOG_NAME).read_bytes() for run in (whole, cut)]
    assert len(logs[0].splitlines()) == 6
    assert logs[0] == logs[1]
    one, other = weights_of(whole), weights_of(cut)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_it_continues_from_the_last_checkpoint(tmp_path: Path) -> None:
    run = run_config(tmp_path)
    losses(LineTask(), run, stop_after=5)
    events = list(train(LineTask(), run, CPU))
    assert events[0] == Resumed(step=4)
    assert [e.step for e in events if isinstance(e, StepDone)] == [5, 6]


def test_two_runs_do_not_share_a_directory(tmp_path: Path) -> None:
    run = run_config(tmp_path / "new")
    events = train(LineTask(), run, CPU)
    next(events)
    with pytest.raises(StateError, match=r"new' is in use: another process trains there; give"):
        losses(LineTask(), run)
    events.close()
    assert list(losses(LineTask(), run)) == [1, 2, 3, 4, 5, 6]


def test_a_directory_that_cannot_be_made_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(MediaError, match=r"cannot write '.*file/run': Not a directory; choose"):
        losses(LineTask(), run_config(tmp_path / "file" / "run"))


def test_only_the_newest_checkpoints_stay(tmp_path: Path) -> None:
    run = run_config(tmp_path, steps=8, keep=3)
    losses(LineTask(), run)
    assert Checkpoints(tmp_path / "checkpoints", 3).steps() == [4, 6, 8]
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [
        "step-00000004",
        "step-00000006",
        "step-00000008",
    ]


def test_an_unfinished_checkpoint_is_ignored_and_removed(tmp_path: Path) -> None:
    run = run_config(tmp_path)
    losses(LineTask(), run, stop_after=3)
    checkpoints = tmp_path / "checkpoints"
    shutil.copytree(checkpoints / "step-00000002", checkpoints / ".step-00000005.tmp" / "new")
    (checkpoints / "notes").mkdir()
    assert Checkpoints(checkpoints, 2).steps() == [2]
    losses(LineTask(), run)
    assert not list(checkpoints.glob(".*"))


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (OSError(ENOSPC, "No space left on device"), MediaError),
        (RuntimeError("unexpected pos\n64 vs 0"), MediaError),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (SystemExit(143), SystemExit),
    ],
)
def test_one_that_cannot_be_written_leaves_those_before_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    failure: BaseException,
    expected: type[BaseException],
) -> None:
    """The library wraps whatever went wrong, Ctrl-C and signals too, in an exception of its own."""

    def fail(*_: object) -> None:
        raise failure

    whole = losses(LineTask(), run_config(tmp_path / "whole"))
    run = run_config(tmp_path / "run")
    with monkeypatch.context() as patched:
        events = train(LineTask(), run, CPU)
        assert next(e for e in events if isinstance(e, StepDone) and e.step == 3)
        patched.setattr(FileSystemWriter, "write_data", fail)
        with pytest.raises(expected) as caught:
            list(events)
    if expected is MediaError:
        assert re.fullmatch(
            r"cannot write '.*step-00000004': (No|unexp).*; free.*", str(caught.value)
        )
    else:
        assert caught.value is failure
    assert [path.name for path in (run.output / "checkpoints").iterdir()] == ["step-00000002"]
    again = losses(LineTask(), run)
    assert again == {step: whole[step] for step in (3, 4, 5, 6)}


def test_no_process_writes_a_checkpoint_before_the_first_has_made_its_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first removes what it finds there; the others make what they miss, and write."""
    order = []
    directory = tmp_path / "checkpoints" / ".step-00000001.tmp" / "new"
    prepare = FileSystemWriter.prepare_local_plan

    def write(writer: FileSystemWriter, plan: SavePlan) -> SavePlan:
        order.append("write")
        return prepare(writer, plan)

    monkeypatch.setattr(FileSystemWriter, "prepare_local_plan", write)
    monkeypatch.setattr(dist, "barrier", lambda: order.append(f"wait {directory.is_dir()}"))
    network = Line()
    optimizers = build_optimizers(network, (), run_config(tmp_path))
    meeting = f"file://{tmp_path / 'meeting'}"
    dist.init_process_group("gloo", init_method=meeting, rank=0, world_size=1)
    try:
        Checkpoints(tmp_path / "checkpoints", 1).save(
            1, network, optimizers, MovingAverage(network, 0.9)
        )
    finally:
        dist.destroy_process_group()
    assert order == ["wait True", "write", "wait False"]


def damaged_files(place: Path) -> Iterator[Path]:
    yield place / ".metadata"
    yield next(place.glob("*.distcp"))


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "garbage"])
def test_a_damaged_checkpoint_is_refused_in_one_line(
    tmp_path: Path, which: int, damage: str
) -> None:
    run = run_config(tmp_path)
    losses(LineTask(), run, stop_after=3)
    file = list(damaged_files(tmp_path / "checkpoints" / "step-00000002"))[which]
    content = file.read_bytes()
    if damage == "missing":
        file.unlink()
    else:
        damaged = {"empty": b"", "cut": content[: len(content) // 2], "garbage": b"x" * 1000}
        file.write_bytes(damaged[damage])
    with pytest.raises(StateError, match="step-00000002 is damaged or of another") as caught:
        losses(LineTask(), run)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("other", [nn.Linear(3, 5), nn.Linear(3, 4, bias=False)])
def test_so_is_one_of_another_network(tmp_path: Path, other: nn.Module) -> None:
    run = run_config(tmp_path)
    losses(LineTask(), run, stop_after=3)
    task = LineTask()
    task.network.early = other
    with pytest.raises(StateError, match="step-00000002 is damaged or of another") as caught:
        losses(task, run)
    assert "\n" not in str(caught.value)


def test_a_frozen_part_learns_from_its_step_on(tmp_path: Path) -> None:
    task = LineTask(frozen={"early.": 3})
    start = {name: value.clone() for name, value in task.network.state_dict().items()}
    run = run_config(tmp_path, weight_decay=0.1)
    for event in train(task, run, CPU):
        if isinstance(event, StepDone):
            now = task.network.state_dict()
            assert torch.equal(now["early.weight"], start["early.weight"]) == (event.step <= 3)
            assert not torch.equal(now["late.weight"], start["late.weight"])


def test_a_loss_that_is_not_a_number_ends_the_run(tmp_path: Path) -> None:
    task = LineTask()
    task.spoilt_at = 4
    with pytest.raises(GenerationError, match="the loss is not a number at step 5"):
        losses(task, run_config(tmp_path))
    assert losses(LineTask(), run_config(tmp_path)).keys() == {5, 6}


def test_so_does_a_gradient_and_it_spoils_no_weights(tmp_path: Path) -> None:
    class Steep(LineTask):
        def loss(self, batch: Tensor, step: int, device: torch.device) -> Loss:
            loss = super().loss(batch, step, device)
            if step == 1:  # a root has no slope at zero, but a value
                loss = loss._replace(total=loss.total + (loss.total * 0).sqrt())
            return loss

    task = Steep()
    with pytest.raises(GenerationError, match="the gradient is not a number at step 2"):
        losses(task, run_config(tmp_path))
    assert all(value.isfinite().all() for value in task.network.state_dict().values())
    assert not (tmp_path / "checkpoints").exists()


def test_workers_change_nothing(tmp_path: Path) -> None:
    alone = losses(LineTask(), run_config(tmp_path / "0"))
    helped = losses(LineTask(), run_config(tmp_path / "1", workers=1))
    assert alone == helped


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_a_batch_keeps_its_words(tmp_path: Path, workers: int) -> None:
    task = LineTask()
    task.spoilt_at = -1
    with pytest.raises(UsageError) as caught:
        losses(task, run_config(tmp_path, workers=workers))
    assert str(caught.value) == "there is nothing to learn from"


def test_what_is_written_and_when(tmp_path: Path) -> None:
    assert written(LineTask(), run_config(tmp_path, sample_every=3)) == [
        "checkpoint step-00000002",
        "model model",
        "model model",
        "samples step-00000003.png",
        "checkpoint step-00000004",
        "model model",
        "checkpoint step-00000006",
        "model model",
        "samples step-00000006.png",
    ]
    assert (tmp_path / "samples" / "step-00000006.png").is_file()


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (MediaError("the disk is full"), "the disk is full"),
        (
            torch.OutOfMemoryError("CUDA out of memory"),
            "the GPU's memory ran out while making them",
        ),
    ],
)
def test_a_run_continues_without_samples_that_cannot_be_made(
    tmp_path: Path, failure: Exception, reason: str
) -> None:
    class Failing(LineTask):
        def sample(self, weights: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
            raise failure

    run = run_config(tmp_path, sample_every=3, save_every=3)
    events = list(train(Failing(), run, CPU))
    assert [event.notes for event in events if isinstance(event, Remarked)] == [
        (f"no samples after step {step}: {reason}",) for step in (3, 6)
    ]
    assert events[-1] == Remarked(notes=(f"no samples after step 6: {reason}",))
    assert (tmp_path / "model" / "weights.pt").is_file()
    assert list(train(Failing(), run, CPU))[-1] == events[-1]


def test_but_a_mistake_in_making_them_ends_it(tmp_path: Path) -> None:
    class Mistaken(LineTask):
        def sample(self, weights: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
            raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        losses(Mistaken(), run_config(tmp_path))


def test_a_finished_run_that_was_killed_before_its_model_was_written_writes_it(
    tmp_path: Path,
) -> None:
    run = run_config(tmp_path)
    losses(LineTask(), run)
    wanted = weights_of(run)
    log = (tmp_path / LOG_NAME).read_bytes()
    shutil.rmtree(tmp_path / "model")
    assert written(LineTask(), run) == ["model model", "samples step-00000006.png"]
    assert all(torch.equal(weights_of(run)[name], value) for name, value in wanted.items())
    assert (tmp_path / LOG_NAME).read_bytes() == log


def test_the_model_is_the_last_whole_one(tmp_path: Path) -> None:
    class Failing(LineTask):
        exports = 0

        def export(self, weights: Mapping[str, Tensor], directory: Path) -> None:
            self.exports += 1
            if self.exports == 2:
                (directory / "half").touch()
                raise KeyboardInterrupt
            super().export(weights, directory)

    run = run_config(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        losses(Failing(), run)
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["weights.pt"]
    losses(LineTask(), run)
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["weights.pt"]
    assert not list(tmp_path.glob(".*"))


def test_a_resumed_run_has_the_files_optimizer_settings(tmp_path: Path) -> None:
    changed = {"betas": (0.5, 0.6), "weight_decay": 0.3}
    losses(LineTask(), run_config(tmp_path / "one"), stop_after=3)
    losses(LineTask(), run_config(tmp_path / "other"), stop_after=3)
    one = losses(LineTask(), run_config(tmp_path / "one"))
    other = losses(LineTask(), run_config(tmp_path / "other", **changed))
    assert one[3] == other[3]
    assert one[5] != other[5]


def test_what_is_exported_is_the_average(tmp_path: Path) -> None:
    run = run_config(tmp_path, ema=0.5)
    task = LineTask()
    average = MovingAverage(task.network, 0.5)
    for event in train(task, run, CPU):
        if isinstance(event, StepDone):
            average.follow(task.network, event.step - 1)
    found = weights_of(run)
    assert found.keys() == average.weights.keys()
    for name, value in average.weights.items():
        assert torch.allclose(found[name], value)
    assert not torch.equal(found["late.weight"], task.network.state_dict()["late.weight"])


def test_a_log_line_that_a_kill_cut_off_is_forgotten(tmp_path: Path) -> None:
    run = run_config(tmp_path)
    losses(LineTask(), run, stop_after=3)
    with (tmp_path / LOG_NAME).open("a") as log:
        log.write('{"step": 4, "lo')
    assert [line["step"] for line in read_log(tmp_path / LOG_NAME)] == [1, 2, 3]
    losses(LineTask(), run)
    assert [line["step"] for line in read_log(tmp_path / LOG_NAME)] == [1, 2, 3, 4, 5, 6]


def test_the_log_has_the_measures(tmp_path: Path) -> None:
    losses(LineTask(), run_config(tmp_path, log_every=4))
    lines = read_log(tmp_path / LOG_NAME)
    assert [line["step"] for line in lines] == [4, 6]
    assert lines[0].keys() == {"step", "loss", "half", "gradient", "learning_rate"}
    assert lines[0]["half"] == pytest.approx(lines[0]["loss"] / 2, rel=1e-5)
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_a_run_whose_checkpoints_do_not_fit_on_the_disk_does_not_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """26 weights have four numbers each in a checkpoint; with `keep = 2` three come at first."""
    run = run_config(tmp_path / "run")
    needed = 3 * 4 * 26 * 4 + 26 * 4
    free = needed - 1
    monkeypatch.setattr("istar.training.trainer.free_bytes", lambda path: free)
    with pytest.raises(
        MediaError, match=r"needs 1.4 kB for its .*run' has 1.4 kB free; lower keep"
    ):
        next(train(LineTask(), run, CPU))
    assert not (run.output / "checkpoints").exists()
    frozen = LineTask({"early.": run.steps})
    assert losses(frozen, run_config(tmp_path / "frozen"), stop_after=1)
    assert losses(LineTask(), run_config(tmp_path / "few", keep=1), stop_after=1)
    free = needed
    assert losses(LineTask(), run, stop_after=5)
    written = 2 * 4 * 26 * 4 + 26 * 4  # two checkpoints, and the model
    free = needed - written - 1
    with pytest.raises(MediaError, match="lower keep"):
        next(train(LineTask(), run, CPU))
    free = needed - written
    left_behind = [
        run.output / "checkpoints" / ".step-00000005.tmp" / "new",
        run.output / ".model.tmp" / "new",
    ]
    for path in left_behind:
        path.mkdir(parents=True)
    assert losses(LineTask(), run, stop_after=5).keys() == {5}
    assert not any(path.exists() for path in left_behind)
    assert losses(LineTask(), run).keys() == {5, 6}
    # Saved after 8 and 9, and the model beside the last one.
    more = run_config(tmp_path / "run", steps=9, save_every=4, keep=4)
    free = 2 * 4 * 26 * 4 + 26 * 4 - 1
    with pytest.raises(MediaError, match="lower keep"):
        next(train(LineTask(), more, CPU))
    free = 26 * 4  # the model is written once more
    assert not losses(LineTask(), run)

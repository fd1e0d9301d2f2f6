"""Two processes learn what one learns; torchrun, gloo and FSDP2 on the CPU."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from distributed_run import STEPS, run_of, run_share, run_slowly, task_of, write_averages
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.multiprocessing.spawn import start_processes

from istar.training.distributed import Share, averaged, build_network, summed, whole
from istar.training.log import LOG_NAME, read_log
from processes import TORCHRUN, started
from small_training import CPU, losses, run_config

SCRIPT = Path(__file__).with_name("distributed_run.py")


def by_two(
    directory: Path, output: Path, kind: str, stop_after: int = STEPS, *, shard: bool = True
) -> str:
    """Run in two processes; what they wrote to stderr."""
    command = [*TORCHRUN, str(SCRIPT), str(directory), str(output), kind, str(stop_after)]
    with started([*command, "sharded" if shard else "whole"]) as process:
        _, err = process.communicate(timeout=500)
    assert process.returncode == 0, err.decode()
    return err.decode()


def both(function: Callable[..., None], *arguments: object) -> None:
    """Call a function in two processes, forked with torch imported, by their rank."""
    start_processes(function, arguments, nprocs=2, start_method="forkserver")


def by_one(directory: Path, output: Path, kind: str) -> None:
    losses(task_of(kind, directory), run_of(kind, output))


def assert_same_log(one: Path, other: Path, tolerance: float = 1e-5) -> None:
    lines = [read_log(output / LOG_NAME) for output in (one, other)]
    assert [line["step"] for line in lines[0]] == list(range(1, STEPS + 1))
    for a, b in zip(*lines, strict=True):
        assert b == pytest.approx(a, rel=tolerance, abs=1e-6)


def model_of(output: Path, file: str) -> dict[str, Tensor]:
    return load_file(output / "model" / file)


def test_a_sharded_transformer_learns_what_a_whole_one_does(place: Path, tmp_path: Path) -> None:
    by_one(place, tmp_path / "one", "transformer")
    both(run_share, place, tmp_path / "two", "transformer")
    assert_same_log(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
@pytest.mark.parametrize("shard", [True, False])
@pytest.mark.parametrize(
    ("kind", "file"),
    [
        ("tokenizer", "tokenizer.safetensors"),
        ("transformer", "transformer/model.safetensors"),
    ],
)
def test_two_processes_are_as_one(
    place: Path, tmp_path: Path, kind: str, file: str, *, shard: bool
) -> None:
    by_one(place, tmp_path / "one", kind)
    assert "UserWarning" not in by_two(place, tmp_path / "two", kind, shard=shard)
    assert_same_log(tmp_path / "one", tmp_path / "two")
    one, two = (model_of(tmp_path / name, file) for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert torch.allclose(two[name], value, rtol=1e-3, atol=1e-5), name

    by_two(place, tmp_path / "passed-on", kind, stop_after=3, shard=shard)
    by_one(place, tmp_path / "passed-on", kind)
    assert_same_log(tmp_path / "one", tmp_path / "passed-on")


@pytest.mark.slow
def test_two_processes_continue_ones_checkpoint_with_a_critic(place: Path, tmp_path: Path) -> None:
    """After a critic's first step its output bias hangs on rounding: the hinges pull it evenly."""
    by_one(place, tmp_path / "one", "adversarial")
    task = task_of("adversarial", place)
    losses(task, run_config(tmp_path / "two", steps=STEPS), stop_after=2)
    by_two(place, tmp_path / "two", "adversarial")
    first, second = (read_log(tmp_path / name / LOG_NAME) for name in ("one", "two"))
    assert "discriminator" in first[2]
    for a, b in zip(first[:3], second[:3], strict=True):
        assert b == pytest.approx(a, rel=1e-5, abs=1e-6)
    for a, b in zip(first[3:], second[3:], strict=True):
        assert b == pytest.approx(a, rel=1e-3, abs=3e-3)


@pytest.mark.slow
def test_two_processes_continue_with_muon(place: Path, tmp_path: Path) -> None:
    """It rounds a matrix to bfloat16 before its step, so that two are one only nearly."""
    by_one(place, tmp_path / "one", "muon")
    by_two(place, tmp_path / "two", "muon")
    by_two(place, tmp_path / "cut", "muon", stop_after=3)
    by_two(place, tmp_path / "cut", "muon")
    one, two = (read_log(tmp_path / name / LOG_NAME) for name in ("one", "two"))
    assert [line["loss"] for line in two] == pytest.approx([line["loss"] for line in one], rel=1e-4)
    assert read_log(tmp_path / "cut" / LOG_NAME) == two
    whole, cut = (
        model_of(tmp_path / name, "transformer/model.safetensors") for name in ("two", "cut")
    )
    assert all(torch.equal(cut[name], value) for name, value in whole.items())


def test_gradients_of_some_count_as_zeros_of_the_others_and_values_come_together(
    tmp_path: Path,
) -> None:
    both(write_averages, tmp_path)
    for rank in range(2):
        averages, values = json.loads((tmp_path / f"{rank}.json").read_text())
        assert averages == [4, 2, None]
        assert values == [["a", "b"], [0, 1], []]


@pytest.mark.slow
def test_others_wait_for_the_first_ones_samples_longer_than_in_a_step(tmp_path: Path) -> None:
    both(run_slowly, tmp_path)
    for rank in range(2):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == [1, 2, 3, 4]


def test_shares_are_all_of_the_work() -> None:
    for processes in (1, 2, 3):
        parts = [Share(rank=rank, processes=processes).of(7) for rank in range(processes)]
        assert sorted(number for part in parts for number in part) == list(range(7))


def test_alone_everything_is_whole() -> None:
    assert Share.of_this_process() == Share(rank=0, processes=1)
    network = nn.Linear(2, 2)
    assert build_network(network, tuple, CPU, shard=True) is network
    assert not any(isinstance(weight, DTensor) for weight in network.parameters())
    value = torch.ones(3, requires_grad=True)
    assert averaged(value) is value
    assert whole(value) is value
    assert summed(value).tolist() == [1, 1, 1]
    assert not summed(value).requires_grad

"""What large runs hold in memory: as counted, and as measured of two processes with one network."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from istar.checkpoint import tensor_files
from istar.checkpoint.names import released_transformer_name
from istar.checkpoint.read import on_meta
from istar.models.manifest import read_manifest
from istar.training.average import MovingAverage
from istar.training.checkpoints import Checkpoints
from istar.training.config import TransformerTraining
from istar.training.memory import memory_of
from istar.training.optimizers import build_optimizers
from istar.training.run_file import read_config
from istar.training.transformer import TransformerTask
from istar.transformer.config import TransformerConfig
from istar.transformer.model import Transformer
from processes import TORCHRUN, started
from small_training import CPU, run_config, write_manifest

SCRIPT = Path(__file__).with_name("shared_memory.py")
LARGE = {"width": 512, "depth": 20, "heads": 8, "key_value_heads": 4, "head_size": 64}
LARGE_MLP = {"mlp_width": 2048}


def write_settings(place: Path, directory: Path, *, large: bool, start: Path | None) -> Path:
    """A run's file, and the manifest of its model."""
    directory.mkdir()
    manifest = json.loads((place / "istar.json").read_text())
    if large:
        manifest["transformer"]["sizes"] |= LARGE | LARGE_MLP
    (directory / "istar.json").write_text(json.dumps(manifest))
    text = f'''
        model = "istar.json"
        tokenizer = "{place}/start.safetensors"
        {f'start = "{start}"' if start else ""}
        run = {{output = "out", steps = 1}}
        data = {{sets = ["{place}/latents/clips"], mix = [{{seconds = 1}}], rows = [192]}}
        text = {{layers = 1, heads = 2, mlp_width = 32}}
        validation = {{sets = ["{place}/latents/long"], rows = 5}}
    '''
    (directory / "run.toml").write_text(text)
    return directory / "run.toml"


@pytest.fixture(scope="module")
def results(place: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any]]:
    """What two processes measured, and where."""
    if sys.platform != "linux":
        pytest.skip("the peak of memory is read from /proc")
    directory = tmp_path_factory.mktemp("memory")
    start = directory / "start.safetensors"
    small, new, read = (
        write_settings(place, directory / name, large=name != "small", start=given)
        for name, given in (("small", None), ("new", None), ("read", start))
    )
    sizes = read_manifest(read.with_name("istar.json")).transformer_config
    assert sizes is not None
    torch.manual_seed(0)
    save_file(
        {
            released_transformer_name(name, None): torch.rand(weight.shape)
            for name, weight in on_meta(partial(Transformer, sizes)).named_parameters()
        },
        start,
    )
    command = [*TORCHRUN, str(SCRIPT), *map(str, (small, read, new, directory))]
    with started(command) as process:
        _, err = process.communicate(timeout=500)
    assert process.returncode == 0, err.decode()
    return directory, [json.loads((directory / f"{rank}.json").read_text()) for rank in range(2)]


def test_its_settings_are_read(tmp_path: Path) -> None:
    """The slow tests below need them."""
    place = write_manifest(tmp_path / "place").parent
    settings = write_settings(place, tmp_path / "run", large=True, start=tmp_path / "start")
    config = read_config(settings, TransformerTraining)
    assert config.validation.rows % 2  # one process measures a row that the other does not have
    assert config.start == tmp_path / "start"


@pytest.mark.parametrize("muon", [False, True])
def test_memory_is_counted_as_it_is(tmp_path: Path, muon: bool) -> None:
    network = nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 3), nn.Linear(3, 2))
    network[2].requires_grad_(False)
    run = run_config(Path("out"), optimizer="muon" if muon else "adamw")
    hidden = [network[1].weight] if muon else []
    optimizers = build_optimizers(network, hidden, run)
    network(torch.ones(1, 5)).sum().backward()
    for optimizer in optimizers:
        optimizer.step()
    counted = memory_of(network, processes=1, hidden=hidden)
    assert counted.weights == counted.average == counted.whole == 4 * (42 + 24 + 8)
    assert counted.gradients == sum(
        w.grad.nbytes for w in network.parameters() if w.grad is not None
    )
    assert counted.optimizer == sum(
        value.nbytes
        for optimizer in optimizers
        for state in optimizer.state.values()
        for name, value in state.items()
        if name != "step"
    )
    average = MovingAverage(network, 0.9)
    path = Checkpoints(tmp_path, keep=1).save(1, network, optimizers, average)
    stored = FileSystemReader(path).read_metadata().state_dict_metadata
    sizes = [one.size for one in stored.values() if isinstance(one, TensorStorageMetadata)]
    assert counted.checkpoint == 4 * sum(size.numel() for size in sizes if size)
    assert counted.largest == 4 * 35
    assert counted.gathered == 0
    of_two = memory_of(network, processes=2, blocks=[network[0], network[1]])
    assert of_two.weights == 4 * (4 * 5 + 4 + 2 * 7 + 2 + 3 + 1)  # rows, rounded up
    assert of_two.gathered == 4 * (42 + 8)


def test_eight_processes_share_the_released_transformer() -> None:
    transformer = on_meta(partial(Transformer, TransformerConfig()))
    whole = sum(weight.numel() for weight in transformer.parameters()) * 4
    shared = memory_of(transformer, processes=8, blocks=list(transformer.blocks))
    assert shared.whole == whole
    for part, copies in (("weights", 1), ("average", 1), ("gradients", 1), ("optimizer", 2)):
        assert whole * copies <= 8 * getattr(shared, part) < 1.0001 * whole * copies
    assert 8 * shared.largest < 0.1 * whole
    assert shared.step < 24e9


@pytest.mark.slow
def test_every_process_holds_and_saves_its_part(results: tuple[Path, list[Any]]) -> None:
    directory, found = results
    config = read_config(directory / "small" / "run.toml", TransformerTraining)
    network = TransformerTask(config).network
    counted = memory_of(network, processes=2)
    assert counted.weights < counted.whole
    assert found[0]["weights"] == counted.weights  # the first has the rows that are left over
    assert found[0]["weights"] + found[1]["weights"] == counted.whole
    parts = [file.stat().st_size for file in directory.glob("checkpoints/*/*.distcp")]
    assert len(parts) == 2
    assert max(parts) < 1.5 * min(parts)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["new", "read"])
def test_two_processes_hold_one_network(results: tuple[Path, list[Any]], kind: str) -> None:
    directory, found = results
    model = (directory / "start.safetensors").stat().st_size
    assert model > 250e6
    grown = [one[kind] for one in found]
    mapped = len(grown) * tensor_files._MAPPED_BYTES if kind == "read" else 0
    assert min(grown) > 0.45 * model  # a half is there
    assert sum(grown) < 1.3 * model + mapped < 1.8 * model


@pytest.mark.slow
def test_only_the_first_process_gathers_what_is_exported(
    results: tuple[Path, list[Any]],
) -> None:
    directory, (first, second) = results
    model = (directory / "start.safetensors").stat().st_size
    assert second["gathered"] < 0.2 * model  # a weight, and what the processes send
    assert second["sums"] == {}
    wanted = load_file(directory / "start.safetensors")
    sums = {
        name.removeprefix("transformer."): value
        for name, value in first["sums"].items()
        if name.startswith("transformer.")
    }
    assert len(sums) == len(wanted)
    for name, value in sums.items():
        total = float(wanted[released_transformer_name(name, None)].double().sum())
        assert value == pytest.approx(total, rel=1e-12)


@pytest.mark.slow
def test_validation_is_the_same_with_two_processes(results: tuple[Path, list[Any]]) -> None:
    directory, found = results
    config = read_config(directory / "small" / "run.toml", TransformerTraining)
    task = TransformerTask(replace(config, run=replace(config.run, shard=False)))
    assert task.validation is not None
    with torch.no_grad():
        alone = task.validation.measures(CPU)
    assert alone.keys() == {
        "validation_loss",
        "validation_right",
        "validation_right_0",
        "validation_right_1",
    }
    assert found[0]["validation"] == found[1]["validation"] == alone

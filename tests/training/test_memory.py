"""What large runs hold in memory: two processes share one network, and no more than one."""

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

from istar.checkpoint.names import released_transformer_name
from istar.checkpoint.read import on_meta
from istar.models.manifest import read_manifest
from istar.training.config import TransformerTraining
from istar.training.run_file import read_config
from istar.training.transformer import TransformerTask
from istar.transformer.model import Transformer
from processes import TORCHRUN, started
from small_training import CPU

pytestmark = pytest.mark.slow

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
        validation = {{sets = ["{place}/latents/long"], tokens = 960}}
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


@pytest.mark.parametrize("kind", ["new", "read"])
def test_two_processes_hold_one_network(results: tuple[Path, list[Any]], kind: str) -> None:
    directory, found = results
    model = (directory / "start.safetensors").stat().st_size
    assert model > 250e6
    grown = [one[kind] for one in found]
    assert min(grown) > 0.45 * model  # a half is there
    assert sum(grown) < 1.3 * model


def test_only_the_first_process_gathers_what_is_exported(
    results: tuple[Path, list[Any]],
) -> None:
    directory, (first, second) = results
    model = (directory / "start.safetensors").stat().st_size
    assert second["gathered"] < 0.1 * model
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

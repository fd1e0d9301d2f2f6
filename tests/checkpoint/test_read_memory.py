"""How much memory the host needs while weights are loaded: measured small, counted large."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from math import prod
from pathlib import Path
from textwrap import dedent

import pytest
import torch
from safetensors.torch import save

from istar.checkpoint.infer import infer_transformer_config
from istar.checkpoint.names import released_transformer_name, transformer_naming
from istar.checkpoint.read import on_meta, transformer_dtype
from istar.transformer.config import TransformerConfig
from istar.transformer.model import Transformer

MEGABYTE, GIGABYTE = 2**20, 10**9
CODE = 16 * MEGABYTE  # what the libraries map when they first do something
DOCUMENTED = Path(__file__).parents[2] / "docs" / "checkpoints.md"
LISTED = Path(__file__).parents[1] / "data" / "transformer_keys.txt"

linux_only = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="reads Linux's peak counter"
)

SMALL = TransformerConfig(
    width=1024, depth=4, heads=8, key_value_heads=2, head_size=128, mlp_width=4096,
    text_channels=16, text_positions=8,
)  # fmt: skip


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A transformer of 250 MB in four files of float32, a block in each."""
    place = tmp_path_factory.mktemp("memory") / "transformer"
    place.mkdir()
    shapes = {
        released_transformer_name(name, 1): tensor.shape
        for name, tensor in on_meta(lambda: Transformer(SMALL)).state_dict().items()
    }
    for block in range(SMALL.depth):  # what belongs to no block goes into the first file
        own = {
            name: torch.ones(shape)
            for name, shape in shapes.items()
            if name.startswith(f"block_chunks.{block}.")
            or (block == 0 and not name.startswith("block_chunks"))
        }
        (place / f"model-{block}.safetensors").write_bytes(save(own))
    return place


def peak_of(code: str, place: Path) -> int:
    """Bytes by which a process's peak, mapped pages of files included, grows under some code.

    glibc keeps freed blocks below 32 MiB for later, more or fewer of them as its heap happens to
    lie. The released tensors are larger than that: ours go back at once like them.
    """
    script = f"""
import sys
from pathlib import Path
import torch
from istar.transformer.model import Transformer
from istar.checkpoint.read import *

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024

place = Path(sys.argv[1])
before = peak()
{dedent(code)}
print(peak() - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(place)],
        env=os.environ | {"MALLOC_MMAP_THRESHOLD_": str(128 * 1024)},
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


def sizes(place: Path) -> list[int]:
    return [file.stat().st_size for file in place.glob("*.safetensors")]


@pytest.mark.slow
@linux_only
def test_loading_onto_the_cpu_holds_the_model_and_one_shard(shards: Path) -> None:
    peak = peak_of("model = load_transformer(place, dtype=torch.bfloat16)", shards)
    model, shard = sum(sizes(shards)) / 2, max(sizes(shards))
    tensor = 4 * SMALL.width * SMALL.mlp_width
    assert 4 * 55 * MEGABYTE < sum(sizes(shards)) < 4 * 70 * MEGABYTE
    assert 0.9 * model < peak <= model + shard + 2 * tensor + CODE


@pytest.mark.slow
@linux_only
def test_loading_in_8_bits_holds_no_more_weights_in_full_than_one(shards: Path) -> None:
    peak = peak_of(
        """
        from istar.transformer.eight_bit import quantized
        quantized(torch.ones(8, 8), "int8")
        before = peak()
        model = load_transformer(place, eight_bit="int8")
        """,
        shards,
    )
    model, shard = sum(sizes(shards)) / 4, max(sizes(shards))
    tensor = 4 * SMALL.width * SMALL.mlp_width
    allowed = model + shard + 5 * tensor + CODE
    assert 0.9 * model < peak <= allowed
    assert allowed < sum(sizes(shards))


@linux_only
def test_loading_onto_another_device_holds_one_shard_and_one_tensor(shards: Path) -> None:
    """Each value is dropped where a device would have taken it, as `load_transformer` does."""
    peak = peak_of(
        """
        files = SafetensorFiles(place)
        naming = transformer_naming(files.shapes)
        config = infer_transformer_config(files.shapes, naming, place)
        module = on_meta(lambda: Transformer(config))
        parameters = read_parameters(module, files, naming, dtype_of=lambda _: torch.bfloat16)
        assert sum(value.numel() for _, value in parameters) > 60_000_000
        """,
        shards,
    )
    shard, tensor = max(sizes(shards)), 4 * SMALL.width * SMALL.mlp_width
    allowed = shard + 2 * tensor + CODE
    assert peak <= allowed
    # It would show if values or files were kept.
    assert allowed < 0.65 * (shard + sum(sizes(shards)) / 2) < 0.65 * sum(sizes(shards))


def released() -> dict[str, tuple[int, ...]]:
    """Every tensor of the released transformer."""
    lines = (line.split(" ", 1) for line in LISTED.read_text(encoding="utf-8").splitlines())
    return {name: tuple(map(int, re.findall(r"\d+", shape))) for name, shape in lines}


def test_the_full_size_fits_by_accounting() -> None:
    """The figures of docs/checkpoints.md."""
    shapes = released()
    naming = transformer_naming(shapes)
    config = infer_transformer_config(shapes, naming, LISTED)
    stored = {name: 4 * prod(shape) for name, shape in shapes.items()}
    total, largest = sum(stored.values()), max(stored.values())
    assert total == pytest.approx(35.07 * GIGABYTE, rel=1e-3)
    assert largest == 4 * config.width * config.mlp_width == 268_435_456
    # Files are filled until the next tensor does not fit. Were the limit so high that five files
    # but the last tensor of each held everything, there would be no sixth.
    shard = total / 5 + largest
    assert shard == pytest.approx(7.28 * GIGABYTE, rel=1e-3)
    # As measured above: the file's pages, and a tensor or two on their way.
    assert shard + 2 * largest < 8 * GIGABYTE
    parameters = dict(on_meta(lambda: Transformer(config)).named_parameters())
    model = sum(
        parameter.numel() * transformer_dtype(name, torch.bfloat16).itemsize
        for name, parameter in parameters.items()
    )
    assert model == pytest.approx(17.54 * GIGABYTE, rel=1e-3)
    table = DOCUMENTED.read_text(encoding="utf-8")
    for size in (shard, 2 * largest):
        assert f"| {size / GIGABYTE:.2f} GB |" in table
    for size in (shard + 2 * largest, model, model + shard + 2 * largest):
        assert f"{size / GIGABYTE:.1f} GB" in table
    assert f"{(total + shard + 2 * largest) / GIGABYTE:.1f} GB in float32" in table
    numbers = sum(parameter.numel() for parameter in parameters.values())
    assert sum(map(prod, shapes.values())) == numbers + config.width

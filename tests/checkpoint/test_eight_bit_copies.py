"""Weights in 8 bits, read from floats and from copies."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from istar.checkpoint.convert import convert
from istar.checkpoint.files import INDEX_NAME
from istar.checkpoint.names import EIGHT_BIT_SCALES
from istar.checkpoint.read import load_transformer
from istar.errors import CheckpointError
from istar.model_spec import EightBitType
from istar.models.find import ModelFiles
from istar.models.manifest import MANIFEST_NAME, read_manifest
from istar.transformer.eight_bit import TYPES, is_eight_bit
from istar.transformer.model import Transformer

WEIGHT = "blocks.1.mlp.up.weight"


@pytest.fixture(scope="module")
def original(checkpoint: Path) -> ModelFiles:
    return ModelFiles.below(checkpoint, read_manifest(checkpoint / MANIFEST_NAME))


@pytest.fixture(scope="module")
def copies(
    original: ModelFiles, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[EightBitType, Path]:
    """The transformers of copies; in many files, between which weights and scales are parted."""
    place = tmp_path_factory.mktemp("copies")
    spec = read_manifest(checkpoint / MANIFEST_NAME)
    return {
        kind: convert(spec, original, place / kind, kind, shard_bytes=20_000) / "transformer"
        for kind in TYPES
    }


def tensors(transformer: Transformer) -> dict[str, Tensor]:
    """All plain tensors, the parts of 8-bit weights among them."""
    found = {}
    for name, parameter in transformer.named_parameters():
        if is_eight_bit(name):
            assert parameter.dtype == transformer.dtype
            found |= {f"{name}.{part}": getattr(parameter, part) for part in ("qdata", "scale")}
        else:
            found[name] = parameter.data
    return found


@pytest.mark.parametrize("kind", list(TYPES))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_copy_is_what_the_original_becomes(
    kind: EightBitType, dtype: torch.dtype, original: ModelFiles, copies: dict[EightBitType, Path]
) -> None:
    first = tensors(load_transformer(original.transformer, dtype=dtype, eight_bit=kind))
    second = tensors(load_transformer(copies[kind], dtype=dtype, eight_bit=kind))
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert tensor.dtype == second[name].dtype, name
        assert torch.equal(tensor.float(), second[name].float()), name
    # Everything else is as without 8 bits.
    plain = load_transformer(original.transformer, dtype=dtype)
    others = {n: p.data for n, p in plain.named_parameters() if not is_eight_bit(n)}
    assert all(torch.equal(first[name], other) for name, other in others.items())
    assert {first[name].dtype for name in others} <= {dtype, torch.float32}


def test_a_copy_is_a_quarter_and_says_what_it_is(
    copies: dict[EightBitType, Path], original: ModelFiles
) -> None:
    index = json.loads((copies["int8"] / INDEX_NAME).read_text(encoding="utf-8"))["weight_map"]
    scales = WEIGHT + EIGHT_BIT_SCALES
    assert {WEIGHT, scales} < set(index)
    parted = [n for n in index if is_eight_bit(n) and index.get(n + EIGHT_BIT_SCALES) != index[n]]
    assert parted
    for kind, place in copies.items():
        assert read_manifest(place.parent / MANIFEST_NAME).dtype == kind
        own = {n: t for file in place.glob("*.safetensors") for n, t in load_file(file).items()}
        assert own[WEIGHT].dtype == TYPES[kind]
        assert (own[scales].dtype, own[scales].shape) == (torch.float32, (len(own[WEIGHT]), 1))
        blocks = sum(t.nbytes for n, t in own.items() if n.startswith("blocks."))
        floats = load_transformer(original.transformer).blocks.parameters()
        assert blocks < 0.3 * sum(p.nbytes for p in floats)


@pytest.mark.parametrize("asked", [None, "fp8"])
def test_a_copy_serves_nothing_else(
    asked: EightBitType | None, copies: dict[EightBitType, Path]
) -> None:
    with pytest.raises(CheckpointError, match="holds int8 weights") as caught:
        load_transformer(copies["int8"], dtype=torch.bfloat16, eight_bit=asked)
    assert caught.value.remedies == ("int8",)


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        (WEIGHT + EIGHT_BIT_SCALES, lambda t: None, "missing 1 tensor"),
        (WEIGHT + EIGHT_BIT_SCALES, lambda t: t[:-1].clone(), "expected"),
        (WEIGHT + EIGHT_BIT_SCALES, lambda t: t * float("nan"), "not finite"),
        (WEIGHT + EIGHT_BIT_SCALES, lambda t: t.to(torch.int8), "not floats"),
        (WEIGHT, lambda t: t.to(torch.float32), "holds torch.float32, not torch.float8_e4m3fn"),
        (WEIGHT, lambda t: torch.full_like(t, float("nan")), "not finite"),
        (WEIGHT + EIGHT_BIT_SCALES + "_more", lambda t: torch.ones(1), "unknown 1 tensor"),
    ],
)
def test_what_is_wrong_in_a_copy_is_found(
    name: str, change: object, said: str, copies: dict[EightBitType, Path], tmp_path: Path
) -> None:
    own = {n: t for file in copies["fp8"].glob("*.safetensors") for n, t in load_file(file).items()}
    assert callable(change)
    changed = change(own.pop(name, None))
    save_file(own if changed is None else {**own, name: changed}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=said):
        load_transformer(tmp_path, eight_bit="fp8")

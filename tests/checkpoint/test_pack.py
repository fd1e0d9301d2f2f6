"""Packed checkpoints: half the size, and the same model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError, safe_open

from istar.checkpoint.pack import pack
from istar.errors import CheckpointError, UsageError
from istar.models.manifest import MANIFEST_NAME, hashes_of, read_hashes
from istar.pipeline import InfinityStarPipeline
from istar.request import GenerationRequest


@pytest.fixture(scope="module")
def packed(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack(checkpoint, tmp_path_factory.mktemp("packed") / "small")


def test_a_packed_model_is_the_model_in_half_precision(checkpoint: Path, packed: Path) -> None:
    whole, half = map(InfinityStarPipeline.from_pretrained, (checkpoint, packed))
    for network in ("transformer", "tokenizer"):
        rounded = dict(getattr(half.networks, network).named_parameters())
        for name, value in getattr(whole.networks, network).named_parameters():
            assert torch.equal(value.half().float(), rounded[name])
    text = "a red circle"
    encoders = (whole.networks.text_encoder, half.networks.text_encoder)
    features, rounded_features = (encoder.encode(text).features for encoder in encoders)
    assert torch.allclose(features, rounded_features, atol=0.02)
    assert not torch.equal(features, rounded_features)


@pytest.mark.parametrize(
    ("what", "failure"),
    [("save_file", SafetensorError), ("save_file", OSError)],
)
def test_what_cannot_be_written_leaves_nothing(
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    what: str,
    failure: type[Exception],
) -> None:
    def fail(*_: object) -> None:
        raise failure("no space left")

    monkeypatch.setattr(f"istar.checkpoint.write.{what}", fail)
    target = tmp_path / "small"
    with pytest.raises(CheckpointError, match=f"^{target} cannot be written: no space left$"):
        pack(checkpoint, target)
    assert list(tmp_path.iterdir()) == []


def test_it_generates(packed: Path) -> None:
    pipeline = InfinityStarPipeline.from_pretrained(packed)
    result = pipeline.generate(GenerationRequest(mode="t2i", prompt="a red circle"))
    assert result.frames.shape[0] == 1


def test_its_manifest_has_the_hash_of_every_file(packed: Path) -> None:
    assert read_hashes(packed / MANIFEST_NAME) == hashes_of(packed)
    assert {"tokenizer.safetensors", "transformer/model.safetensors"} <= set(hashes_of(packed))


def test_every_number_takes_two_bytes(packed: Path) -> None:
    for file in packed.rglob("*.safetensors"):
        with safe_open(file, framework="pt") as tensors:
            assert {tensors.get_tensor(name).dtype for name in list(tensors.keys())} == {
                torch.float16
            }


def test_others_may_read_it_as_any_new_file(packed: Path) -> None:
    (packed.parent / "new").touch()
    usual = (packed.parent / "new").stat().st_mode
    assert {path.stat().st_mode for path in packed.rglob("*") if path.is_file()} == {usual}


def test_nothing_is_written_over(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(UsageError, match="exists; give another name"):
        pack(checkpoint, tmp_path / "taken")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]

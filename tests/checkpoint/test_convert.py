"""Converted copies: whole under their name, or not there."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from safetensors import SafetensorError

from istar.checkpoint import convert as module
from istar.checkpoint.convert import convert
from istar.checkpoint.read import load_transformer, load_video_tokenizer
from istar.errors import CheckpointError
from istar.files import working_directory
from istar.model_spec import ModelSpec
from istar.models.find import ModelFiles, converted_directory
from istar.models.manifest import MANIFEST_NAME, hashes_of, read_hashes, read_manifest
from istar.models.released import RELEASED_MODELS
from istar.models.store import remove_model


@pytest.fixture
def spec(checkpoint: Path) -> ModelSpec:
    return read_manifest(checkpoint / MANIFEST_NAME)


@pytest.fixture
def files(checkpoint: Path, spec: ModelSpec) -> ModelFiles:
    return ModelFiles.below(checkpoint, spec)


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def test_a_copy_is_whole_and_what_a_kill_left_is_gone(
    spec: ModelSpec, files: ModelFiles, tmp_path: Path
) -> None:
    target = tmp_path / "models" / "own-bf16"
    left = working_directory(target) / "new" / "transformer"
    left.mkdir(parents=True)
    (left / "model-00001.safetensors").write_bytes(b"half a file")
    for _ in range(2):  # the second replaces the first
        assert convert(spec, files, target, "bf16", shard_bytes=1 << 16) == target
        assert read_hashes(target / MANIFEST_NAME) == hashes_of(target)
        assert len(list((target / "transformer").glob("*.safetensors"))) > 1
        modes = {path.stat().st_mode for path in target.rglob("*") if path.is_file()}
        assert modes == {(target / MANIFEST_NAME).stat().st_mode}
        assert names(target.parent) == {target.name, ".own-bf16.lock"}


def test_a_failure_leaves_the_copy_that_was_there(
    spec: ModelSpec, files: ModelFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "own-bf16"
    convert(spec, files, target, "bf16")
    before = hashes_of(target)

    def refuse(*_: object) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(module, "write_safetensors", refuse)
    with pytest.raises(CheckpointError, match=r"No space left .* free some space"):
        convert(spec, files, target, "bf16")
    assert hashes_of(target) == before
    assert not working_directory(target).exists()


def test_too_little_room_is_said_before_anything_is_written(
    spec: ModelSpec, files: ModelFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, 10_000))
    monkeypatch.setattr(
        module, "write_safetensors", lambda *_: pytest.fail("something was written")
    )
    with pytest.raises(CheckpointError, match="XDG_DATA_HOME"):
        convert(spec, files, tmp_path / "own-bf16", "bf16")


def test_two_at_once_do_not_disturb_each_other(
    spec: ModelSpec, files: ModelFiles, tmp_path: Path
) -> None:
    target = tmp_path / "own-bf16"
    work = working_directory(target)
    work.mkdir()
    (work / "being written").touch()
    with (
        FileLock(work.with_suffix(".lock")),
        pytest.raises(CheckpointError, match="another process"),
    ):
        convert(spec, files, target, "bf16")
    assert names(work) == {"being written"}


def test_removing_a_model_removes_what_a_killed_conversion_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    left = working_directory(converted_directory(RELEASED_MODELS[0], "bf16"))
    left.mkdir(parents=True)
    (left / "half").write_bytes(bytes(1000))
    assert remove_model(RELEASED_MODELS[0]) == 1000
    assert not left.exists()


def test_a_bf16_copy_keeps_the_tokenizer_whole(
    spec: ModelSpec, files: ModelFiles, tmp_path: Path
) -> None:
    directory = convert(spec, files, tmp_path / "copy", "bf16")
    copied = ModelFiles.below(directory, read_manifest(directory / MANIFEST_NAME))
    original = load_video_tokenizer(files.tokenizer).state_dict()
    for name, tensor in load_video_tokenizer(copied.tokenizer).state_dict().items():
        assert torch.equal(tensor, original[name]), name
    rounded = load_transformer(files.transformer, dtype=torch.bfloat16).state_dict()
    for name, tensor in load_transformer(copied.transformer).state_dict().items():
        assert torch.equal(tensor, rounded[name].float()), name

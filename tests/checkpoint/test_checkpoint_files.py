"""Files of a checkpoint that came as something else: one line names the file and what to do."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from istar.checkpoint.files import explained_file_errors, read_table
from istar.errors import CheckpointError
from istar.pipeline import InfinityStarPipeline

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:%064d\nsize 7281234567\n" % 0
WEB_PAGE = b"\xef\xbb\xbf\n <!DOCTYPE html>\n<html><title>Sign in to the network</title></html>"
FILES = (
    "istar.json",
    "videovae.pth",
    "transformer/model.safetensors.index.json",
    "transformer/model-00002-of-00002.safetensors",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "text_encoder/tokenizer_config.json",
    "text_encoder/added_tokens.json",
)
CAME_AS: dict[str, Callable[[bytes], bytes]] = {
    "a git-lfs pointer": lambda content: POINTER,
    "a web page": lambda content: WEB_PAGE,
    "empty": lambda content: b"",
    "fetch it again": lambda content: content[: len(content) // 2],
    "published": lambda content: b"[" * 100_000,
}


@pytest.mark.parametrize("file", FILES)
def test_a_damaged_file_of_any_network_is_named(
    file: str, checkpoint: Path, tmp_path: Path
) -> None:
    shutil.copytree(checkpoint, tmp_path / "model", copy_function=os.symlink)
    place = tmp_path / "model" / file
    content = place.read_bytes()
    for said, damaged in CAME_AS.items():
        place.unlink()
        place.write_bytes(damaged(content))
        with pytest.raises(CheckpointError) as refusal:
            InfinityStarPipeline.from_pretrained(tmp_path / "model", device="cpu")
        message = str(refusal.value)
        assert str(place) in message
        assert said in message
        assert "etch" in message
        assert "\n" not in message


@pytest.mark.parametrize("text", ['\ufeff{"a": 1}', ' {"a": 1}\n'])
def test_a_table_may_begin_with_a_byte_order_mark(text: str, tmp_path: Path) -> None:
    (tmp_path / "table.json").write_text(text, encoding="utf-8")
    assert read_table(tmp_path / "table.json") == {"a": 1}


def test_memory_that_ran_out_is_no_damage(tmp_path: Path) -> None:
    for error in (MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")):
        with pytest.raises(type(error)), explained_file_errors(tmp_path):
            raise error

from __future__ import annotations

from pathlib import Path

import torch

from istar.weights.convert import convert
from istar.weights.load import load_transformer, load_video_tokenizer
from istar.weights.locate import ModelFiles
from istar.weights.manifest import find_models


def test_a_bf16_copy_keeps_the_tokenizer_whole(checkpoint: Path, tmp_path: Path) -> None:
    root, (spec,) = find_models(checkpoint)
    files = ModelFiles.below(root, spec)
    directory = convert(spec, files, tmp_path / "copy", "bf16")
    copy, (own,) = find_models(directory)
    copied = ModelFiles.below(copy, own)
    original = load_video_tokenizer(files.tokenizer).state_dict()
    for name, tensor in load_video_tokenizer(copied.tokenizer).state_dict().items():
        assert torch.equal(tensor, original[name]), name
    transformer = load_transformer(copied.transformer).state_dict()
    rounded = load_transformer(files.transformer, dtype=torch.bfloat16).state_dict()
    for name, tensor in transformer.items():
        assert torch.equal(tensor, rounded[name].float()), name

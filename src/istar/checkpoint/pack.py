"""A checkpoint directory packed for others: half-precision numbers and hashes."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import torch

from istar.checkpoint.read import load_transformer, load_video_tokenizer
from istar.checkpoint.write import save_transformer, save_video_tokenizer
from istar.errors import CheckpointError, MediaError, UsageError
from istar.files import PendingDirectory
from istar.models.find import ModelFiles
from istar.models.manifest import find_models, write_manifest
from istar.text_encoder import TextEncoder


def pack(directory: Path, target: Path) -> Path:
    """Write a checkpoint directory again in float16, with hashes, to give to others.

    Args:
        directory: with an `istar.json`, as a training run writes it.
        target: the directory to make.

    Raises:
        CheckpointError: the checkpoint cannot be loaded, or the target cannot be written.
        UsageError: the target exists.
    """
    if os.path.lexists(target):
        raise UsageError(f"{target} exists; give another name, or remove it first")
    root, (spec, *_) = find_models(directory)
    files = ModelFiles.below(root, spec)
    small = replace(
        spec,
        transformer="transformer",
        tokenizer="tokenizer.safetensors",
        text_encoder="text_encoder",
        dtype=None,
    )
    half = torch.float16
    try:
        with PendingDirectory(target, overwrite=False) as pending:
            work = pending.temporary
            transformer = load_transformer(files.transformer, spec.transformer_config)
            save_transformer(work / small.transformer, transformer, half)
            tokenizer = load_video_tokenizer(files.tokenizer, spec.tokenizer_config)
            save_video_tokenizer(work / small.tokenizer, tokenizer, half)
            text_encoder = TextEncoder.from_directory(files.text_encoder)
            text_encoder.module.to(half)
            text_encoder.save(work / small.text_encoder)
            write_manifest(work, small)
    except (OSError, MediaError) as error:
        cause = error.__cause__ or error  # the name of a temporary directory means nothing
        reason = getattr(cause, "strerror", None) or cause
        raise CheckpointError(f"{target} cannot be written: {reason}") from error
    return pending.target

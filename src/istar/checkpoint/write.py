"""Networks to files, with the released checkpoints' names: what `istar.checkpoint.read` reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from istar.checkpoint.names import released_tokenizer_name, released_transformer_name
from istar.files import PendingFile, writing_failed
from istar.transformer.model import Transformer
from istar.video_tokenizer.model import VideoTokenizer


def save_video_tokenizer(
    path: Path, tokenizer: VideoTokenizer, dtype: torch.dtype | None = None
) -> None:
    """Write a tokenizer: safetensors, or the released pickle `{"vae": tensors}` for `.pth`.

    Raises:
        MediaError: the file cannot be written.
    """
    tensors = {
        released_tokenizer_name(name): value for name, value in _stored(tokenizer, dtype).items()
    }
    if path.suffix == ".safetensors":
        save_tensors(path, tensors)
        return
    with PendingFile(path, overwrite=True) as pending:
        try:
            torch.save({"vae": tensors}, pending.temporary)
        except (OSError, RuntimeError) as error:
            raise writing_failed(path, error) from error


def save_transformer(
    directory: Path, transformer: Transformer, dtype: torch.dtype | None = None
) -> None:
    """Write a transformer as one safetensors file in a directory.

    Raises:
        MediaError: the file cannot be written.
    """
    tensors = {
        released_transformer_name(name, None): value
        for name, value in _stored(transformer, dtype).items()
    }
    directory.mkdir(parents=True, exist_ok=True)
    save_tensors(directory / "model.safetensors", tensors)


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write one safetensors file, replacing an existing one.

    Raises:
        MediaError: it cannot be written.
    """
    with PendingFile(path, overwrite=True) as pending:
        try:
            write_safetensors(pending.temporary, tensors)
        except (OSError, SafetensorError) as error:
            raise writing_failed(path, error) from error


def write_safetensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write one safetensors file that whoever may read other new files may read.

    The library by itself lets nobody but its owner read it.
    """
    path.touch()
    usual = path.stat().st_mode
    save_file(dict(tensors), path)
    path.chmod(usual)


def _stored(module: nn.Module, dtype: torch.dtype | None) -> dict[str, Tensor]:
    """A module's parameters on the CPU, in `dtype` or their own."""
    return {
        name: parameter.detach().to("cpu", dtype or parameter.dtype).contiguous()
        for name, parameter in module.named_parameters()
    }

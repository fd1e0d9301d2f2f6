"""Networks to files, with the released checkpoints' names: what `istar.weights.load` reads."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from istar.output_files import PendingFile
from istar.transformer.model import Transformer
from istar.video_tokenizer.model import VideoTokenizer
from istar.weights.keys import released_tokenizer_name, released_transformer_name


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
    with PendingFile(path, overwrite=True) as pending:
        if path.suffix == ".safetensors":
            save_file(tensors, pending.temporary)
        else:
            torch.save({"vae": tensors}, pending.temporary)


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
    with PendingFile(directory / "model.safetensors", overwrite=True) as pending:
        save_file(tensors, pending.temporary)


def _stored(module: nn.Module, dtype: torch.dtype | None) -> dict[str, Tensor]:
    """A module's parameters on the CPU, in `dtype` or their own."""
    return {
        name: parameter.detach().to("cpu", dtype or parameter.dtype).contiguous()
        for name, parameter in module.named_parameters()
    }

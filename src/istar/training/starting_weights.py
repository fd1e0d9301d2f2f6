"""The weights with which a transformer's training starts, one at a time.

They are read from files, or are random numbers: each weight has a seed of its own, made of the
run's seed and its name, so that it does not depend on what else is initialized, where, or by whom.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from istar.checkpoint.encoder_files import check_text_encoder
from istar.checkpoint.names import Naming, transformer_naming
from istar.checkpoint.read import read_parameters
from istar.checkpoint.tensor_files import SafetensorFiles
from istar.text_encoder import TextEncoder
from istar.training.distributed import shared_weights
from istar.training.seeds import seed_of
from istar.transformer.model import Transformer

_SPREAD = 0.02


def read_transformer(transformer: Transformer, path: Path) -> Iterator[tuple[str, Tensor]]:
    """A transformer's weights out of a file or a directory, float32.

    Args:
        transformer: has the names and shapes.
        path: as `load_transformer` takes it.

    Raises:
        CheckpointError: as `load_transformer`.
    """
    files = SafetensorFiles(path)
    naming = transformer_naming(files.shapes)
    return read_parameters(transformer, files, naming, dtype_of=lambda _: torch.float32)


def read_text_encoder(encoder: TextEncoder, path: Path) -> Iterator[tuple[str, Tensor]]:
    """A text encoder's weights out of a directory, float32, without a decoder that may be there.

    Args:
        encoder: has the names and shapes.
        path: as `TextEncoder.from_directory` takes it.

    Raises:
        CheckpointError: as `read_parameters`.
    """
    _, weights = check_text_encoder(path)
    files = SafetensorFiles(weights)
    # Modules share the embedding, and a file has it by any of its names.
    names = {
        first: name
        for name, first in shared_weights(encoder.module).items()
        if name in files.shapes and first not in files.shapes
    }

    def name_in_file(name: str) -> str:
        return names.get(name, name)

    naming = Naming(name_in_file=name_in_file, is_unused=lambda _: True)
    return read_parameters(encoder.module, files, naming, dtype_of=lambda _: torch.float32)


def new_transformer(transformer: Transformer, seed: int) -> Iterator[tuple[str, Tensor]]:
    """Random weights: normal with a spread of 0.02, smaller where a block adds to the stream.

    Gains begin at 1, biases at 0.
    """
    adding = _SPREAD / (2 * len(transformer.blocks)) ** 0.5
    for name, parameter in transformer.named_parameters():
        adds = name.endswith(("output.weight", "down.weight"))
        gain = 0.0 if name.endswith("bias") else 1.0
        if parameter.ndim < 2:
            yield name, torch.full(parameter.shape, gain)
        else:
            yield name, _normal(name, parameter, adding if adds else _SPREAD, seed)


def new_text_encoder(encoder: TextEncoder, seed: int) -> Iterator[tuple[str, Tensor]]:
    """Random weights of a new text encoder, as T5's; gains begin at 1."""
    for name, parameter in encoder.module.named_parameters():
        if parameter.ndim < 2:
            yield name, torch.ones(parameter.shape)
        else:
            yield name, _normal(name, parameter, encoder.starting_spread(name), seed)


def _normal(name: str, parameter: Tensor, spread: float, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed_of(seed, "weights", name))
    return torch.empty(parameter.shape).normal_(std=spread, generator=generator)

"""The files of a text encoder, looked at without loading it."""

from __future__ import annotations

from math import prod
from pathlib import Path

from istar.checkpoint.files import (
    INDEX_NAME,
    look_at,
    open_safetensors,
    read_table,
    safetensor_files,
)
from istar.errors import CheckpointError

_FAMILY = ("t5", "mt5", "umt5")
_WEIGHTS = "model.safetensors"
_VOCABULARIES = ("tokenizer.json", "spiece.model")
_BYTE_LEVEL = "ByT5Tokenizer"  # needs no vocabulary
_SETTINGS = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
)


def check_text_encoder(path: Path) -> tuple[Path, Path]:
    """Look at the files of a text encoder without loading it.

    Returns:
        the file of its vocabulary; that of its weights, or the directory of several.

    Raises:
        CheckpointError: one is missing or damaged, or the model is not of the T5 family.
    """
    _check_settings(path)
    return _vocabulary(path), _weights(path)


def encoder_channels(path: Path) -> int:
    """Features of a text token, by the settings of a directory.

    Raises:
        CheckpointError: they are damaged.
    """
    channels = read_table(path / "config.json").get("d_model")
    if not isinstance(channels, int):
        raise CheckpointError(f"{path / 'config.json'} does not say d_model")
    return channels


def encoder_bytes(path: Path, *, half: bool) -> int:
    """What the encoder of a directory takes in memory, by the headers of its files.

    Args:
        path: as `TextEncoder.from_directory` takes it.
        half: in float16, in which transformers keeps the last layers of the MLPs in float32.

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    total = 0
    for file in safetensor_files(check_text_encoder(path)[1]):
        with open_safetensors(file) as tensors:
            for name in tensors.keys():  # noqa: SIM118 - it is no mapping
                if name.startswith(("encoder.block", "encoder.final", "shared.")):
                    size = 2 if half and not name.endswith(".wo.weight") else 4
                    total += size * prod(tensors.get_slice(name).get_shape())
    return total


def _check_settings(path: Path) -> None:
    """Refuse a directory whose settings are damaged, or are another kind of model's.

    Raises:
        CheckpointError: one is damaged, or no file is there.
    """
    family = read_table(path / "config.json").get("model_type")
    if not isinstance(family, str):
        raise CheckpointError(f"{path / 'config.json'} describes no text encoder")
    if family not in _FAMILY:
        raise CheckpointError(f"{path}: the text encoder must be of the T5 family, not {family}")
    for name in _SETTINGS:
        if (path / name).is_file():
            read_table(path / name)


def _vocabulary(path: Path) -> Path:
    """The file that transformers makes the tokenizer of; without one it would make up an empty one.

    Raises:
        CheckpointError: no vocabulary is there.
    """
    for name in _VOCABULARIES:
        if (path / name).is_file():
            look_at(path / name)
            return path / name
    settings = path / "tokenizer_config.json"
    if settings.is_file() and read_table(settings).get("tokenizer_class") == _BYTE_LEVEL:
        return settings
    raise CheckpointError(f"{path}: the tokenizer is missing (none of {', '.join(_VOCABULARIES)})")


def _weights(path: Path) -> Path:
    """The file of weights, or the directory of several, each of which can be opened.

    Raises:
        CheckpointError: one is missing or damaged.
    """
    single = path / _WEIGHTS
    weights = path if (path / INDEX_NAME).is_file() and not single.is_file() else single
    for file in safetensor_files(weights):
        with open_safetensors(file):
            pass
    return weights

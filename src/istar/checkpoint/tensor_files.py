"""The tensors of a checkpoint on disk: their names and shapes, and each of them when it is read."""

from __future__ import annotations

import pickle
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from istar.checkpoint.files import (
    explained_file_errors,
    look_at,
    open_safetensors,
    safetensor_files,
)
from istar.checkpoint.names import EIGHT_BIT_SCALES
from istar.errors import CheckpointError
from istar.model_spec import EightBitType

_MAPPED_BYTES = 64 * 2**20
"""After so many a file is mapped anew: what was read of it stays in memory with its mapping."""

_ZIP = b"PK\x03\x04"
_EIGHT_BIT_NAMES: dict[str, EightBitType] = {"I8": "int8", "F8_E4M3": "fp8"}

Shapes = dict[str, tuple[int, ...]]


class TensorFiles(Protocol):
    """The tensors of a checkpoint on disk, by released name, read a file at a time.

    Attributes:
        path: the name in messages.
        shapes: every tensor's shape.
        eight_bit: the type of its 8-bit weights; None if it has none.
    """

    path: Path
    shapes: Shapes
    eight_bit: EightBitType | None

    def tensors(self, names: Container[str]) -> Iterator[tuple[str, Tensor]]:
        """The tensors of these names, on the CPU, in the dtype they are stored in."""


class SafetensorFiles:
    """One safetensors file, or a directory of them with or without an index."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._names: dict[Path, list[str]] = {}
        self.shapes: Shapes = {}
        types: dict[str, str] = {}
        for file in safetensor_files(path):
            with open_safetensors(file) as tensors:
                self._names[file] = list(tensors.keys())
                for name in self._names[file]:
                    if name in self.shapes:
                        raise CheckpointError(f"{path}: tensor {name} is in two files")
                    stored = tensors.get_slice(name)
                    self.shapes[name] = tuple(stored.get_shape())
                    types[name] = stored.get_dtype()
        scaled = (types[name] for name in types if name + EIGHT_BIT_SCALES in types)
        self.eight_bit = _EIGHT_BIT_NAMES.get(next(scaled, ""))

    def tensors(self, names: Container[str]) -> Iterator[tuple[str, Tensor]]:
        """The tensors of these names, on the CPU, in the dtype they are stored in."""
        for file, held in self._names.items():
            wanted = [name for name in held if name in names]
            while wanted:
                read = 0
                # Older safetensors put tensors on torch's default device.
                with open_safetensors(file) as tensors:
                    while wanted and read < _MAPPED_BYTES:
                        name = wanted.pop(0)
                        with explained_file_errors(file), torch.device("cpu"):
                            tensor = tensors.get_tensor(name)
                        read += tensor.nbytes
                        yield name, tensor


class PickledTokenizer:
    """The released tokenizer file: a torch pickle `{"vae": state_dict}`, tensors only.

    Any code in it is refused and not run.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        look_at(path)
        with explained_file_errors(path):
            with path.open("rb") as file:
                is_archive = file.read(len(_ZIP)) == _ZIP
            try:
                # Files from before torch 1.6 are no archives and cannot be mapped.
                content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_archive)
            except pickle.UnpicklingError as error:
                raise CheckpointError(
                    f"{path} holds something other than tensors; it was refused and nothing in it "
                    "was run; fetch it again from where it was published"
                ) from error
        state = content.get("vae") if isinstance(content, dict) else None
        if not isinstance(state, dict) or not all(
            isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()
        ):
            raise CheckpointError(f'{path} does not hold {{"vae": tensors by name}}')
        self._state = state
        self.eight_bit: EightBitType | None = None
        self.shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}

    def tensors(self, names: Container[str]) -> Iterator[tuple[str, Tensor]]:
        """The tensors of these names, on the CPU, in the dtype they are stored in."""
        yield from ((name, tensor) for name, tensor in self._state.items() if name in names)


def tokenizer_files(path: Path) -> TensorFiles:
    """The tensors of a video tokenizer: safetensors, or the released pickle.

    Raises:
        CheckpointError: unreadable, or a pickle with anything but tensors in it.
    """
    if path.suffix == ".safetensors" or path.is_dir():
        return SafetensorFiles(path)
    return PickledTokenizer(path)

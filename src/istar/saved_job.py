"""A job as tokens in a file: everything needed to finish it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from istar.errors import MediaError, StateError
from istar.files import PendingFile, writing_failed

_FORMAT = "istar-job-1"


@dataclass(frozen=True, kw_only=True)
class SavedJob:
    """What a file holds of a job.

    Attributes:
        request: as JSON.
        template: name of the ratio.
        model: name of the model.
        fingerprint: of its weights.
        settings: a hash of the plan, see `istar.plan.Plan.fingerprint`.
        dtype: of the transformer: `bf16`, `fp32`, `int8` or `fp8`.
        generator: the state of the CPU generator.
        packed: bits, eight in a byte, by window and step.
        image: `(1, H, W, 3)`, uint8, the request's picture as it was fitted.
        clip: `(F, H, W, 3)`, uint8, the request's clip likewise.
    """

    request: str
    template: str
    model: str
    fingerprint: str
    settings: str
    dtype: str
    generator: Tensor
    packed: Mapping[tuple[int, int], Tensor]
    image: Tensor | None = None
    clip: Tensor | None = None

    def write(self, path: Path) -> None:
        """Write the file; under its name it is whole or not there at all.

        Raises:
            StateError: it cannot be written.
        """
        header = {
            "format": _FORMAT,
            "request": json.loads(self.request),
            "template": self.template,
            "model": self.model,
            "fingerprint": self.fingerprint,
            "settings": self.settings,
            "dtype": self.dtype,
        }
        tensors = {"generator": self.generator}
        tensors |= {f"bits.{window}.{step}": x for (window, step), x in self.packed.items()}
        for name, pictures in (("image", self.image), ("clip", self.clip)):
            if pictures is not None:
                tensors[name] = pictures
        # Cloned: safetensors refuses tensors that share memory.
        own = {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}
        header["sha256"] = _digest(own)
        try:
            with PendingFile(path, overwrite=True) as pending:
                pending.temporary.write_bytes(save(own, metadata={"job": json.dumps(header)}))
        except MediaError as error:
            raise StateError(str(error)) from error
        except (OSError, SafetensorError, ValueError) as error:
            raise StateError(str(writing_failed(path, error))) from error

    @classmethod
    def read(cls, path: Path) -> SavedJob:
        """Read the file.

        Raises:
            StateError: it is missing, damaged or not a job.
        """
        try:
            with safe_open(path, framework="pt", device="cpu") as file:
                header = json.loads((file.metadata() or {}).get("job", "null"))
                names = list(file.keys())
                tensors = {name: file.get_tensor(name) for name in names}
        except (OSError, SafetensorError, ValueError) as error:
            raise StateError(f"{path} is not a readable job: {error}") from error
        if not isinstance(header, dict) or header.get("format") != _FORMAT:
            raise StateError(f"{path} is not a job of this version of istar")
        try:
            if header["sha256"] != _digest(tensors):
                raise ValueError("its bytes have changed")
            named = {name: tensors.pop(name, None) for name in ("image", "clip")}
            texts = ("template", "model", "fingerprint", "settings", "dtype")
            if not all(isinstance(header[name], str) for name in texts):
                raise ValueError("its header is malformed")
            return cls(
                request=json.dumps(header["request"]),
                generator=tensors.pop("generator"),
                packed={_window_and_step(name): tensor for name, tensor in tensors.items()},
                **{name: header[name] for name in texts},
                **named,
            )
        except (LookupError, ValueError) as error:
            raise StateError(f"{path} is a damaged job: {error}") from error


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """The sha256 of all tensors, in order of their names."""
    digest = sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def _window_and_step(name: str) -> tuple[int, int]:
    """Window and step of a tensor `bits.WINDOW.STEP`.

    Raises:
        ValueError: another name.
    """
    kind, window, step = name.split(".")
    if kind != "bits":
        raise ValueError(f"unknown tensor {name}")
    return int(window), int(step)


def pack(bits: Tensor) -> Tensor:
    """Booleans of any shape as bytes."""
    return torch.from_numpy(np.packbits(bits.cpu().numpy().ravel()))


def unpack(packed: Tensor, tokens: int, bits: int) -> Tensor:
    """Booleans `(tokens, bits)` that `pack` made bytes.

    Raises:
        ValueError: too few bytes or too many.
    """
    count = tokens * bits
    if packed.dtype != torch.uint8 or packed.shape != (-(-count // 8),):
        raise ValueError(f"{tuple(packed.shape)} {packed.dtype} does not hold {count} bits")
    unpacked = np.unpackbits(packed.numpy(), count=count).astype(bool)
    return torch.from_numpy(unpacked).reshape(tokens, bits)

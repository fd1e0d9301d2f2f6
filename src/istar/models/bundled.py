"""The small model that comes inside the package: a checkpoint directory like any other.

It is named, never chosen: `auto` does not stand for it. It is not fetched, converted or removed.
"""

from __future__ import annotations

import json
from dataclasses import replace
from math import prod
from pathlib import Path

from istar.errors import CheckpointError
from istar.model_spec import ModelSpec
from istar.models.manifest import MANIFEST_NAME, read_manifest

NAME = "tiny"
DIRECTORY = Path(__file__).parent.parent / "bundled" / NAME


def bundled_model() -> ModelSpec | None:
    """The bundled model; None in an installation that has none.

    Raises:
        CheckpointError: its manifest is malformed.
    """
    manifest = DIRECTORY / MANIFEST_NAME
    return replace(read_manifest(manifest), name=NAME) if manifest.is_file() else None


def bundled_checkpoint() -> tuple[Path, ModelSpec]:
    """The bundled model and its directory.

    Raises:
        CheckpointError: there is none, or its manifest is malformed.
    """
    spec = bundled_model()
    if spec is None:
        raise CheckpointError(
            f"this installation has no bundled model, so there is no {NAME!r}",
            remedies=("list_models",),
        )
    return DIRECTORY, spec


def is_bundled(spec: ModelSpec) -> bool:
    """Whether it is the bundled model: nobody else's has its name and no source."""
    return spec.name == NAME and spec.source is None


def bundled_bytes() -> int:
    """The size of its files."""
    return sum(file.stat().st_size for file in DIRECTORY.rglob("*") if file.is_file())


def bundled_parameters() -> int:
    """How many numbers its safetensors files hold, counted from their headers.

    Raises:
        CheckpointError: one is damaged.
    """
    return sum(_numbers(file) for file in sorted(DIRECTORY.rglob("*.safetensors")))


def _numbers(file: Path) -> int:
    """The numbers in a safetensors file: eight bytes of length, a JSON header, the tensors."""
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(min(length, file.stat().st_size)))
        return sum(prod(header[name]["shape"]) for name in header if name != "__metadata__")
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise CheckpointError(f"{file} is damaged; install istar again") from error

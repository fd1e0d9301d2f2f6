"""The small model that comes inside the package: a checkpoint directory like any other.

It is named, never chosen: `auto` does not stand for it. It is not fetched, converted or removed.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from istar.errors import CheckpointError
from istar.files import directory_size
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
        CheckpointError: it is missing, or its manifest is malformed.
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
    return directory_size(DIRECTORY)

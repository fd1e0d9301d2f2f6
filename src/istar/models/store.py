"""The state of the published models on this machine."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from istar.errors import CheckpointError
from istar.files import directory_size, working_directory
from istar.model_spec import ModelSpec, Precision
from istar.models import bundled, hub
from istar.models.download_events import DownloadListener, ignore
from istar.models.find import cached_files, converted, converted_directory, wanted_files
from istar.models.manifest import MANIFEST_NAME, file_hash, read_hashes
from istar.models.released import RELEASED_MODELS


@dataclass(frozen=True, kw_only=True)
class CopyState:
    """A converted copy.

    Attributes:
        dtype: what its weights are.
        path: its directory.
        bytes_here: the size of its files.
    """

    dtype: str
    path: Path
    bytes_here: int


@dataclass(frozen=True, kw_only=True)
class PartState:
    """What is here of a file of a published model, or of a directory.

    Attributes:
        path: in its repository; a directory ends in `/`.
        revision: of the repository.
        bytes_here: bytes on disk, partial files included.
        bytes_total: the size of all; None as long as the Hub was never asked.
    """

    path: str
    revision: str
    bytes_here: int
    bytes_total: int | None


@dataclass(frozen=True, kw_only=True)
class ModelState:
    """What of a model is here.

    Attributes:
        spec: the model.
        state: `ready`: every file is here; `partial`: some; `absent`: none.
        has_transformer: some of its transformer is here, not only what it shares with others.
        path: the transformer's directory, once the model is ready.
        bytes_here: bytes on disk, partial files included.
        bytes_total: the size of all; None as long as the Hub was never asked.
        parts: what it consists of on the Hub, the transformer last.
        copies: its converted copies.
    """

    spec: ModelSpec
    state: Literal["ready", "partial", "absent"]
    has_transformer: bool
    path: Path | None
    bytes_here: int
    bytes_total: int | None
    parts: tuple[PartState, ...]
    copies: tuple[CopyState, ...]

    @property
    def is_absent(self) -> bool:
        """Nothing of it is here, no converted copy either."""
        return self.state == "absent" and not self.copies


def known_models() -> tuple[ModelSpec, ...]:
    """The models of the registry, and the bundled one where this installation has one."""
    own = bundled.bundled_model()
    return (*RELEASED_MODELS, own) if own else RELEASED_MODELS


def all_states() -> list[ModelState]:
    """The state of every known model."""
    return [state_of(spec) for spec in known_models()]


def state_of(spec: ModelSpec) -> ModelState:
    """What of a model is here; nothing is requested.

    Raises:
        HubError: the cache cannot be read.
    """
    if bundled.is_bundled(spec):
        size = bundled.bundled_bytes()
        return ModelState(
            spec=spec,
            state="ready",
            has_transformer=True,
            path=bundled.DIRECTORY / spec.transformer,
            bytes_here=size,
            bytes_total=size,
            parts=(),
            copies=(),
        )
    parts = tuple(
        PartState(
            path=path,
            revision=where.revision,
            bytes_here=found.bytes_here,
            bytes_total=found.bytes_total,
        )
        for where, wanted in wanted_files(spec).items()
        for path in wanted
        for found in [hub.cached_files(where, [path])]
    )
    bytes_here = sum(part.bytes_here for part in parts)
    totals = [part.bytes_total for part in parts]
    known = [total for total in totals if total is not None]
    # A part of which nothing is listed may have another name on the Hub by now.
    files = cached_files(spec) if all(part.bytes_here for part in parts) else None
    return ModelState(
        spec=spec,
        state="ready" if files else "partial" if bytes_here else "absent",
        has_transformer=parts[-1].bytes_here > 0,
        path=files.transformer if files else None,
        bytes_here=bytes_here,
        bytes_total=sum(known) if len(known) == len(totals) else None,
        parts=parts,
        copies=tuple(
            CopyState(dtype=dtype, path=copy, bytes_here=directory_size(copy))
            for dtype in _copies(spec)
            for copy in [converted_directory(spec, dtype)]
        ),
    )


def verify_model(
    spec: ModelSpec, on_event: DownloadListener = ignore, *, repair: bool = False
) -> list[str]:
    """What is wrong with a model's files and copies, a sentence each; nothing is requested.

    Args:
        spec: the model.
        on_event: receives progress.
        repair: remove what is damaged, so that the next pull fetches it, and damaged copies; of
            the bundled model nothing is removed.

    Raises:
        HubError: the cache cannot be read.
    """
    if bundled.is_bundled(spec):
        return _damage(bundled.DIRECTORY)
    problems = []
    for where, wanted in wanted_files(spec).items():
        if hub.cached_files(where, wanted).bytes_here or not _copies(spec):
            problems += hub.verify(where, wanted, on_event, repair=repair)
    for dtype in get_args(Precision):
        copy = converted_directory(spec, dtype)
        if not copy.exists():
            continue
        wrong = _damage(copy)
        if not wrong and converted(spec, dtype) is None:
            wrong = [f"{copy} was made of another revision, or is damaged, and is not used"]
        if wrong and repair:
            shutil.rmtree(copy)
        problems += wrong
    return problems


def remove_model(spec: ModelSpec) -> int:
    """Remove a model's files and copies, but not what another model that is here needs.

    Returns:
        how many bytes that freed.

    Raises:
        CheckpointError: it is the bundled model.
        HubError: something cannot be removed.
    """
    states = [state_of(other) for other in RELEASED_MODELS if other != spec]
    others = [state.spec for state in states if state.has_transformer]
    needed = {
        (where, path)
        for other in others
        for where, wanted in wanted_files(other).items()
        for path in wanted
    }
    freed = 0
    for where, wanted in wanted_files(spec).items():
        own = [path for path in wanted if (where, path) not in needed]
        if own and hub.cached_files(where, own).bytes_here:
            freed += hub.remove(where, own)
    for dtype in get_args(Precision):
        copy = converted_directory(spec, dtype)
        for directory in (copy, working_directory(copy)):
            freed += directory_size(directory)
            shutil.rmtree(directory, ignore_errors=not directory.exists())
    return freed


def _damage(directory: Path) -> list[str]:
    """Which of the files that a manifest lists are not what it says, a sentence each."""
    try:
        hashes = read_hashes(directory / MANIFEST_NAME)
    except CheckpointError as error:
        return [str(error)]
    return [
        f"{directory / file} is damaged or missing"
        for file, expected in hashes.items()
        if not (directory / file).is_file() or file_hash(directory / file) != expected
    ]


def _copies(spec: ModelSpec) -> list[str]:
    """The dtypes of which a model has a converted copy."""
    return [dtype for dtype in get_args(Precision) if converted(spec, dtype)]

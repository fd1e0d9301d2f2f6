"""Where takes lie that nobody named: one directory, below a size."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from stat import S_ISREG

from istar.errors import StateError, UsageError
from istar.files import locked, temporary_path, writing_failed
from istar.request import GenerationRequest
from istar.take import Take
from istar.take_directory import TAKE_SUFFIX, take_files, takes_directory
from istar.take_file import TakeSummary

_DEAD_AFTER = 3600.0
"""So many seconds after its last byte a temporary file is nobody's any more."""


@dataclass(frozen=True, kw_only=True)
class StoredTake:
    """A take in the store.

    Attributes:
        path: its file.
        bytes_here: the file's size.
        written: when it was last written, in seconds since 1970.
        summary: what it is; None of a file that is no take of this version.
    """

    path: Path
    bytes_here: int
    written: float
    summary: TakeSummary | None

    @property
    def name(self) -> str:
        """What it is called here."""
        return self.path.stem

    @property
    def finished(self) -> bool:
        """Every step is taken."""
        return self.summary is not None and self.summary.share == 1


def is_stored(path: Path) -> bool:
    """Whether a file lies in the store."""
    return path.resolve().parent == takes_directory().resolve()


@contextmanager
def held_take(path: Path) -> Iterator[None]:
    """Inside, no other process makes a take of the store; the system frees it when this one dies.

    Args:
        path: its file; what lies elsewhere is not held.

    Raises:
        StateError: another process makes it, or the directory cannot be written.
    """
    if not is_stored(path):
        yield
        return
    file = _lock_of(path)
    with locked(file, f"the take {path.stem} is in use: another process makes it"):
        try:
            with temporary_path(file):
                yield
        finally:
            with suppress(OSError):
                file.unlink()


def stored_path(name: str) -> Path | None:
    """The file of a take by its name in the store; None if the store has no such take."""
    return next((path for path, _, _ in _files() if path.stem == name), None)


def stored_takes() -> tuple[StoredTake, ...]:
    """All takes, those written last first."""
    found = [
        StoredTake(path=path, bytes_here=size, written=written, summary=_summary(path))
        for path, size, written in _files()
    ]
    return tuple(sorted(found, key=lambda take: take.written, reverse=True))


def store_take(take: Take, *, synced: bool = True) -> Path:
    """Write a take under a name of its own, made of the time, the mode and the seed.

    Args:
        take: to be written.
        synced: as `Take.save`.

    Returns:
        its file.

    Raises:
        StateError: it cannot be written.
    """
    directory = takes_directory()
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StateError(str(writing_failed(directory, error))) from error
    _remove_dead(directory)
    return take.save(directory / _name(take.request), numbered=True, synced=synced)


def remove_takes(names: Sequence[str]) -> tuple[Path, ...]:
    """Remove takes by their names; if one of them is not here, none is removed.

    Returns:
        the files that were removed.

    Raises:
        UsageError: there is no such take.
        StateError: one cannot be removed.
    """
    here = {take.name: take.path for take in stored_takes()}
    for name in names:
        if name not in here:
            raise UsageError(f"there is no take {name!r}", remedies=("list_takes",))
    paths = tuple(here[name] for name in dict.fromkeys(names))
    for path in paths:
        _remove(path)
    return paths


def prune_takes(limit: int, *, keep: Path) -> tuple[Path, ...]:
    """Remove takes until all together are no larger than a limit.

    The oldest go first: those that are finished, then the others.

    Args:
        limit: bytes.
        keep: the file that stays in any case.

    Returns:
        the files that were removed.

    Raises:
        StateError: one cannot be removed.
    """
    # Only where something is to go, files are opened to see how far they are.
    if sum(size for _, size, _ in _files()) <= limit:
        return ()
    takes = stored_takes()
    size, removed = sum(take.bytes_here for take in takes), []
    for take in sorted(takes, key=lambda take: (not take.finished, take.written)):
        if size <= limit:
            break
        if take.path != keep:
            _remove(take.path)
            size -= take.bytes_here
            removed.append(take.path)
    return tuple(removed)


def _files() -> Iterator[tuple[Path, int, float]]:
    """Path, size and time of every take's file."""
    for path in take_files():
        # One that another process removes meanwhile is not here.
        with suppress(FileNotFoundError):
            status = path.stat()
            # A directory of such a name is no take, and would not be removed as one.
            if S_ISREG(status.st_mode):
                yield path, status.st_size, status.st_mtime


def _summary(path: Path) -> TakeSummary | None:
    try:
        return TakeSummary.read(path)
    except StateError:
        return None


def _name(request: GenerationRequest) -> str:
    now = datetime.now().strftime("%Y%m%d-%H%M%S")
    return f"{now}-{request.mode}-{request.seed}{TAKE_SUFFIX}"


def _lock_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.lock")


def _remove_dead(directory: Path) -> None:
    """Remove what processes that were killed left half written; a write takes seconds at most."""
    for path in directory.glob(f".*.tmp{TAKE_SUFFIX}"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > _DEAD_AFTER:
                path.unlink()


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
        _lock_of(path).unlink(missing_ok=True)
    except OSError as error:
        raise StateError(f"cannot remove '{path}': {error.strerror}") from error

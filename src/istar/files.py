"""Files and directories that are written whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from types import TracebackType

from istar.errors import MediaError, StateError, UsageError

LONGEST_NAME = 255
"""Of a file, in bytes."""

_unfinished: set[Path] = set()
"""Temporary files and directories of this process."""


def expanded(name: str | Path) -> Path:
    """A path with its `~` expanded.

    Raises:
        UsageError: it names a home directory that is unknown.
    """
    try:
        return Path(name).expanduser()
    except RuntimeError as error:
        raise UsageError(f"'{name}' names a home directory that is unknown") from error


def check_plain(target: Path) -> None:
    """Refuse a name that something else than a plain file has.

    Raises:
        MediaError: it has.
    """
    if target.exists() and not target.is_file():
        raise MediaError(f"'{target}' exists and is not a plain file; choose another name")


def numbered_names(target: Path) -> Iterator[Path]:
    """Names beside a target that is taken; a long one makes room for its number."""
    for number in count(1):
        end = f"-{number}{target.suffix}"
        stem = os.fsencode(target.stem)[: LONGEST_NAME - len(os.fsencode(end))]
        yield target.with_name(stem.decode("utf-8", "ignore") + end)


@contextmanager
def locked(file: Path, in_use: str) -> Iterator[None]:
    """Inside, no other process locks a file; the system frees it when this one dies.

    Args:
        file: the lock's own.
        in_use: what is said if another process has it.

    Raises:
        StateError: another process has it, or its directory cannot be written.
    """
    from filelock import FileLock, Timeout  # most commands lock nothing

    lock = FileLock(file, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise StateError(in_use) from None
    except OSError as error:
        raise StateError(str(writing_failed(file.parent, error))) from error
    try:
        yield
    finally:
        lock.release()


def writing_failed(target: Path, error: Exception) -> MediaError:
    """The error that says `target` could not be written, and why."""
    reason = getattr(error, "strerror", None) or " ".join(str(error).split())
    # torch says of a full disk only where it stopped.
    may_be_full = getattr(error, "errno", None) in (None, errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    advice = ("free some space or " if may_be_full else "") + "choose another directory"
    if getattr(error, "errno", None) == errno.ENAMETOOLONG:
        advice = "choose a shorter name"
    return MediaError(f"cannot write '{target}': {reason}; {advice}")


def write_text(target: Path, text: str, *, overwrite: bool, numbered: bool = False) -> Path:
    """Write a text file, UTF-8, whole or not at all.

    Returns:
        the name it got, see `PendingFile`.

    Raises:
        MediaError: as `PendingFile`.
    """
    with PendingFile(target, overwrite=overwrite, numbered=numbered) as pending:
        try:
            pending.temporary.write_text(text, encoding="utf-8")
        except OSError as error:
            raise writing_failed(target, error) from error
    return pending.target


def replace_text(path: Path, text: str) -> None:
    """Write a small file of a cache at once: whoever reads it finds the old text or the new.

    Raises:
        OSError: the system refuses.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def temporary_path(path: Path) -> Iterator[None]:
    """Inside, a temporary file or directory that must not outlast this process."""
    _unfinished.add(path)
    try:
        yield
    finally:
        _unfinished.discard(path)


def remove_unfinished() -> None:
    """Remove what is unfinished, for a process that ends without unwinding."""
    for path in tuple(_unfinished):
        with suppress(OSError):
            path.unlink()
        shutil.rmtree(path, ignore_errors=True)


class _Pending(ABC):
    """Something written beside its target; it gets the target's name when the block ends well."""

    target: Path

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._publish()
        except OSError as failure:
            raise writing_failed(self.target, failure) from failure
        finally:
            self._discard()

    @abstractmethod
    def _publish(self) -> None:
        """Give it its name."""

    @abstractmethod
    def _discard(self) -> None:
        """Remove what is left beside the target."""


class PendingFile(_Pending):
    """A file written beside its target and given the target's name once it is whole.

    A context manager. Inside, fill the file at `temporary`. A clean exit syncs and renames it;
    any exception, `KeyboardInterrupt` included, removes it. Without `overwrite` no file is ever
    replaced: should another take the name meanwhile, the result gets a numbered name beside it
    rather than be lost. After the exit `target` is the name the file got.

    Args:
        target: the name to be had.
        overwrite: it may replace a file.
        numbered: a name that is taken at the start gets a number too, rather than be refused.
        synced: wait until it is on the disk, where it outlasts the power too.

    Raises:
        MediaError: the target exists and neither is set, or the system refuses.
    """

    def __init__(
        self, target: Path, *, overwrite: bool, numbered: bool = False, synced: bool = True
    ) -> None:
        self.target = target
        self.temporary = target.with_name(
            f".{target.stem[:40]}.{os.urandom(4).hex()}.tmp{target.suffix}"
        )
        self._overwrite = overwrite
        self._numbered = numbered
        self._synced = synced

    def __enter__(self) -> PendingFile:
        refused = not self._overwrite and not self._numbered
        if refused and os.path.lexists(self.target):
            raise MediaError(f"'{self.target}' exists", remedies=("other_name", "overwrite"))
        try:
            if not self._numbered:
                check_plain(self.target)
            _unfinished.add(self.temporary)
            _create(self.temporary)
        except OSError as error:
            raise writing_failed(self.target, error) from error
        return self

    def _discard(self) -> None:
        with suppress(OSError):
            self.temporary.unlink()
        _unfinished.discard(self.temporary)

    def _publish(self) -> None:
        if self._synced:
            _sync(self.temporary)
        may_replace = self.target.is_file() or not os.path.lexists(self.target)
        if self._overwrite and may_replace:
            self.temporary.replace(self.target)
        else:
            self._take_free_name()
        if self._synced:
            _sync_directory(self.target.parent)

    def _take_free_name(self) -> None:
        names = numbered_names(self.target)
        while True:
            try:
                self._link()
                return
            except FileExistsError:
                self.target = next(names)

    def _link(self) -> None:
        """Give the file its name unless that is taken; both ways are one atomic call."""
        try:
            os.link(self.temporary, self.target)
        except FileExistsError:
            raise
        except OSError:
            # No hard links here (FAT, some network shares): reserve the name, then replace.
            _create(self.target)
            self.temporary.replace(self.target)


class PendingDirectory(_Pending):
    """A directory written beside its target and given the target's name once it is whole.

    A context manager. Inside, fill the directory `temporary`. A clean exit syncs its files and
    renames it; any exception, `KeyboardInterrupt` included, removes it. A directory that is
    replaced stays until then; without `overwrite` one that came meanwhile stays, and this one gets
    a numbered name. Unless `numbered`, only one process at a time may write a target: what it finds
    half written was left by a process that was killed, and is removed.

    Args:
        target: the name to be had.
        overwrite: it may replace a directory.
        numbered: a name that is taken at the start gets a number too, rather than be refused; an
            empty directory's is not taken.

    Attributes:
        target: its name in the end.
        temporary: where to write.

    Raises:
        MediaError: the target exists and neither is set, or the system refuses.
    """

    def __init__(self, target: Path, *, overwrite: bool, numbered: bool = False) -> None:
        self.target = target
        self._work = working_directory(target)
        if numbered:
            self._work = target.with_name(f".{target.name[:40]}.{os.urandom(4).hex()}.tmp")
        self.temporary = self._work / "new"
        self._former = self._work / "former"
        self._overwrite = overwrite
        self._numbered = numbered

    def __enter__(self) -> PendingDirectory:
        refused = not self._overwrite and not self._numbered
        if refused and os.path.lexists(self.target):
            raise MediaError(f"'{self.target}' exists", remedies=("other_name", "overwrite"))
        try:
            self._discard()
            if self._numbered:
                _unfinished.add(self._work)
            self.temporary.mkdir(parents=True)
        except OSError as error:
            raise writing_failed(self.target, error) from error
        return self

    def _publish(self) -> None:
        _unfinished.discard(self._work)  # it may hold what is replaced
        for path in self.temporary.rglob("*"):
            if path.is_file():
                _sync(path)
        if self._numbered:
            with suppress(OSError):
                self.target.rmdir()
        if self.target.exists() and self._overwrite:
            self.target.rename(self._former)
        names = numbered_names(self.target)
        while os.path.lexists(self.target):
            self.target = next(names)
        self.temporary.rename(self.target)
        _sync_directory(self.target.parent)

    def _discard(self) -> None:
        """Remove all but the target, which may have been moved away for one that never came."""
        if self._former.exists() and not self.target.exists():
            self._former.rename(self.target)
        shutil.rmtree(self._work, ignore_errors=True)
        _unfinished.discard(self._work)


def existing_parent(path: Path) -> Path:
    """The path, or the nearest directory above it that exists."""
    return next(one for one in (path, *path.parents) if one.exists())


def free_bytes(path: Path) -> int:
    """The free room of the disk on which a path is, or will be."""
    return shutil.disk_usage(existing_parent(path)).free


def directory_size(path: Path) -> int:
    """The size of all files below a directory; 0 without one."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def discard_unfinished(target: Path) -> None:
    """Remove what a process that was killed left beside a directory that it was writing.

    Only for who alone writes that directory.
    """
    PendingDirectory(target, overwrite=True)._discard()


def working_directory(target: Path) -> Path:
    """Where `PendingDirectory` works on a target; it remains after a kill only."""
    return target.with_name(f".{target.name}.tmp")


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _sync_directory(path: Path) -> None:
    """Sync the names in a directory, where the system can."""
    with suppress(OSError):
        directory = os.open(path, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def _create(path: Path) -> None:
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))

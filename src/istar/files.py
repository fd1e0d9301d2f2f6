"""Files to be written: their names, and writing them whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from types import TracebackType

from istar.clip_format import CLIP_FORMATS, clip_format, is_numbered, number_in
from istar.errors import MediaError, UsageError

CLIP_SUFFIXES = tuple(CLIP_FORMATS)
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")

SLASHES = tuple(filter(None, (os.sep, os.altsep)))

_LONGEST_NAME = 255
_NO_DIRECTORIES = (Path("/dev"), Path("/dev/fd"))
_unfinished: set[Path] = set()
"""Temporary files and directories of this process."""


def output_path(
    wanted: str | Path | None, *, default_stem: str, suffix: str, overwrite: bool
) -> Path:
    """The name an output will get.

    None and directories get `{default_stem}-0001{suffix}`, counted up to a free name. A name
    without a suffix gets `suffix`. A name that is taken gets a number, `video-1.mp4`, unless
    `overwrite`. Numbered pictures, `boat/%04d.png`, have their directory for themselves, which gets
    the number.

    Args:
        wanted: a file, or a directory, as which a text with a slash at its end is taken; `~` is
            expanded.
        default_stem: how default names begin.
        suffix: `.mp4` for clips, `.png` for pictures; any suffix of the same kind may be asked
            for.
        overwrite: an existing file may be replaced.

    Raises:
        UsageError: the suffix belongs to another kind of file, or the path cannot be a file's.
        MediaError: the directory is missing or not writable, the target is no plain file, or a
            directory to be replaced holds more than numbered pictures.
    """
    try:
        return _output_path(wanted, default_stem, suffix, overwrite)
    except OSError as error:
        raise writing_failed(Path(wanted or ""), error) from error


def _output_path(
    wanted: str | Path | None, default_stem: str, suffix: str, overwrite: bool
) -> Path:
    if wanted == "":
        raise UsageError("the output path is empty")
    text = str(wanted or "")
    if "\0" in text:
        raise UsageError("an output path cannot hold a NUL character")
    try:
        target = Path(text).expanduser()
    except RuntimeError as error:
        raise UsageError(f"'{wanted}' names a home directory that is unknown") from error
    if target.is_dir() or text.endswith(SLASHES):
        _check_directory(target)
        return next(
            name
            for number in count(1)
            if not os.path.lexists(name := target / f"{default_stem}-{number:04}{suffix}")
        )
    if target.parent in _NO_DIRECTORIES or target.parts[1:2] == ("proc",):
        raise MediaError(f"'{target}' is not a place for a file; choose another name")
    if suffix in CLIP_SUFFIXES and is_numbered(target):
        return _directory_of_numbered(target, overwrite) / target.name
    _check_plain(target)
    if not target.suffix:
        target = target.with_name(target.name + suffix)
    if suffix in CLIP_SUFFIXES:
        clip_format(target)
    else:
        check_suffix(target, PICTURE_SUFFIXES)
    _check_plain(target)
    _check_directory(target.parent)
    if os.path.lexists(target) and not overwrite:
        return next(name for name in _numbered(target) if not os.path.lexists(name))
    return target


def _directory_of_numbered(target: Path, overwrite: bool) -> Path:
    """The directory that numbered pictures will get for themselves."""
    directory = target.parent
    if directory.name in ("", "..") or directory.is_mount():
        raise UsageError(
            f"'{target}': numbered pictures get a directory of their own; "
            f"name it, such as frames/{target.name}"
        )
    _check_directory(directory.parent)
    if not os.path.lexists(directory):
        return directory
    if not directory.is_dir():
        raise MediaError(f"'{directory}' is a file, not a directory; choose another directory")
    names = [path.name for path in directory.iterdir()]
    if not names or (overwrite and all(number_in(name, target) is not None for name in names)):
        return directory
    if overwrite:
        raise MediaError(
            f"'{directory}' holds more than pictures numbered as '{target.name}' and is not "
            "replaced; choose another directory"
        )
    return next(name for name in _numbered(directory) if not os.path.lexists(name))


def check_suffix(target: Path, suffixes: tuple[str, ...]) -> None:
    """Refuse a name whose suffix is not one of `suffixes`.

    Raises:
        UsageError: the suffix is another.
    """
    if target.suffix.lower() not in suffixes:
        raise UsageError(f"cannot write '{target}': its name must end in {' or '.join(suffixes)}")


def _check_directory(directory: Path) -> None:
    if directory.exists() and not directory.is_dir():
        raise MediaError(f"'{directory}' is a file, not a directory; choose another directory")
    if not directory.exists():
        raise MediaError(f"the directory '{directory}' does not exist; make it first")
    if not os.access(directory, os.W_OK | os.X_OK):
        raise MediaError(f"the directory '{directory}' is not writable; choose another")


def _check_plain(target: Path) -> None:
    if target.exists() and not target.is_file():
        raise MediaError(f"'{target}' exists and is not a plain file; choose another name")


def _numbered(target: Path) -> Iterator[Path]:
    """Names beside a target that is taken; a long one makes room for its number."""
    for number in count(1):
        end = f"-{number}{target.suffix}"
        stem = os.fsencode(target.stem)[: _LONGEST_NAME - len(os.fsencode(end))]
        yield target.with_name(stem.decode("utf-8", "ignore") + end)


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
def unfinished(path: Path) -> Iterator[None]:
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
            f".{target.stem[:40]}.{secrets.token_hex(4)}.tmp{target.suffix}"
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
                _check_plain(self.target)
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
        names = _numbered(self.target)
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
            self._work = target.with_name(f".{target.name[:40]}.{secrets.token_hex(4)}.tmp")
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
        names = _numbered(self.target)
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

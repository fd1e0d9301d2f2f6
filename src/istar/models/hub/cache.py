"""A repository's folder in the Hub's own cache: what lies in it, and whether it can be trusted.

::

    <cache>/models--owner--name/
        blobs/<etag>                the files' contents, each named by its hash
        blobs/<etag>.part           what was fetched of one so far
        snapshots/<commit>/<path>   links to the blobs
        refs/<branch>               the commit it stood for when last asked
        trees/<commit>.json         all files of the commit

Nothing below the cache is followed where a link could lead out of it.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from huggingface_hub import constants

from istar.errors import HubError
from istar.models.hub.listing import (
    RepoFile,
    RepoRevision,
    files_as_record,
    files_from_record,
    is_blob,
    is_commit,
    is_wanted,
)

State = Literal["ok", "missing", "size", "hash", "link"]

NO_HASH = "0" * 40
"""Stands for the hash of a file of which none is known."""

_BUFFER = 1 << 20
_LARGEST_RECORD = 64 << 20
_NO_LINKS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)


def cache_dir() -> Path:
    """The Hub's cache, by HF_HUB_CACHE or HF_HOME as they were when the Hub's client was loaded.

    Raises:
        HubError: something other than a directory has its name.
    """
    place = Path(constants.HF_HUB_CACHE).absolute()
    for part in (place, *place.parents):
        if part.exists() and not part.is_dir():
            raise HubError(
                f"the Hub's cache {place} cannot be used, because {part} is not a directory; set "
                "HF_HUB_CACHE or HF_HOME to a directory"
            )
    return place


@dataclass(frozen=True)
class RepoFolder:
    """A repository's folder in the Hub's cache; neither has to exist."""

    cache: Path
    name: str

    @classmethod
    def of(cls, where: RepoRevision) -> RepoFolder:
        """The folder of a repository.

        Raises:
            HubError: the cache is not a directory.
        """
        return cls(cache_dir(), where.folder_name)

    @property
    def place(self) -> Path:
        """Its path."""
        return self.cache / self.name

    def snapshot(self, commit: str) -> Path:
        """The directory of a commit's files."""
        return self.place / "snapshots" / commit

    def blob(self, blob: str) -> Path:
        """Where a content lies once it is whole."""
        return self.place / "blobs" / blob

    def part(self, blob: str) -> Path:
        """Where a content lies while it is fetched."""
        return self.place / "blobs" / f"{blob}.part"

    # What is there

    def commit_of(self, where: RepoRevision) -> str | None:
        """The commit of a revision, as far as known here.

        Raises:
            HubError: the ref is a link or damaged.
        """
        if where.pinned:
            return where.revision
        parts = ("refs", *where.revision.split("/"))
        place = self.place.joinpath(*parts)
        text = self.read(place, limit=1000)
        if text is None:
            return None
        commit = text.decode("ascii", "replace").strip()
        if not is_commit(commit):
            raise HubError(f"{place} does not hold a commit; remove it and run the same command")
        return commit

    def files(self, commit: str) -> tuple[RepoFile, ...] | None:
        """All files of a commit, if they were ever asked for; a damaged record is none."""
        text = self.read(self._record(commit), limit=_LARGEST_RECORD)
        try:
            return None if text is None else files_from_record(json.loads(text))
        except (HubError, ValueError, RecursionError):
            return None

    def found(self, commit: str, wanted: Sequence[str]) -> tuple[RepoFile, ...]:
        """The wanted files in a commit's snapshot, with the sizes they have.

        Links that lead elsewhere than to a blob of this repository are not among them.
        """
        files = []
        for entry in self._entries(self.snapshot(commit)):
            path = entry.relative_to(self.snapshot(commit)).as_posix()
            blob = self._target(entry)
            content = self._content(blob) if blob else entry if not entry.is_symlink() else None
            if content and is_wanted(path, wanted) and content.is_file():
                # A file that is no link tells no hash.
                size = content.stat().st_size
                files.append(RepoFile(path=path, size=size, blob=blob or NO_HASH))
        return tuple(sorted(files, key=lambda file: file.path))

    def read(self, place: Path, limit: int) -> bytes | None:
        """A small file below the cache: None if there is none, nothing if it is longer.

        Raises:
            HubError: it, or a directory above it, is a link.
            OSError: it cannot be read.
        """
        if not self._is_real_directory(place.parent):
            if _parents_absent(self.cache, place.parent):
                return None
            raise HubError(f"{place.parent} is a link or no directory; remove it and run again")
        try:
            descriptor = os.open(place, os.O_RDONLY | os.O_NONBLOCK | _NO_LINKS)
        except FileNotFoundError:
            return None
        except OSError as error:
            if place.is_symlink():
                raise HubError(f"{place} is a link; remove it and run again") from error
            raise
        with os.fdopen(descriptor, "rb") as file:
            text = file.read(limit + 1) if stat.S_ISREG(os.fstat(descriptor).st_mode) else b""
        return text if len(text) <= limit else b""

    def state(self, commit: str, file: RepoFile) -> State:
        """Whether a file is in a snapshot with its right size; a `link` leads out of the cache."""
        entry = self.snapshot(commit) / file.path
        if not self._is_real_directory(entry.parent):
            return "missing" if _parents_absent(self.cache, entry.parent) else "link"
        if not entry.is_symlink():
            return self._size_state(entry, file)
        target = self._target(entry)
        if target is None:
            return "link"
        return self.blob_state(file) if target == file.blob else "missing"

    def blob_state(self, file: RepoFile) -> State:
        """Whether a file's content is there with its right size."""
        if not self._is_real_directory(self.place / "blobs"):
            return "missing" if _parents_absent(self.cache, self.place / "blobs") else "link"
        content = self._content(file.blob)
        return "link" if content is None else self._size_state(content, file)

    def part_size(self, file: RepoFile) -> int:
        """How many bytes of a file were fetched before; 0 if they cannot be of use."""
        part = self.part(file.blob)
        if self._is_real_directory(part.parent) and not part.is_symlink() and part.is_file():
            size = part.stat().st_size
            return size if size <= file.size else 0
        return 0

    def content(self, commit: str, file: RepoFile) -> Path:
        """Where the bytes of a file whose state is `ok` or `size` lie."""
        entry = self.snapshot(commit) / file.path
        return (self._content(file.blob) or entry) if entry.is_symlink() else entry

    def hostile_link(self, commit: str, file: RepoFile) -> Path:
        """What is wrong about a file whose state is `link`: the topmost such link."""
        entry, blob = self.snapshot(commit) / file.path, self.blob(file.blob)
        above = [place for place in (*entry.parents, *blob.parents) if self.cache in place.parents]
        if entry.is_symlink() and self._target(entry) is None:
            above.append(entry)
        if self._content(file.blob) is None:
            above.append(blob)
        wrong = [place for place in above if os.path.lexists(place) and not _is_directory(place)]
        return min(wrong, key=lambda place: len(place.parts), default=entry)

    def hostile(self, commit: str, file: RepoFile) -> HubError:
        """What to say of a file whose state is `link`."""
        return HubError(
            f"{self.hostile_link(commit, file)} is a link that may lead out of the Hub's cache, or "
            "no file; remove it and run the same command again"
        )

    # Changing it

    def make_directory(self, place: Path) -> None:
        """Make a directory below the cache, and those above it.

        Raises:
            HubError: one of them is a link or a file.
        """
        self.cache.mkdir(parents=True, exist_ok=True)
        below = self.cache
        for part in place.relative_to(self.cache).parts:
            below /= part
            with suppress(FileExistsError):
                below.mkdir()
            if not stat.S_ISDIR(below.lstat().st_mode):
                raise HubError(
                    f"{below} is not a directory but a link or a file, which the Hub's cache never "
                    "has there; remove it and run the same command again"
                )

    def write(self, place: Path, text: str) -> None:
        """Write a small file below the cache at once.

        Raises:
            HubError: a link stands in the way.
            OSError: it cannot be written.
        """
        self.make_directory(place.parent)
        temporary = place.with_name(f"{place.name}.{os.getpid()}.tmp")
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINKS, 0o666)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
            temporary.replace(place)
        finally:
            temporary.unlink(missing_ok=True)

    def remember_files(self, commit: str, files: Sequence[RepoFile]) -> None:
        """Keep the list of a commit's files, for when there is no network."""
        self.write(self._record(commit), json.dumps(files_as_record(files), indent=1))

    def remember_commit(self, where: RepoRevision, commit: str) -> None:
        """Keep which commit a branch stands for."""
        place = self.place.joinpath("refs", *where.revision.split("/"))
        if not where.pinned and self.read(place, limit=1000) != commit.encode():
            self.write(place, commit)

    @contextmanager
    def open_part(self, file: RepoFile) -> Iterator[BinaryIO]:
        """The part of a file that was fetched so far, to be read and added to.

        Raises:
            HubError: it is a link, or no file.
        """
        part = self.part(file.blob)
        self.make_directory(part.parent)
        if part.is_symlink() or (part.exists() and not part.is_file()):
            raise HubError(f"{part} is a link or no file; remove it and run the same command again")
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT | _NO_LINKS, 0o666)
        with os.fdopen(descriptor, "r+b", buffering=_BUFFER) as stream:
            if os.fstat(descriptor).st_nlink != 1:
                raise HubError(f"{part} has a second name elsewhere; remove it and run again")
            yield stream

    def place_blob(self, file: RepoFile) -> None:
        """Give a part that was found whole its final name."""
        self.part(file.blob).replace(self.blob(file.blob))

    def link(self, commit: str, file: RepoFile) -> None:
        """Make a snapshot's entry point to its blob, at once."""
        entry, blob = self.snapshot(commit) / file.path, self.blob(file.blob)
        self.make_directory(entry.parent)
        temporary = blob.with_suffix(".link")
        temporary.unlink(missing_ok=True)
        try:
            temporary.symlink_to(os.path.relpath(blob, entry.parent))
        except (OSError, NotImplementedError):
            # No links on this disk: the file itself stands in the snapshot, as the Hub's client
            # does it.
            if temporary.is_symlink():
                raise
            blob.replace(entry)
        else:
            temporary.replace(entry)

    def prune(self, commit: str) -> None:
        """Remove what is empty, and what is kept about a commit that has no more files."""
        if not self._is_real_directory(self.place):
            return
        _remove_empty(self.snapshot(commit))
        if not self.snapshot(commit).exists():
            for place in (*self._entries(self.place / "refs"), self._record(commit)):
                is_record = place == self._record(commit) and self.is_inside(place)
                if is_record or self.read(place, limit=1000) == commit.encode():
                    place.unlink(missing_ok=True)
        for name in ("blobs", "refs", "snapshots", "trees", "."):
            _remove_empty(self.place / name)

    def references(self) -> dict[str, list[Path]]:
        """The snapshots' entries that point to each blob."""
        by_blob: dict[str, list[Path]] = {}
        for entry in self._entries(self.place / "snapshots"):
            blob = self._target(entry)
            if blob:
                by_blob.setdefault(blob, []).append(entry)
        return by_blob

    def is_inside(self, place: Path) -> bool:
        """Whether no directory above a path, up to the cache, is a link."""
        return self._is_real_directory(place.parent)

    def _record(self, commit: str) -> Path:
        return self.place / "trees" / f"{commit}.json"

    def _is_real_directory(self, place: Path) -> bool:
        below = self.cache
        for part in ("", *place.relative_to(self.cache).parts):
            below = below / part
            try:
                status = below.lstat() if part else below.stat()
            except OSError:
                return False
            if not stat.S_ISDIR(status.st_mode):
                return False
        return True

    def _target(self, entry: Path) -> str | None:
        """The blob that a snapshot's entry points to; None if it is no link to one."""
        try:
            target = os.path.normpath(entry.parent / entry.readlink())
        except OSError:
            return None
        blob = Path(target)
        return blob.name if blob.parent == self.place / "blobs" and is_blob(blob.name) else None

    def _content(self, blob: str) -> Path | None:
        """Where a blob's bytes lie; None if it is a link other than to the Hub's shared store."""
        place = self.blob(blob)
        try:
            link = place.readlink()
        except OSError:
            return place
        shared = Path(os.path.normpath(place.parent / link))
        is_shared = (
            shared.parent.parent == self.cache / "blobs"
            and len(shared.name) == 64
            and is_blob(shared.name)
            and shared.parent.name == shared.name[:2]
            and self._is_real_directory(shared.parent)
            and not shared.is_symlink()
        )
        return shared if is_shared else None

    def _size_state(self, place: Path, file: RepoFile) -> State:
        try:
            status = place.lstat()
        except FileNotFoundError:
            return "missing"
        if not stat.S_ISREG(status.st_mode):
            return "link"
        return "ok" if status.st_size == file.size else "size"

    def _entries(self, directory: Path) -> Iterator[Path]:
        if self._is_real_directory(directory):
            for parent, directories, names in os.walk(directory):
                linked = [name for name in directories if Path(parent, name).is_symlink()]
                yield from (Path(parent, name) for name in (*names, *linked))


def _remove_empty(directory: Path) -> None:
    if not directory.is_symlink():
        for parent, _, _ in os.walk(directory, topdown=False):
            with suppress(OSError):
                Path(parent).rmdir()


def _is_directory(place: Path) -> bool:
    return stat.S_ISDIR(place.lstat().st_mode)


def _parents_absent(cache: Path, place: Path) -> bool:
    """Whether a directory is not there and nothing else is in its stead."""
    for part in (place, *place.parents):
        if part == cache:
            return not os.path.lexists(part) or part.is_dir()
        if part.is_symlink() or (os.path.lexists(part) and not part.is_dir()):
            return False
    return True

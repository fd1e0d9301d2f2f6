"""A repository's folder in the Hub's own cache: what lies in it, by what names.

::

    <cache>/models--owner--name/
        blobs/<hash>                the files' contents
        snapshots/<commit>/<path>   links to the blobs
        refs/<branch>               the commit it stood for when last asked
        trees/<commit>.json         all files of the commit, as huggingface_hub 2 remembers them
    <cache>/.locks/models--owner--name/<hash>.lock

The layout is `huggingface_hub`'s, which finds here what istar fetched, and the other way round.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from istar.errors import HubError
from istar.files import replace_text
from istar.models.download import bytes_kept, discard_part
from istar.models.download_events import DownloadListener, DownloadWaiting
from istar.models.hub_settings import hub_settings
from istar.models.repository import RepoFile, RepoRevision, is_blob, is_commit

_LOCK_SECONDS = 0.2


def cache_dir() -> Path:
    """The Hub's cache, by HF_HUB_CACHE or HF_HOME as they were when the Hub's client was loaded.

    Raises:
        HubError: something other than a directory has its name, or the client refuses a setting.
    """
    cache = hub_settings().cache
    for part in (cache, *cache.parents):
        if part.exists() and not part.is_dir():
            raise HubError(
                f"the Hub's cache {cache} cannot be used, because {part} is not a directory; set "
                "HF_HUB_CACHE or HF_HOME to a directory"
            )
    return cache


@dataclass(frozen=True)
class RepoFolder:
    """A repository's folder in the cache; it need not exist."""

    cache: Path
    path: Path

    @classmethod
    def of(cls, where: RepoRevision) -> RepoFolder:
        """The folder of a repository.

        Raises:
            HubError: the cache is not a directory.
        """
        cache = cache_dir()
        return cls(cache, cache / "--".join(("models", *where.repo.split("/"))))

    def snapshot(self, commit: str) -> Path:
        """The directory of a commit's files."""
        return self.path / "snapshots" / commit

    def blob(self, file: RepoFile) -> Path:
        """Where a file's content lies once it is whole."""
        return self.path / "blobs" / file.blob

    def commit_of(self, where: RepoRevision) -> str | None:
        """The commit of a revision, as far as known here."""
        if where.pinned:
            return where.revision
        with suppress(FileNotFoundError, NotADirectoryError):
            commit = self._ref(where).read_text("ascii", "replace").strip()
            return commit if is_commit(commit) else None
        return None

    def remember_commit(self, where: RepoRevision, commit: str) -> None:
        """Keep which commit a branch stands for."""
        if not where.pinned and self.commit_of(where) != commit:
            self._ref(where).parent.mkdir(parents=True, exist_ok=True)
            replace_text(self._ref(where), commit)

    def files(self, commit: str) -> tuple[RepoFile, ...]:
        """All files of a commit; none if they were never listed, or the record is damaged."""
        try:
            record = json.loads(self._record(commit).read_bytes())
            if record["format_version"] != 1:
                return ()
            return tuple(
                RepoFile(
                    path=path,
                    size=entry["size"],
                    blob=entry.get("lfs_sha256") or entry["blob_id"],
                )
                for path, entry in sorted(record["files"].items())
            )
        except (FileNotFoundError, NotADirectoryError):
            return ()
        except (HubError, ValueError, LookupError, TypeError, AttributeError):
            return ()  # damaged: the Hub is asked again

    def remember_files(self, commit: str, files: Sequence[RepoFile]) -> None:
        """Keep the list of a commit's files, for when there is no network."""
        entries = {
            file.path: {"size": file.size, "blob_id": file.blob}
            | ({"lfs_sha256": file.blob, "lfs_size": file.size} if file.is_large else {})
            for file in files
        }
        self._record(commit).parent.mkdir(parents=True, exist_ok=True)
        record = {"format_version": 1, "files": entries}
        replace_text(self._record(commit), json.dumps(record, indent=1))

    def found(self, commit: str) -> tuple[RepoFile, ...]:
        """The files in a snapshot whose list is unknown; their links name their hashes."""
        snapshot, files = self.snapshot(commit), []
        for entry in sorted(snapshot.rglob("*")):
            if entry.is_file():
                # A file that is no link has no known hash, and passes no check.
                name = entry.readlink().name if entry.is_symlink() else ""
                blob = name if is_blob(name) else "0" * 40
                path = entry.relative_to(snapshot).as_posix()
                files.append(RepoFile(path=path, size=entry.stat().st_size, blob=blob))
        return tuple(files)

    def is_whole(self, commit: str, file: RepoFile) -> bool:
        """Whether a file is in a snapshot with its right size."""
        return size_of(self.snapshot(commit) / file.path) == file.size

    def bytes_here(self, commit: str, file: RepoFile) -> int:
        """How much of a file is in a snapshot, or was fetched for it, in bytes."""
        whole = self.is_whole(commit, file)
        return file.size if whole else bytes_kept(self.blob(file), file.size)

    def link(self, commit: str, file: RepoFile) -> None:
        """Make a snapshot's entry point to its blob, at once."""
        entry, blob = self.snapshot(commit) / file.path, self.blob(file)
        entry.parent.mkdir(parents=True, exist_ok=True)
        temporary = blob.with_name(f"{blob.name}.link")
        temporary.unlink(missing_ok=True)
        try:
            temporary.symlink_to(os.path.relpath(blob, entry.parent))
        except (OSError, NotImplementedError):
            # No links on this disk: the file itself lies in the snapshot, as with the Hub's client.
            blob.replace(entry)
        else:
            temporary.replace(entry)

    def remove(self, commit: str, file: RepoFile) -> int:
        """Remove a file from a snapshot, and its content if no other entry links to it.

        Returns:
            How many bytes that freed.
        """
        entry, blob = self.snapshot(commit) / file.path, self.blob(file)
        if entry.is_symlink():
            blob = blob.with_name(entry.readlink().name)
        others = (other for other in self.path.glob("snapshots/**/*") if other != entry)
        used = {other.readlink().name for other in others if other.is_symlink()}
        freed = 0 if size_of(blob) == file.size else bytes_kept(blob, file.size)
        for unused in (entry,) if blob.name in used else (entry, blob):
            with suppress(FileNotFoundError):
                freed += 0 if unused.is_symlink() else unused.stat().st_size
                unused.unlink()
        discard_part(blob)
        return freed

    def prune(self, commit: str) -> None:
        """Have the Hub's client remove a commit without files, and a folder without commits."""
        from huggingface_hub import scan_cache_dir

        snapshot = self.snapshot(commit)
        if snapshot.is_dir() and all(entry.is_dir() for entry in snapshot.rglob("*")):
            scan_cache_dir(self.cache).delete_revisions(commit).execute()
            self._record(commit).unlink(missing_ok=True)

    @contextmanager
    def locked(self, file: RepoFile, on_event: DownloadListener) -> Iterator[None]:
        """Be the only process that changes a file's content, by the lock that the client takes.

        The system frees the lock when its holder dies.
        """
        from huggingface_hub.utils._fixes import WeakFileLock

        lock = self.cache / ".locks" / self.path.name / f"{file.blob}.lock"
        lock.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            try:
                stack.enter_context(WeakFileLock(lock, timeout=_LOCK_SECONDS))
            except TimeoutError:
                on_event(DownloadWaiting(path=file.path))
                stack.enter_context(WeakFileLock(lock))
            yield

    def _ref(self, where: RepoRevision) -> Path:
        return self.path / "refs" / where.revision

    def _record(self, commit: str) -> Path:
        return self.path / "trees" / f"{commit}.json"


def size_of(path: Path) -> int | None:
    """A file's size in bytes, behind its link; None without a file."""
    try:
        return path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return None

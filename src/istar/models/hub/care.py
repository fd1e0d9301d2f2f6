"""Looking after what is in the cache: checking it by hash, clearing what is bad, removing it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from istar.errors import HubError
from istar.models.hub.cache import NO_HASH, RepoFolder
from istar.models.hub.client import told
from istar.models.hub.events import FileProgress, Listener, ignore
from istar.models.hub.listing import RepoFile, RepoRevision, check_wanted, is_wanted
from istar.models.hub.lock import locked

_READ_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A file of the cache that is not what it should be.

    Attributes:
        path: the file, relative to the repository.
        kind: not there; of a wrong size; of a wrong hash; a link that leads elsewhere; or a file
            of which no hash is known.
        text: the same as a sentence.
    """

    path: str
    kind: Literal["missing", "size", "hash", "link", "unknown"]
    text: str


def verify(
    where: RepoRevision, wanted: Sequence[str], on_event: Listener = ignore
) -> list[Problem]:
    """Compare the wanted files in the cache with their hashes; nothing is requested or changed.

    Args:
        where: the repository and revision.
        wanted: files, directories that end in `/`, or `EVERYTHING`.
        on_event: is told how far it is.

    Returns:
        What is wrong; empty if every file is there and right.

    Raises:
        HubError: nothing of the revision is cached, or the cache cannot be read.
    """
    folder, commit = _cached(where, wanted)
    with told(where, folder.cache):
        found = [
            _problem(folder, commit, file, on_event) for file in _files(folder, commit, wanted)
        ]
        return [problem for problem in found if problem] + _unlisted(folder, commit, wanted)


def repair(
    where: RepoRevision, wanted: Sequence[str], on_event: Listener = ignore
) -> list[Problem]:
    """Remove what `verify` finds damaged, so that the next pull fetches it.

    A link that leads elsewhere is removed, and what it leads to is not touched.

    Returns:
        What was wrong.

    Raises:
        HubError: as `verify`; or something cannot be removed.
    """
    problems = verify(where, wanted, on_event)
    folder, commit = _cached(where, wanted)
    kinds = {problem.path: problem.kind for problem in problems}
    with told(where, folder.cache):
        for file in _files(folder, commit, wanted):
            kind = kinds.get(file.path)
            if kind in ("size", "hash"):
                with locked(folder, file, on_event):
                    entry = folder.snapshot(commit) / file.path
                    if entry.is_symlink():
                        folder.content(commit, file).unlink(missing_ok=True)
                        folder.blob(file.blob).unlink(missing_ok=True)
                    else:
                        entry.unlink()
            elif kind == "link":
                folder.hostile_link(commit, file).unlink()
    return problems


def remove(where: RepoRevision, wanted: Sequence[str]) -> int:
    """Remove files of a revision, and what was fetched of them, from the cache.

    Contents that another file or commit of the repository still uses stay.

    Returns:
        How many bytes that freed.

    Raises:
        HubError: nothing of the revision is cached, or something cannot be removed.
    """
    folder, commit = _cached(where, wanted)
    freed = 0
    with told(where, folder.cache):
        for file in _files(folder, commit, wanted):
            with locked(folder, file, ignore):
                freed += _removed(folder, commit, file)
        folder.prune(commit)
    return freed


def _cached(where: RepoRevision, wanted: Sequence[str]) -> tuple[RepoFolder, str]:
    check_wanted(wanted)
    folder = RepoFolder.of(where)
    with told(where, folder.cache):
        commit = folder.commit_of(where)
        if commit is None or not folder.place.is_dir():
            raise HubError(f"nothing of {where} is in the Hub's cache {folder.cache}")
    return folder, commit


def _files(folder: RepoFolder, commit: str, wanted: Sequence[str]) -> list[RepoFile]:
    """The wanted files as listed; of a commit never listed, those that are there."""
    files = folder.files(commit)
    files = folder.found(commit, wanted) if files is None else files
    return [file for file in files if is_wanted(file.path, wanted)]


def _unlisted(folder: RepoFolder, commit: str, wanted: Sequence[str]) -> list[Problem]:
    files = _files(folder, commit, wanted)
    return [
        Problem(path=want, kind="missing", text=f"{want or 'every file'} is not in the cache")
        for want in wanted
        if not any(is_wanted(file.path, (want,)) for file in files)
    ]


def _problem(folder: RepoFolder, commit: str, file: RepoFile, on_event: Listener) -> Problem | None:
    state = folder.state(commit, file)
    if state == "missing":
        return Problem(path=file.path, kind=state, text=f"{file.path} is not in the cache")
    if state == "link":
        text = f"{file.path} is behind a link that may lead out of the cache"
        return Problem(path=file.path, kind=state, text=text)
    content = folder.content(commit, file)
    if state == "size":
        size = content.stat().st_size
        text = f"{file.path} has {size} bytes, not {file.size}"
        return Problem(path=file.path, kind="size", text=text)
    if file.blob == NO_HASH:
        return Problem(path=file.path, kind="unknown", text=f"{file.path}: no hash of it is known")
    found = _hash(content, file, on_event)
    if found != file.blob:
        text = f"{file.path} is damaged: its hash is {found}, not {file.blob}"
        return Problem(path=file.path, kind="hash", text=text)
    return None


def _hash(content: Path, file: RepoFile, on_event: Listener) -> str:
    digest, done = file.digest(), 0
    with content.open("rb") as stream:
        while chunk := stream.read(_READ_BYTES):
            digest.update(chunk)
            done += len(chunk)
            on_event(FileProgress(path=file.path, done=done, total=file.size))
    return digest.hexdigest()


def _removed(folder: RepoFolder, commit: str, file: RepoFile) -> int:
    entry, freed = folder.snapshot(commit) / file.path, 0
    if folder.is_inside(entry):
        with suppress(FileNotFoundError):
            freed += 0 if entry.is_symlink() else entry.stat().st_size
            entry.unlink()
    blob, part = folder.blob(file.blob), folder.part(file.blob)
    if folder.is_inside(blob):
        unused = [part] if folder.references().get(file.blob) else [part, blob]
        for place in unused:
            with suppress(FileNotFoundError):
                freed += place.lstat().st_size
                place.unlink()
    return freed

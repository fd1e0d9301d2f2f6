"""Files from the Hub into its own cache: one at a time, resumed where an earlier pull stopped."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from istar.errors import HubError
from istar.weights.hub import client
from istar.weights.hub.cache import RepoFolder
from istar.weights.hub.events import (
    FileDone,
    FileProgress,
    Listener,
    Note,
    PullPlan,
    ignore,
)
from istar.weights.hub.listing import (
    EVERYTHING,
    Digest,
    RepoFile,
    RepoRevision,
    check_wanted,
    is_wanted,
)
from istar.weights.hub.lock import locked

READ_BYTES = 1 << 20
_PROGRESS_SECONDS = 0.1
_FRUITLESS_TRIES = 3
_SHOWN = 3


def cached_snapshot(where: RepoRevision, wanted: Sequence[str]) -> Path | None:
    """The directory that holds all wanted files, if they are cached; the network is not asked.

    A file counts if it has its size; `verify` compares the hashes. A directory can only be known
    to be whole when its list was fetched once, by istar or by the Hub's own client.

    Args:
        where: the repository and revision; a branch means what it meant when last asked.
        wanted: files, directories that end in `/`, or `EVERYTHING`.

    Raises:
        HubError: the cache is damaged, or a link in it leads elsewhere.
    """
    check_wanted(wanted)
    folder = RepoFolder.of(where)
    with client.told(where, folder.cache):
        commit = folder.commit_of(where)
        if commit is None:
            return None
        files = folder.files(commit)
        if files is None:
            return folder.snapshot(commit) if _has_named(folder, commit, wanted) else None
        chosen = _chosen(where, files, wanted)
        return None if _missing(folder, commit, chosen) else folder.snapshot(commit)


def pull(where: RepoRevision, wanted: Sequence[str], on_event: Listener = ignore) -> Path:
    """Have the wanted files in the Hub's cache, and fetch only what is not there.

    What an interrupted pull fetched is kept and gone on from. Every file is hashed before it gets
    its name in the cache. With a pinned revision and all files there, nothing is requested.

    Args:
        where: the repository and revision.
        wanted: files, directories that end in `/`, or `EVERYTHING`.
        on_event: is told what happens.

    Returns:
        The snapshot's directory, which holds them by their paths.

    Raises:
        HubError: they cannot be had; the message says what to do.
    """
    if where.pinned and (snapshot := cached_snapshot(where, wanted)):
        return snapshot
    check_wanted(wanted)
    folder = RepoFolder.of(where)
    with client.told(where, folder.cache):
        if client.is_offline():
            return _without_network(folder, where, wanted, on_event, "HF_HUB_OFFLINE is set")
        try:
            commit, files = _listed(folder, where)
        except client.UnreachableError as error:
            try:
                return _without_network(folder, where, wanted, on_event, str(error))
            except HubError:
                raise error from None
        chosen = _chosen(where, files, wanted)
        _fetch_missing(folder, where, commit, chosen, on_event)
        with suppress(OSError):
            folder.remember_commit(where, commit)
        return folder.snapshot(commit)


def list_files(where: RepoRevision) -> tuple[RepoFile, ...]:
    """All files of a repository, in order of their paths.

    A commit is asked for once; a branch each time, unless there is no network.

    Raises:
        HubError: the list cannot be had.
    """
    folder = RepoFolder.of(where)
    with client.told(where, folder.cache):
        known = folder.commit_of(where)
        files = folder.files(known) if known else None
        if files is not None and (where.pinned or client.is_offline()):
            return files
        if client.is_offline():
            there = folder.found(known, [EVERYTHING]) if known else ()
            if there:
                return there
            raise HubError(
                f"HF_HUB_OFFLINE is set, and nothing of {where} is in the cache {folder.cache}; "
                "unset it and run the same command again"
            )
        try:
            return _listed(folder, where)[1]
        except client.UnreachableError:
            if files is None:
                raise
            return files


def _listed(folder: RepoFolder, where: RepoRevision) -> tuple[str, tuple[RepoFile, ...]]:
    """The commit that is meant now and its files, asking for what is not remembered."""
    commit = where.revision
    if not where.pinned:
        commit = client.resolve(where, patient=folder.commit_of(where) is None)
    files = folder.files(commit)
    if files is None:
        files = client.list_files(where, commit)
        with suppress(OSError):
            # A cache that cannot be written may still hold every file.
            folder.remember_files(commit, files)
    return commit, files


def _chosen(
    where: RepoRevision, files: Sequence[RepoFile], wanted: Sequence[str]
) -> tuple[RepoFile, ...]:
    for want in wanted:
        if not any(is_wanted(file.path, (want,)) for file in files):
            raise HubError(
                f"{where} has no {want or 'files'}; check the spelling, or give another revision"
            )
    return tuple(file for file in files if is_wanted(file.path, wanted))


def _has_named(folder: RepoFolder, commit: str, wanted: Sequence[str]) -> bool:
    """Whether single files are all there, though no list says how large they should be."""
    there = {file.path for file in folder.found(commit, wanted)}
    return all(want in there for want in wanted)


def _missing(folder: RepoFolder, commit: str, files: Sequence[RepoFile]) -> list[RepoFile]:
    missing = []
    for file in files:
        state = folder.state(commit, file)
        if state == "link":
            raise folder.hostile(commit, file)
        if state != "ok":
            missing.append(file)
    return missing


def _without_network(
    folder: RepoFolder,
    where: RepoRevision,
    wanted: Sequence[str],
    on_event: Listener,
    why: str,
) -> Path:
    commit = folder.commit_of(where)
    files = None if commit is None else folder.files(commit)
    if commit is None:
        lacking = [str(where)]
    elif files is not None:
        lacking = [file.path for file in _missing(folder, commit, _chosen(where, files, wanted))]
    else:
        there = folder.found(commit, wanted)
        lacking = [
            want or str(where)
            for want in wanted
            if not any(is_wanted(file.path, (want,)) for file in there)
        ]
        if not lacking and any(want == EVERYTHING or want.endswith("/") for want in wanted):
            on_event(
                Note(
                    text=f"the list of files of {where} was never fetched, so whether all of "
                    f"them are in the cache cannot be told"
                )
            )
    if lacking or commit is None:
        more = f" and {len(lacking) - _SHOWN} more" if len(lacking) > _SHOWN else ""
        raise HubError(
            f"{', '.join(lacking[:_SHOWN])}{more} of {where.repo} cannot be used from the cache "
            f"{folder.cache}, where it is missing or cut short, and {why}; unset HF_HUB_OFFLINE "
            "and run the same command again with a network"
        )
    if not where.pinned and not client.is_offline():
        on_event(
            Note(text=f"{why}. Using {where.repo} as it was when last fetched ({commit[:12]})")
        )
    return folder.snapshot(commit)


def _fetch_missing(
    folder: RepoFolder,
    where: RepoRevision,
    commit: str,
    files: Sequence[RepoFile],
    on_event: Listener,
) -> None:
    missing = _missing(folder, commit, files)
    absent = {file.blob: file for file in missing if folder.blob_state(file) != "ok"}
    bytes_missing = sum(file.size - folder.part_size(file) for file in absent.values())
    free = _free_bytes(folder.cache)
    on_event(
        PullPlan(
            files_total=len(files),
            files_missing=len(missing),
            bytes_total=sum(file.size for file in files),
            bytes_missing=bytes_missing,
            free_bytes=free,
        )
    )
    if bytes_missing > free:
        raise HubError(
            f"{where} needs {_readable(bytes_missing)} more, and the disk of {folder.cache} has "
            f"{_readable(free)} free; free space, or set HF_HUB_CACHE to a directory elsewhere"
        )
    if missing:
        # Without it the Hub's client calls the repository's folder corrupt.
        folder.make_directory(folder.snapshot(commit))
    for file in missing:
        _fetch(folder, where, commit, file, on_event)
        on_event(FileDone(path=file.path))


def _fetch(
    folder: RepoFolder, where: RepoRevision, commit: str, file: RepoFile, on_event: Listener
) -> None:
    folder.make_directory(folder.blob(file.blob).parent)
    with locked(folder, file, on_event):
        state = folder.blob_state(file)
        if state == "link":
            raise folder.hostile(commit, file)
        if state == "size":
            on_event(Note(text=f"{file.path} was damaged in the cache and is fetched again"))
            folder.blob(file.blob).unlink()
        if state != "ok":
            _download(folder, where, commit, file, on_event)
        folder.link(commit, file)


def _download(
    folder: RepoFolder, where: RepoRevision, commit: str, file: RepoFile, on_event: Listener
) -> None:
    for attempt in ("first", "last"):
        try:
            with folder.open_part(file) as part:
                _complete(part, where, commit, file, on_event)
            folder.place_blob(file)
            return
        except client.CorruptError as error:
            folder.part(file.blob).unlink(missing_ok=True)
            if attempt == "last":
                raise HubError(
                    f"{file.path} of {where} came damaged twice, and nothing of it was kept: "
                    f"{error}. Run the same command again later, or check the proxy"
                ) from error
            on_event(Note(text=f"{file.path} was damaged on the way and is fetched anew"))


def _complete(
    part: BinaryIO, where: RepoRevision, commit: str, file: RepoFile, on_event: Listener
) -> None:
    """Add to a part what it lacks, hashing all of it on the way."""
    progress = _Progress(file, on_event)
    digest, done = file.digest(), 0
    while chunk := part.read(READ_BYTES):
        done = _counted(done, chunk, file, digest)
        progress.tell(done)
    tries = 0
    while done < file.size:
        before, pause, passing = done, client.RETRY_SECONDS[0], None
        try:
            with client.open_body(where, commit, file, done) as (begin, chunks):
                if begin != done:
                    digest, done = file.digest(), 0
                    part.seek(0)
                    part.truncate()
                for chunk in chunks:
                    done = _counted(done, chunk, file, digest)
                    part.write(chunk)
                    progress.tell(done)
        except Exception as error:
            wished = client.wished_pause(error)
            if wished is None:
                raise
            pause, passing = max(pause, wished), error
        if done < file.size:
            tries = 0 if done > before else tries + 1
            if tries >= _FRUITLESS_TRIES:
                if passing:
                    raise passing
                raise client.CorruptError(f"{done} of {file.size} bytes came")
            part.flush()
            time.sleep(pause)
    if digest.hexdigest() != file.blob:
        raise client.CorruptError(f"its hash is {digest.hexdigest()}, not {file.blob}")
    part.flush()
    os.fsync(part.fileno())
    progress.tell(done)


def _counted(done: int, chunk: bytes, file: RepoFile, digest: Digest) -> int:
    if done + len(chunk) > file.size:
        raise client.CorruptError(f"more than {file.size} bytes came")
    digest.update(chunk)
    return done + len(chunk)


class _Progress:
    """Tells how far a file is, but not for every chunk."""

    def __init__(self, file: RepoFile, on_event: Listener) -> None:
        self._file, self._on_event = file, on_event
        self._next = 0.0

    def tell(self, done: int) -> None:
        now = time.monotonic()
        if now >= self._next or done == self._file.size:
            self._next = now + _PROGRESS_SECONDS
            self._on_event(FileProgress(path=self._file.path, done=done, total=self._file.size))


def _free_bytes(place: Path) -> int:
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def _readable(count: int) -> str:
    return f"{count / 1e9:.1f} GB ({count} bytes)" if count >= 1e8 else f"{count} bytes"

"""What is wanted of the Hub, held against its own cache: what is missing is fetched."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from istar.errors import HubError
from istar.models.hub import client
from istar.models.hub.cache import RepoFolder
from istar.models.hub.download import fetch
from istar.models.hub.events import FileDone, Listener, Note, PullPlan, ignore
from istar.models.hub.listing import (
    EVERYTHING,
    RepoFile,
    RepoRevision,
    check_wanted,
    is_wanted,
)

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
    return pull_all({where: wanted}, on_event)[where]


def pull_all(
    wanted: Mapping[RepoRevision, Sequence[str]], on_event: Listener = ignore
) -> dict[RepoRevision, Path]:
    """Pull from several revisions as from one: the room is looked for before the first byte.

    Args:
        wanted: of each revision the files, as `pull` takes them.
        on_event: is told what happens.

    Returns:
        Each revision's snapshot.

    Raises:
        HubError: as `pull`.
    """
    here, pulls = {}, []
    for where, paths in wanted.items():
        found = _looked_up(where, paths, on_event)
        if isinstance(found, Path):
            here[where] = found
        else:
            pulls.append(found)
    if pulls:
        _check_room(pulls, on_event)
    for pending in pulls:
        here[pending.where] = _fetch_missing(pending, on_event)
    return here


@dataclass(frozen=True, kw_only=True)
class _Pending:
    """What a pull is about: the files of a commit that are wanted, and those not in the cache."""

    folder: RepoFolder
    where: RepoRevision
    commit: str
    files: tuple[RepoFile, ...]
    missing: list[RepoFile]


def _looked_up(where: RepoRevision, wanted: Sequence[str], on_event: Listener) -> Path | _Pending:
    """The snapshot, if it is to be used as it is here; else what is to be fetched."""
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
        return _Pending(
            folder=folder,
            where=where,
            commit=commit,
            files=chosen,
            missing=_missing(folder, commit, chosen),
        )


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


def _check_room(pulls: Sequence[_Pending], on_event: Listener) -> None:
    """Tell how much will be fetched, and refuse it where the disk has too little room."""
    cache = pulls[0].folder.cache
    with client.told(pulls[0].where, cache):
        bytes_missing = sum(
            file.size - pending.folder.part_size(file)
            for pending in pulls
            for file in {file.blob: file for file in pending.missing}.values()
            if pending.folder.blob_state(file) != "ok"
        )
        free = _free_bytes(cache)
    on_event(
        PullPlan(
            files_total=sum(len(pending.files) for pending in pulls),
            files_missing=sum(len(pending.missing) for pending in pulls),
            bytes_total=sum(file.size for pending in pulls for file in pending.files),
            bytes_missing=bytes_missing,
            free_bytes=free,
        )
    )
    if bytes_missing > free:
        repos = ", ".join(dict.fromkeys(pending.where.repo for pending in pulls))
        raise HubError(
            f"{repos} needs {_readable(bytes_missing)} more, and the disk of {cache} has "
            f"{_readable(free)} free; free space, or set HF_HUB_CACHE to a directory elsewhere"
        )


def _fetch_missing(pending: _Pending, on_event: Listener) -> Path:
    folder, where, commit = pending.folder, pending.where, pending.commit
    with client.told(where, folder.cache):
        if pending.missing:
            # Without it the Hub's client calls the repository's folder corrupt.
            folder.make_directory(folder.snapshot(commit))
        for file in pending.missing:
            fetch(folder, where, commit, file, on_event)
            on_event(FileDone(path=file.path))
        with suppress(OSError):
            folder.remember_commit(where, commit)
    return folder.snapshot(commit)


def _free_bytes(place: Path) -> int:
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def _readable(count: int) -> str:
    return f"{count / 1e9:.1f} GB ({count} bytes)" if count >= 1e8 else f"{count} bytes"

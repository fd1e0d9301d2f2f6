"""Models from the Hub: listed, fetched into its own cache, found there, checked by hash, removed.

`huggingface_hub` is imported when something is asked of it, not before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from istar import __version__
from istar.byte_size import readable_size
from istar.errors import HubError
from istar.files import free_bytes
from istar.models.download import bytes_kept, download
from istar.models.download_events import (
    DownloadListener,
    DownloadNote,
    DownloadPlanned,
    DownloadProgress,
    ignore,
)
from istar.models.hub_cache import RepoFolder, size_of
from istar.models.hub_errors import HubUnreachableError, explained_hub_errors
from istar.models.hub_settings import HubSettings, hub_settings
from istar.models.repository import RepoFile, RepoRevision, check_path, is_commit, is_wanted

_SECONDS_TO_ANSWER = 3.0
_ANOTHER_SERVER = "{} does not answer as the Hub does; check HF_ENDPOINT and the proxy"
_NAMED = 3
_READ_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class CachedFiles:
    """What of some wanted files is in the cache; sizes in bytes.

    Attributes:
        snapshot: the directory that holds all of them; None as long as one is missing.
        bytes_here: of whole files and of the parts of others.
        bytes_total: of all wanted files; None as long as their list was never fetched.
    """

    snapshot: Path | None
    bytes_here: int
    bytes_total: int | None


def cached_files(where: RepoRevision, wanted: Sequence[str]) -> CachedFiles:
    """What of some files is in the cache; nothing is requested.

    A file counts if it has its size; `verify` compares the hashes. Files are only known to be all
    when their list was fetched once, by istar or by the Hub's own client.

    Args:
        where: the repository and revision; a branch means what it meant when last asked.
        wanted: files, or directories that end in `/`.

    Raises:
        HubError: the cache cannot be read.
    """
    folder = _folder(where, wanted)
    with explained_hub_errors(where, folder.cache):
        commit = folder.commit_of(where)
        if commit is None:
            return CachedFiles(snapshot=None, bytes_here=0, bytes_total=None)
        listed = folder.files(commit)
        files, absent = _chosen(listed or folder.found(commit), wanted)
        whole = listed and not absent and all(folder.is_whole(commit, file) for file in files)
        return CachedFiles(
            snapshot=folder.snapshot(commit) if whole else None,
            bytes_here=sum(folder.bytes_here(commit, file) for file in files),
            bytes_total=sum(file.size for file in files) if listed else None,
        )


def list_files(where: RepoRevision) -> tuple[RepoFile, ...]:
    """All files of a repository, in order of their paths.

    A commit is asked for once; a branch each time, unless there is no network.

    Raises:
        HubError: the list cannot be had.
    """
    return _listed(RepoFolder.of(where), where).files


def bytes_of(wanted: Mapping[RepoRevision, Sequence[str]]) -> int:
    """The size of all wanted files, whether they are here or not, before they are fetched.

    Raises:
        HubError: the Hub does not say, or may not be asked.
    """
    size = 0
    for where, paths in wanted.items():
        listing = _listed(RepoFolder.of(where), where)
        if listing.failure:
            raise listing.failure
        size += sum(file.size for file in listing.files if is_wanted(file.path, paths))
    return size


def pull(
    wanted: Mapping[RepoRevision, Sequence[str]], on_event: DownloadListener = ignore
) -> dict[RepoRevision, Path]:
    """Have the wanted files in the Hub's cache, and fetch only what is not there.

    What an interrupted pull fetched is kept and completed. Every file is hashed before it gets its
    name in the cache. With pinned revisions and all files there, nothing is requested. The room on
    the disk is checked for all revisions before the first byte.

    Args:
        wanted: of each revision files, or directories that end in `/`.
        on_event: receives events.

    Returns:
        Each revision's snapshot, the directory that holds its files by their paths.

    Raises:
        HubError: they cannot be had; the message says what to do.
    """
    pending = [_pending(where, paths, on_event) for where, paths in wanted.items()]
    if any(each.missing for each in pending):
        _check_room(pending, on_event)
    return {each.where: _fetch_missing(each, on_event) for each in pending}


def verify(
    where: RepoRevision,
    wanted: Sequence[str],
    on_event: DownloadListener = ignore,
    *,
    repair: bool = False,
) -> list[str]:
    """What is wrong with the wanted files in the cache, a sentence each; nothing is requested.

    Args:
        where: the repository and revision.
        wanted: files, or directories that end in `/`.
        on_event: receives progress.
        repair: remove what is damaged, so that the next pull fetches it.

    Raises:
        HubError: nothing of the revision is cached, or the cache cannot be read.
    """
    folder, commit, files, absent = _known(where, wanted)
    damaged = []
    with explained_hub_errors(where, folder.cache):
        for file in files:
            path = folder.snapshot(commit) / file.path
            if size_of(path) is None:
                absent.append(file.path)
            elif _hash(path, file, on_event) != file.blob:
                damaged.append(f"{file.path} is damaged: it does not have the hash {file.blob}")
                if repair:
                    with folder.locked(file, on_event):
                        path.resolve().unlink(missing_ok=True)
                        path.unlink(missing_ok=True)
    return [f"{path} is not in the cache" for path in absent] + damaged


def remove(where: RepoRevision, wanted: Sequence[str]) -> int:
    """Remove files of a revision, and what was fetched of them, from the cache.

    Contents that another file or commit of the repository still uses stay.

    Returns:
        How many bytes that freed.

    Raises:
        HubError: nothing of the revision is cached, or something cannot be removed.
    """
    folder, commit, files, _ = _known(where, wanted)
    freed = 0
    with explained_hub_errors(where, folder.cache):
        for file in files:
            with folder.locked(file, ignore):
                freed += folder.remove(commit, file)
        folder.prune(commit)
    return freed


def ask_hub(where: RepoRevision, settings: HubSettings) -> None:
    """Ask for a repository, in one request, as a download does first.

    Raises:
        HubError: the Hub does not answer within seconds, or refuses.
    """
    from huggingface_hub import constants, get_session, get_token, hf_raise_for_status

    # Headers that the client builds would cost a second request, for its telemetry.
    headers = {b"user-agent": f"istar/{__version__}".encode()}
    if settings.has_token:
        headers[b"authorization"] = f"Bearer {get_token()}".encode()
    address = f"{constants.ENDPOINT}/api/models/{where.repo}/revision/{where.revision}"
    with explained_hub_errors(where, settings.cache):
        response = get_session().get(address, headers=headers, timeout=_SECONDS_TO_ANSWER)
        hf_raise_for_status(response)
    if not response.text.startswith("{"):
        raise HubError(_ANOTHER_SERVER.format(settings.endpoint))


def _folder(where: RepoRevision, wanted: Sequence[str]) -> RepoFolder:
    for path in wanted:
        check_path(path.removesuffix("/"))
    return RepoFolder.of(where)


def _chosen(files: Sequence[RepoFile], wanted: Sequence[str]) -> tuple[list[RepoFile], list[str]]:
    """The wanted files, and the wanted paths that do not exist."""
    absent = [want for want in wanted if not any(is_wanted(file.path, [want]) for file in files)]
    return [file for file in files if is_wanted(file.path, wanted)], absent


def _known(
    where: RepoRevision, wanted: Sequence[str]
) -> tuple[RepoFolder, str, list[RepoFile], list[str]]:
    """The wanted files of a cached commit, as listed or else as found there; and those absent."""
    folder = _folder(where, wanted)
    with explained_hub_errors(where, folder.cache):
        commit = folder.commit_of(where)
        if commit is None or not folder.path.is_dir():
            raise HubError(f"nothing of {where} is in the Hub's cache {folder.cache}")
        return folder, commit, *_chosen(folder.files(commit) or folder.found(commit), wanted)


@dataclass(frozen=True)
class _Listing:
    """A commit's files; `failure` says why the Hub could not be asked, if it should have been."""

    commit: str
    files: tuple[RepoFile, ...]
    failure: HubUnreachableError | None = None


def _listed(folder: RepoFolder, where: RepoRevision) -> _Listing:
    """The commit that is meant now and its files; without the Hub, as far as they are known here.

    Raises:
        HubUnreachableError: nothing is known here.
        HubError: the Hub refuses, or its answer makes no sense or leads out of the cache.
    """
    from huggingface_hub import constants

    with explained_hub_errors(where, folder.cache):
        commit = folder.commit_of(where)
        known = folder.files(commit) if commit else ()
        try:
            if constants.HF_HUB_OFFLINE:
                raise HubUnreachableError(
                    f"HF_HUB_OFFLINE forbids downloading {where}; unset HF_HUB_OFFLINE and try "
                    "again"
                )
            if commit and known and where.pinned:
                return _Listing(commit, known)
            with explained_hub_errors(where, folder.cache):
                return _asked(folder, where)
        except HubUnreachableError as failure:
            known = known or (folder.found(commit) if commit else ())
            if not commit or not known:
                raise
            return _Listing(commit, known, failure)


def _asked(folder: RepoFolder, where: RepoRevision) -> _Listing:
    """The Hub's answer, which is remembered."""
    from huggingface_hub import HfApi, constants

    api = HfApi(constants.ENDPOINT, library_name="istar", library_version=__version__)
    try:
        info = api.model_info(
            where.repo,
            revision=where.revision,
            files_metadata=True,
            timeout=float(constants.HF_HUB_ETAG_TIMEOUT),
        )
        commit = where.revision if where.pinned else str(info.sha)
        files = [
            RepoFile(
                path=str(file.rfilename),
                size=file.size if isinstance(file.size, int) else -1,
                blob=str(file.lfs.sha256 if file.lfs else file.blob_id),
            )
            for file in info.siblings or ()
        ]
    except (LookupError, TypeError, AttributeError) as error:
        raise HubError(_ANOTHER_SERVER.format(hub_settings().endpoint)) from error
    if not is_commit(commit):
        raise HubError(f"the Hub names {commit!a:.80}, which is not a commit, as that of {where}")
    files.sort(key=lambda file: file.path)
    with suppress(OSError):
        # A cache that cannot be written may still hold every file.
        folder.remember_files(commit, files)
    return _Listing(commit, tuple(files))


@dataclass(frozen=True, kw_only=True)
class _Pending:
    """What a pull is about: the files of a commit that are wanted, and those not in the cache."""

    folder: RepoFolder
    where: RepoRevision
    commit: str
    files: list[RepoFile]
    missing: list[RepoFile]


def _pending(where: RepoRevision, wanted: Sequence[str], on_event: DownloadListener) -> _Pending:
    folder = _folder(where, wanted)

    from huggingface_hub import constants

    listing = _listed(folder, where)
    with explained_hub_errors(where, folder.cache):
        files, absent = _chosen(listing.files, wanted)
        missing = [file for file in files if not folder.is_whole(listing.commit, file)]
    lacking = absent + [file.path for file in missing]
    if lacking and listing.failure:
        more = f" and {len(lacking) - _NAMED} more" if len(lacking) > _NAMED else ""
        raise HubUnreachableError(
            f"{', '.join(lacking[:_NAMED])}{more} of {where.repo} is missing or cut short in the "
            f"cache {folder.cache}, and {listing.failure}"
        )
    if absent:
        raise HubError(f"{where} has no {absent[0]}; check the spelling, or give another revision")
    if listing.failure and not where.pinned and not constants.HF_HUB_OFFLINE:
        text = f"{listing.failure}. Using {where.repo} as it was when last fetched"
        on_event(DownloadNote(text=f"{text} ({listing.commit[:12]})", warns=True))
    return _Pending(folder=folder, where=where, commit=listing.commit, files=files, missing=missing)


def _check_room(pulls: Sequence[_Pending], on_event: DownloadListener) -> None:
    """Say how much will be fetched, and refuse it where the disk has too little room."""
    cache = pulls[0].folder.cache
    with explained_hub_errors(pulls[0].where, cache):
        bytes_missing = sum(
            file.size - bytes_kept(blob, file.size)
            for pending in pulls
            for blob, file in {pending.folder.blob(file): file for file in pending.missing}.items()
            if size_of(blob) != file.size
        )
        free = free_bytes(cache)
    on_event(
        DownloadPlanned(
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
            f"{repos} needs {readable_size(bytes_missing)} more, and the disk of {cache} has "
            f"{readable_size(free)} free; free space, or set HF_HUB_CACHE to a directory elsewhere"
        )


def _fetch_missing(pending: _Pending, on_event: DownloadListener) -> Path:
    from huggingface_hub import constants, hf_hub_url

    folder, where, commit = pending.folder, pending.where, pending.commit
    with explained_hub_errors(where, folder.cache):
        if pending.missing:
            # Without a snapshot the Hub's client calls the repository's folder corrupt.
            folder.snapshot(commit).mkdir(parents=True, exist_ok=True)
        for file in pending.missing:
            blob = folder.blob(file)
            blob.parent.mkdir(exist_ok=True)
            with folder.locked(file, on_event):
                size = size_of(blob)
                if size not in (None, file.size):
                    note = f"{file.path} was damaged in the cache and is fetched again"
                    on_event(DownloadNote(text=note))
                if size != file.size:
                    url = hf_hub_url(
                        where.repo, file.path, revision=commit, endpoint=constants.ENDPOINT
                    )
                    download(url, file, blob, on_event)
                folder.link(commit, file)
        with suppress(OSError):
            folder.remember_commit(where, commit)
    return folder.snapshot(commit)


def _hash(path: Path, file: RepoFile, on_event: DownloadListener) -> str:
    digest, done = file.digest(), 0
    with path.open("rb") as stream:
        while chunk := stream.read(_READ_BYTES):
            digest.update(chunk)
            done += len(chunk)
            on_event(DownloadProgress(path=file.path, done=done, total=file.size))
    return digest.hexdigest()

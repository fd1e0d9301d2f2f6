"""What a repository on the Hub holds: names, sizes and hashes, none of it trusted unchecked."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from istar.errors import HubError

EVERYTHING = ""
"""As a wanted path: every file of the repository."""

_COMMIT = re.compile(r"[0-9a-f]{40}")
_BLOB = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_REPO_PART = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?")
_REVISION_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._@+-]{0,127}")
_LARGEST_FILE = 1 << 50
_NEVER_READ = (".bin", ".ckpt", ".gguf", ".h5", ".msgpack", ".onnx", ".ot", ".pt")
_LONGEST_NAME = 255


@dataclass(frozen=True, kw_only=True)
class RepoRevision:
    """A repository on the Hub and which state of it.

    Attributes:
        repo: `owner/name`.
        revision: a commit's 40 hex digits, or a branch or tag.

    Raises:
        HubError: one of them cannot be what it should be.
    """

    repo: str
    revision: str = "main"

    def __post_init__(self) -> None:
        parts = self.repo.split("/")
        if len(parts) != 2 or not all(
            _REPO_PART.fullmatch(part) and ".." not in part and "--" not in part for part in parts
        ):
            raise HubError(
                f"{self.repo!r} does not name a repository on the Hub; write owner/name, such as "
                "FoundationVision/InfinityStar"
            )
        if not all(
            _REVISION_PART.fullmatch(part) and ".." not in part and not part.endswith(".lock")
            for part in self.revision.split("/")
        ):
            raise HubError(
                f"{self.revision!r} does not name a revision; give a branch, a tag or a commit's "
                "40 digits"
            )

    @property
    def pinned(self) -> bool:
        """Whether it names one commit, whose files never change."""
        return bool(_COMMIT.fullmatch(self.revision))

    @property
    def folder_name(self) -> str:
        """The name of the repository's folder in the Hub's cache."""
        return "--".join(("models", *self.repo.split("/")))

    def __str__(self) -> str:
        return f"{self.repo} at {self.revision[:12] if self.pinned else self.revision}"


class Digest(Protocol):
    """A hash under way."""

    def update(self, data: bytes, /) -> None:
        """Add bytes."""

    def hexdigest(self) -> str:
        """The hash so far, in lower-case hex digits."""


@dataclass(frozen=True, kw_only=True)
class RepoFile:
    """A file of a repository.

    Attributes:
        path: relative to the repository, with forward slashes.
        size: bytes.
        blob: its ETag and the name of its blob: the sha256 of a large file, else git's sha1.

    Raises:
        HubError: a path that leaves the repository's folder, or an impossible size or hash.
    """

    path: str
    size: int
    blob: str

    def __post_init__(self) -> None:
        check_path(self.path)
        if not 0 <= self.size <= _LARGEST_FILE:
            raise HubError(f"the Hub names an impossible size for {self.path}: {self.size}")
        if not _BLOB.fullmatch(self.blob):
            raise HubError(
                f"the Hub names {self.blob!r:.80} as the hash of {self.path}, which is none; "
                "nothing of it was fetched"
            )

    @property
    def sha256(self) -> str | None:
        """The sha256 of a large file; None of a small one, whose hash is git's."""
        return self.blob if len(self.blob) == 64 else None

    def digest(self) -> Digest:
        """A hash that is `blob` once it has all bytes of the file."""
        if self.sha256:
            return hashlib.sha256()
        digest = hashlib.sha1(usedforsecurity=False)
        digest.update(b"blob %d\0" % self.size)
        return digest


def is_commit(text: object) -> bool:
    """Whether it is a commit's full hash."""
    return isinstance(text, str) and bool(_COMMIT.fullmatch(text))


def is_blob(text: str) -> bool:
    """Whether it can be the name of a blob: 40 or 64 hex digits."""
    return bool(_BLOB.fullmatch(text))


def check_path(path: str) -> None:
    """Refuse a file's name that could lead out of its folder or means something to a terminal.

    Raises:
        HubError: it is absolute, has a drive, `..`, a backslash or a control character, or is no
            name at all.
    """
    if (
        re.match(r"[A-Za-z]:", path)
        or "\\" in path
        or any(unicodedata.category(character) in ("Cc", "Cf", "Cs") for character in path)
        or any(
            part in ("", ".", "..") or len(part.encode()) > _LONGEST_NAME
            for part in path.split("/")
        )
    ):
        raise HubError(
            f"{path!a:.120} is refused as the name of a file, because it may lead out of its folder"
        )


def check_wanted(wanted: Sequence[str]) -> None:
    """Refuse a choice of files that is none.

    Args:
        wanted: paths of files, directories that end in `/`, or `EVERYTHING`.

    Raises:
        HubError: nothing is wanted, or a path is not one.
    """
    if not wanted:
        raise HubError("no files were asked for")
    for path in wanted:
        if path != EVERYTHING:
            check_path(path.removesuffix("/"))


def is_wanted(path: str, wanted: Iterable[str]) -> bool:
    """Whether a file is among those wanted, or in a directory that is.

    Of a directory, weights in a form that istar never reads are not wanted: repositories keep the
    same text encoder in several.
    """
    return any(
        path == want
        or want == EVERYTHING
        or (want.endswith("/") and path.startswith(want) and not path.endswith(_NEVER_READ))
        for want in wanted
    )


def files_from_tree(entries: Iterable[object]) -> tuple[RepoFile, ...]:
    """The files in the Hub's answer to "what is in this commit".

    Raises:
        HubError: an entry that is malformed or hostile.
    """
    files = []
    for entry in entries:
        if not isinstance(entry, Mapping):
            raise HubError("the Hub's list of files is damaged; try again later")
        if entry.get("type") == "directory":
            continue
        large = entry.get("lfs")
        path, size = entry.get("path"), entry.get("size")
        blob = large.get("oid") if isinstance(large, Mapping) else entry.get("oid")
        if not (isinstance(path, str) and isinstance(size, int) and isinstance(blob, str)):
            raise HubError(f"the Hub's list of files is damaged at {path!a:.120}; try again later")
        files.append(RepoFile(path=path, size=size, blob=blob))
    return _distinct(files)


def files_from_record(record: object) -> tuple[RepoFile, ...]:
    """The files in a record of `files_as_record`.

    Raises:
        HubError: it is damaged.
    """
    entries = record.get("files") if isinstance(record, Mapping) else None
    if not isinstance(record, Mapping) or record.get("format_version") != 1:
        raise HubError("a record of another kind")
    if not isinstance(entries, Mapping):
        raise HubError("a record without files")
    return files_from_tree(
        {
            "path": path,
            "size": entry.get("size"),
            "oid": entry.get("lfs_sha256") or entry.get("blob_id"),
        }
        if isinstance(entry, Mapping)
        else None
        for path, entry in entries.items()
    )


def files_as_record(files: Iterable[RepoFile]) -> dict[str, object]:
    """A commit's files in the form in which the Hub's own client remembers them.

    Source: `huggingface_hub` 2, `trees/<commit>.json` in a repository's folder of the cache.
    """
    return {
        "format_version": 1,
        "files": {
            file.path: {"size": file.size, "blob_id": file.blob}
            | ({"lfs_sha256": file.blob, "lfs_size": file.size} if file.sha256 else {})
            for file in files
        },
    }


def _distinct(files: list[RepoFile]) -> tuple[RepoFile, ...]:
    paths = {file.path for file in files}
    parents = {
        "/".join(parts[:count])
        for parts in (path.split("/") for path in paths)
        for count in range(1, len(parts))
    }
    if len(paths) < len(files) or paths & parents:
        raise HubError("the Hub's list of files names one of them twice; nothing was fetched")
    return tuple(sorted(files, key=lambda file: file.path))

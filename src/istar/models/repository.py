"""A repository on the Hub and its files; names and hashes are checked, since paths come of them."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from istar.errors import HubError

if TYPE_CHECKING:
    from hashlib import _Hash

_COMMIT = re.compile(r"[0-9a-f]{40}")
_BLOB = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_REPO_PART = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?")
_REVISION_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._@+-]{0,127}")
_NEVER_READ = (".bin", ".ckpt", ".gguf", ".h5", ".msgpack", ".onnx", ".ot", ".pt")


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
            _REPO_PART.fullmatch(part) and not re.search(r"\.\.|--|\.git$", part) for part in parts
        ):
            raise HubError(
                f"{self.repo!r} does not name a repository on the Hub; write owner/name, such as "
                "FoundationVision/InfinityStar"
            )
        if not all(
            _REVISION_PART.fullmatch(part) and ".." not in part for part in self.revision.split("/")
        ):
            raise HubError(
                f"{self.revision!r} does not name a revision; give a branch, a tag or a commit's "
                "40 digits"
            )

    @property
    def pinned(self) -> bool:
        """Whether it names one commit, whose files never change."""
        return is_commit(self.revision)

    def __str__(self) -> str:
        return f"{self.repo} at {self.revision[:12] if self.pinned else self.revision}"


@dataclass(frozen=True, kw_only=True)
class HubPlace:
    """Where a model lies on the Hub; as a text, the name that finds it there.

    Attributes:
        repository: `owner/name`.
        revision: the commit of its transformer; a branch's name where the commit is not known.
        folder: its directory in the repository; None at the top.
    """

    repository: str
    revision: str
    folder: str | None = None

    def __str__(self) -> str:
        return f"{self.repository}@{self.revision}" + (f":{self.folder}" if self.folder else "")


@dataclass(frozen=True, kw_only=True)
class RepoFile:
    """A file of a repository.

    Attributes:
        path: relative to the repository, with forward slashes.
        size: bytes.
        blob: its hash, by which the Hub's cache names it: sha256 of a large file, else git's sha1.

    Raises:
        HubError: a path that leads out of the repository's folder, or an impossible size or hash.
    """

    path: str
    size: int
    blob: str

    def __post_init__(self) -> None:
        check_path(self.path)
        if self.size < 0 or not _BLOB.fullmatch(self.blob):
            raise HubError(
                f"the Hub names an impossible size or hash for {self.path}: {self.size}, "
                f"{self.blob!a:.80}; nothing of it was fetched"
            )

    @property
    def is_large(self) -> bool:
        """Whether it lies in the Hub's large-file storage, which knows its sha256."""
        return len(self.blob) == 64

    def digest(self) -> _Hash:
        """A hash that is `blob` once it has all bytes of the file."""
        if self.is_large:
            return hashlib.sha256()
        return hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)


def is_commit(text: object) -> bool:
    """Whether it is a commit's full hash."""
    return isinstance(text, str) and bool(_COMMIT.fullmatch(text))


def is_blob(text: str) -> bool:
    """Whether it can be the name of a blob: 40 or 64 hex digits."""
    return bool(_BLOB.fullmatch(text))


def check_path(path: str) -> None:
    """Refuse a file's name that could lead out of its folder or steer a terminal.

    Raises:
        HubError: it is absolute, has a drive, `..`, a backslash or a control character, or is no
            name at all.
    """
    if (
        re.match(r"[A-Za-z]:", path)
        or "\\" in path
        or any(unicodedata.category(character) in ("Cc", "Cf", "Cs") for character in path)
        or any(part in ("", ".", "..") for part in path.split("/"))
    ):
        raise HubError(
            f"{path!a:.120} is refused as the name of a file, because it may lead out of its folder"
        )


def is_wanted(path: str, wanted: Iterable[str]) -> bool:
    """Whether a file is among those wanted, or in a directory (it ends in `/`) that is.

    Of a directory, weights in a form that istar never reads are not wanted: repositories keep the
    same text encoder in several.
    """
    return any(
        path == want
        or (want.endswith("/") and path.startswith(want) and not path.endswith(_NEVER_READ))
        for want in wanted
    )

"""Events of a download, of a check of what was downloaded, and of loading it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from istar.errors import Remedy


@dataclass(frozen=True, kw_only=True)
class DownloadPlanned:
    """What is about to be fetched; sizes in bytes.

    Attributes:
        files_total: how many files were asked for.
        files_missing: how many of them are not in the cache.
        bytes_total: the size of all.
        bytes_missing: what has still to be fetched, without what earlier pulls left behind.
        free_bytes: the room on the cache's disk.
    """

    files_total: int
    files_missing: int
    bytes_total: int
    bytes_missing: int
    free_bytes: int


@dataclass(frozen=True, kw_only=True)
class DownloadProgress:
    """So many bytes of a file are there, or were checked."""

    path: str
    done: int
    total: int


@dataclass(frozen=True, kw_only=True)
class DownloadWaiting:
    """Another process fetches the file now."""

    path: str


@dataclass(frozen=True, kw_only=True)
class DownloadNote:
    """Something worth knowing that is not an error, and what could be done about it.

    Attributes:
        text: a sentence.
        remedies: what may help, as those of an error.
        warns: what is used is not what was asked for.
    """

    text: str
    remedies: tuple[Remedy, ...] = ()
    warns: bool = False


@dataclass(frozen=True, kw_only=True)
class LoadProgress:
    """So many bytes of a model's weights are loaded.

    Attributes:
        model: its name.
        part: which of its networks is being loaded.
        done: bytes, of all networks.
        total: likewise.
    """

    model: str
    part: str
    done: int
    total: int


DownloadEvent = DownloadPlanned | DownloadProgress | DownloadWaiting | DownloadNote | LoadProgress
DownloadListener = Callable[[DownloadEvent], None]


def ignore(event: DownloadEvent) -> None:
    """A listener that does nothing."""

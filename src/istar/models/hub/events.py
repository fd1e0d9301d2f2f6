"""What a pull tells while it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class PullPlan:
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
class FileProgress:
    """So many bytes of a file are there, or were checked."""

    path: str
    done: int
    total: int


@dataclass(frozen=True, kw_only=True)
class FileDone:
    """A file is in the cache, whole and checked."""

    path: str


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """Another process fetches the file now.

    Attributes:
        path: the file.
        pid: that process; None if it does not say.
    """

    path: str
    pid: int | None


@dataclass(frozen=True, kw_only=True)
class Note:
    """Something worth knowing that is not an error."""

    text: str


Event = PullPlan | FileProgress | FileDone | Waiting | Note
Listener = Callable[[Event], None]


def ignore(event: Event) -> None:
    """A listener that does nothing."""

"""Models from the Hub: fetched into its own cache, resumed, checked by hash, found offline."""

from __future__ import annotations

from istar.models.hub.cache import cache_dir
from istar.models.hub.care import Problem, remove, repair, verify
from istar.models.hub.events import (
    Event,
    FileDone,
    FileProgress,
    Listener,
    Note,
    PullPlan,
    Waiting,
    ignore,
)
from istar.models.hub.listing import EVERYTHING, RepoFile, RepoRevision
from istar.models.hub.look import Holding, holding
from istar.models.hub.pull import cached_snapshot, list_files, pull, pull_all

__all__ = [
    "EVERYTHING",
    "Event",
    "FileDone",
    "FileProgress",
    "Holding",
    "Listener",
    "Note",
    "Problem",
    "PullPlan",
    "RepoFile",
    "RepoRevision",
    "Waiting",
    "cache_dir",
    "cached_snapshot",
    "holding",
    "ignore",
    "list_files",
    "pull",
    "pull_all",
    "remove",
    "repair",
    "verify",
]

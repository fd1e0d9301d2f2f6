"""Models from the Hub: fetched into its own cache, resumed, checked by hash, found offline."""

from __future__ import annotations

from istar.weights.hub.cache import cache_dir
from istar.weights.hub.care import Problem, remove, repair, verify
from istar.weights.hub.events import (
    Event,
    FileDone,
    FileProgress,
    Listener,
    Note,
    PullPlan,
    Waiting,
    ignore,
)
from istar.weights.hub.listing import EVERYTHING, RepoFile, RepoRevision
from istar.weights.hub.look import Holding, holding
from istar.weights.hub.pull import cached_snapshot, list_files, pull, pull_all

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

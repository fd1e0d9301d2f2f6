"""How much of what is wanted is in the cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from istar.models.hub import client
from istar.models.hub.cache import RepoFolder
from istar.models.hub.listing import RepoRevision, check_wanted, is_wanted


@dataclass(frozen=True, kw_only=True)
class Holding:
    """What of some wanted files is in the cache; sizes in bytes.

    Attributes:
        bytes_here: of whole files and of the parts of others.
        bytes_total: of all wanted files; None as long as their list was never fetched.
    """

    bytes_here: int
    bytes_total: int | None


def holding(where: RepoRevision, wanted: Sequence[str]) -> Holding:
    """How much of some files is in the cache; nothing is requested.

    Args:
        where: the repository and revision.
        wanted: files, or directories that end in `/`.

    Raises:
        HubError: the cache is damaged or cannot be read.
    """
    check_wanted(wanted)
    folder = RepoFolder.of(where)
    with client.told(where, folder.cache):
        commit = folder.commit_of(where)
        if commit is None:
            return Holding(bytes_here=0, bytes_total=None)
        files = folder.files(commit)
        if files is None:
            found = folder.found(commit, wanted)
            return Holding(bytes_here=sum(file.size for file in found), bytes_total=None)
        chosen = [file for file in files if is_wanted(file.path, wanted)]
        return Holding(
            bytes_here=sum(
                file.size if folder.state(commit, file) == "ok" else folder.part_size(file)
                for file in chosen
            ),
            bytes_total=sum(file.size for file in chosen),
        )

"""One process at a time fetches, checks or removes a file.

::

    <cache>/.locks/models--owner--name/<etag>.lock  the one that the Hub's own client takes
    <cache>/.locks/models--owner--name/<etag>.pid   who holds it
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from istar.errors import HubError
from istar.models.hub.cache import RepoFolder
from istar.models.hub.events import Listener, Waiting
from istar.models.hub.listing import RepoFile

_SECONDS = 0.2


@contextmanager
def locked(folder: RepoFolder, file: RepoFile, on_event: Listener) -> Iterator[None]:
    """Be the only process that changes a file's content; tell whom is waited for.

    The system frees the lock when its holder dies.

    Raises:
        HubError: a link stands in the way.
    """
    place = folder.cache / ".locks" / folder.name / f"{file.blob}.lock"
    folder.make_directory(place.parent)
    if place.is_symlink():
        raise HubError(f"{place} is a link; remove it and run the same command again")
    holder, told = place.with_suffix(".pid"), False
    lock: BaseFileLock = FileLock(place, timeout=_SECONDS, mode=0o664)
    while not lock.is_locked:
        try:
            lock.acquire()
        except Timeout:
            if not told:
                on_event(Waiting(path=file.path, pid=_alive(folder, holder)))
            told = True
        except NotImplementedError:
            # Some network disks have no such locks; the Hub's client does the same.
            lock = SoftFileLock(place, timeout=_SECONDS, mode=0o664)
    try:
        folder.write(holder, f"{os.getpid()}\n")
        yield
    finally:
        with suppress(OSError):
            holder.unlink(missing_ok=True)
        lock.release()


def _alive(folder: RepoFolder, holder: Path) -> int | None:
    """The process that a lock's companion names, if there is such a process."""
    text = folder.read(holder, limit=20)
    if text is None or not text.strip().isdigit():
        return None
    pid = int(text)
    try:
        os.kill(pid, 0)
    except PermissionError:
        return pid
    except (OSError, OverflowError):
        return None
    return pid

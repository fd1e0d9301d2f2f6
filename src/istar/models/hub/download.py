"""One file from the Hub into its own cache, resumed where an earlier pull stopped."""

from __future__ import annotations

import os
import time
from typing import BinaryIO

from istar.errors import HubError
from istar.models.hub import client
from istar.models.hub.cache import RepoFolder
from istar.models.hub.events import FileProgress, Listener, Note
from istar.models.hub.listing import Digest, RepoFile, RepoRevision
from istar.models.hub.lock import locked

_READ_BYTES = 1 << 20
_PROGRESS_SECONDS = 0.1
_FRUITLESS_TRIES = 3


def fetch(
    folder: RepoFolder, where: RepoRevision, commit: str, file: RepoFile, on_event: Listener
) -> None:
    """Have a file in a commit's snapshot, unless another process brings it meanwhile.

    Raises:
        HubError: it comes damaged, or a link stands in the way; also whatever the network and the
            disk raise.
    """
    folder.make_directory(folder.blob(file.blob).parent)
    with locked(folder, file, on_event):
        state = folder.blob_state(file)
        if state == "link":
            raise folder.hostile(commit, file)
        if state == "size":
            on_event(Note(text=f"{file.path} was damaged in the cache and is fetched again"))
            folder.blob(file.blob).unlink()
        if state != "ok":
            _download(folder, where, commit, file, on_event)
        folder.link(commit, file)


def _download(
    folder: RepoFolder, where: RepoRevision, commit: str, file: RepoFile, on_event: Listener
) -> None:
    for attempt in ("first", "last"):
        try:
            with folder.open_part(file) as part:
                _complete(part, where, commit, file, on_event)
            folder.place_blob(file)
            return
        except client.CorruptError as error:
            folder.part(file.blob).unlink(missing_ok=True)
            if attempt == "last":
                raise HubError(
                    f"{file.path} of {where} came damaged twice, and nothing of it was kept: "
                    f"{error}. Run the same command again later, or check the proxy"
                ) from error
            on_event(Note(text=f"{file.path} was damaged on the way and is fetched anew"))


def _complete(
    part: BinaryIO, where: RepoRevision, commit: str, file: RepoFile, on_event: Listener
) -> None:
    """Add to a part what it lacks, hashing all of it on the way."""
    progress = _Progress(file, on_event)
    digest, done = file.digest(), 0
    while chunk := part.read(_READ_BYTES):
        done = _counted(done, chunk, file, digest)
        progress.tell(done)
    tries = 0
    while done < file.size:
        before, pause, passing = done, client.RETRY_SECONDS[0], None
        try:
            with client.open_body(where, commit, file, done) as (begin, chunks):
                if begin != done:
                    digest, done = file.digest(), 0
                    part.seek(0)
                    part.truncate()
                for chunk in chunks:
                    done = _counted(done, chunk, file, digest)
                    part.write(chunk)
                    progress.tell(done)
        except Exception as error:
            wished = client.wished_pause(error)
            if wished is None:
                raise
            pause, passing = max(pause, wished), error
        if done < file.size:
            tries = 0 if done > before else tries + 1
            if tries >= _FRUITLESS_TRIES:
                if passing:
                    raise passing
                raise client.CorruptError(f"{done} of {file.size} bytes came")
            part.flush()
            time.sleep(pause)
    if digest.hexdigest() != file.blob:
        raise client.CorruptError(f"its hash is {digest.hexdigest()}, not {file.blob}")
    part.flush()
    os.fsync(part.fileno())
    progress.tell(done)


def _counted(done: int, chunk: bytes, file: RepoFile, digest: Digest) -> int:
    if done + len(chunk) > file.size:
        raise client.CorruptError(f"more than {file.size} bytes came")
    digest.update(chunk)
    return done + len(chunk)


class _Progress:
    """Tells how far a file is, but not for every chunk."""

    def __init__(self, file: RepoFile, on_event: Listener) -> None:
        self._file, self._on_event = file, on_event
        self._next = 0.0

    def tell(self, done: int) -> None:
        now = time.monotonic()
        if now >= self._next or done == self._file.size:
            self._next = now + _PROGRESS_SECONDS
            self._on_event(FileProgress(path=self._file.path, done=done, total=self._file.size))

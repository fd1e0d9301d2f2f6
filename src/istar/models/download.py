"""One file from the Hub into its cache: several byte ranges at once, continued after any stop.

::

    blobs/<hash>              the file, once it is whole and its hash is right
    blobs/<hash>.part         the same at full length, with holes where nothing came yet
    blobs/<hash>.part.json    the ranges still missing, never fewer than the part lacks
"""

from __future__ import annotations

import json
import os
import time
from collections import deque
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from threading import Event, Thread
from typing import BinaryIO

from istar import __version__
from istar.errors import HubError
from istar.files import replace_text
from istar.models.download_events import DownloadListener, DownloadNote, DownloadProgress
from istar.models.hub_errors import pause_before_retry
from istar.models.repository import RepoFile

RANGES_AT_ONCE = 4
SMALLEST_RANGE, LARGEST_RANGE = 8 << 20, 128 << 20
RETRY_SECONDS = 0.5
_FRUITLESS_TRIES = 3
_STARTS = 4
_TICK_SECONDS = 0.1
_SAVE_SECONDS = 1.0
_READ_BYTES = 1 << 20


class DamagedError(Exception):
    """What came, or was kept from before, is not the file."""


class _RangesIgnoredError(Exception):
    """The server sends the whole file whatever range it is asked for."""


@dataclass
class _Range:
    """Bytes of a file still missing; `begin` moves on as they come."""

    begin: int
    end: int


def part_of(blob: Path) -> Path:
    """Where a blob lies while it is fetched."""
    return blob.with_name(f"{blob.name}.part")


def journal_of(blob: Path) -> Path:
    """Where a blob's missing ranges are written down."""
    return blob.with_name(f"{blob.name}.part.json")


def bytes_kept(blob: Path, size: int) -> int:
    """How many bytes of a blob earlier downloads left behind."""
    return size - sum(missing.end - missing.begin for missing in _missing_ranges(blob, size))


def discard_part(blob: Path) -> None:
    """Remove what earlier downloads of a blob left behind."""
    part_of(blob).unlink(missing_ok=True)
    journal_of(blob).unlink(missing_ok=True)


def download(url: str, file: RepoFile, blob: Path, on_event: DownloadListener) -> None:
    """Fetch a file and give it the name `blob`; only one process may do so at a time.

    Args:
        url: where the Hub has it; a redirect to its storage is followed, without the token.
        file: its size and hash.
        blob: where it goes. What an earlier download left beside it is kept.
        on_event: receives progress.

    Raises:
        HubError: it came damaged twice, or in pieces that cannot be put together.
        Exception: whatever the network and the disk raise; what came is kept.
    """
    at_once, damaged = RANGES_AT_ONCE, False
    for _ in range(_STARTS):
        try:
            _Transfer(url, file, blob, at_once, on_event).run()
        except _RangesIgnoredError:
            at_once = 1
        except DamagedError as error:
            if damaged:
                discard_part(blob)
                raise HubError(
                    f"{file.path} came damaged twice, and nothing of it was kept: {error}. "
                    "Try again later, or check the proxy"
                ) from error
            damaged = True
            on_event(DownloadNote(text=f"{file.path} was damaged on the way and is fetched anew"))
        else:
            part_of(blob).replace(blob)
            journal_of(blob).unlink(missing_ok=True)
            return
        discard_part(blob)
    raise HubError(
        f"the connection keeps breaking off, and the storage of {file.path} cannot "
        "continue a file where it stopped; try again with a better connection"
    )


class _Transfer:
    """One start of a download.

    Threads write the ranges; the caller's thread hashes the file from its front as it fills,
    reports progress and writes the journal.
    """

    def __init__(
        self, url: str, file: RepoFile, blob: Path, at_once: int, on_event: DownloadListener
    ) -> None:
        from huggingface_hub import get_session
        from huggingface_hub.utils._headers import build_hf_headers

        # Made here, since threads that make it at the same time make several.
        self._session = get_session()
        headers = build_hf_headers(library_name="istar", library_version=__version__)
        self._headers = {**headers, "accept-encoding": "identity"}
        self._url, self._file, self._blob, self._on_event = url, file, blob, on_event
        self._at_once = at_once
        self._stop = Event()
        self._failures: list[BaseException] = []
        self._hashed, self._digest = 0, file.digest()
        self._saved_at = time.monotonic()

    def run(self) -> None:
        """Complete the part and check its hash; received bytes are kept on failure.

        Raises:
            _RangesIgnoredError: it has to be fetched in one stream.
            DamagedError: it is not the file.
            Exception: whatever the network and the disk raise.
        """
        # 1. The part at its full length, and what it lacks, in pieces.
        self._missing = _cut(_missing_ranges(self._blob, self._file.size), self._at_once)
        self._queue = deque(self._missing)
        with part_of(self._blob).open("ab") as part:
            part.truncate(self._file.size)

        # 2. Threads fetch the pieces in order. They are daemons: Ctrl-C does not wait for a
        # silent server.
        threads = [
            Thread(target=self._work, daemon=True)
            for _ in range(min(self._at_once, len(self._missing)))
        ]
        with part_of(self._blob).open("r+b", buffering=0) as part:
            try:
                for thread in threads:
                    thread.start()
                for thread in threads:
                    while thread.is_alive() and not self._failures:
                        thread.join(_TICK_SECONDS)
                        self._watch(part)
                if self._failures:
                    raise self._failures[0]
            finally:
                self._stop.set()
                for thread in threads:
                    if thread.is_alive():
                        thread.join(_TICK_SECONDS)
                self._save(part)

            # 3. The hash of the whole.
            while self._hashed < self._file.size:
                self._watch(part)
            self._report()
        if self._digest.hexdigest() != self._file.blob:
            raise DamagedError(f"its hash is {self._digest.hexdigest()}, not {self._file.blob}")

    def _watch(self, part: FileIO) -> None:
        """For a tick, hash what lies whole at the front; report, and write the journal if due."""
        self._report()
        now = time.monotonic()
        if now - self._saved_at >= _SAVE_SECONDS:
            self._save(part)
        front = min((r.begin for r in self._missing if r.begin < r.end), default=self._file.size)
        part.seek(self._hashed)
        while self._hashed < front and time.monotonic() < now + _TICK_SECONDS:
            chunk = part.read(min(_READ_BYTES, front - self._hashed))
            self._digest.update(chunk)
            self._hashed += len(chunk)

    def _report(self) -> None:
        done = self._file.size - sum(r.end - r.begin for r in self._missing)
        self._on_event(DownloadProgress(path=self._file.path, done=done, total=self._file.size))

    def _save(self, part: FileIO) -> None:
        """Write the journal, but not before the bytes that it counts as there are on the disk."""
        missing = [(r.begin, r.end) for r in self._missing if r.begin < r.end]
        os.fsync(part.fileno())
        replace_text(journal_of(self._blob), json.dumps(missing))
        self._saved_at = time.monotonic()

    def _work(self) -> None:
        try:
            with part_of(self._blob).open("r+b") as out:
                while not self._stop.is_set():
                    self._fetch(self._queue.popleft(), out)
        except IndexError:  # nothing is left to do
            pass
        except BaseException as error:
            self._failures.append(error)

    def _fetch(self, piece: _Range, out: BinaryIO) -> None:
        """Write a piece, however often the connection breaks off, as long as something comes."""
        tries = 0
        while piece.begin < piece.end and not self._stop.is_set():
            before, pause = piece.begin, RETRY_SECONDS
            failure: Exception = DamagedError(f"{before} of {self._file.size} bytes came")
            try:
                self._stream(piece, out)
            except Exception as error:
                wished = pause_before_retry(error)
                if wished is None:
                    raise
                failure, pause = error, max(pause, wished)
            tries = 0 if piece.begin > before else tries + 1
            if tries == _FRUITLESS_TRIES:
                raise failure
            if piece.begin < piece.end:
                self._stop.wait(pause)

    def _stream(self, piece: _Range, out: BinaryIO) -> None:
        from huggingface_hub import constants, hf_raise_for_status

        headers = self._headers.copy()
        whole = (piece.begin, piece.end) == (0, self._file.size)
        if not whole:
            headers["range"] = f"bytes={piece.begin}-{piece.end - 1}"
        timeout = float(constants.HF_HUB_DOWNLOAD_TIMEOUT)
        with self._session.stream("GET", self._url, headers=headers, timeout=timeout) as response:
            if response.status_code == 416:
                raise DamagedError(f"the Hub has no more than {piece.begin} bytes of it")
            hf_raise_for_status(response)
            if response.status_code == 200 and not whole:
                raise _RangesIgnoredError
            span = response.headers.get("content-range", "")
            if not whole and not span.startswith(f"bytes {piece.begin}-"):
                raise DamagedError(f"the Hub sent the range {span!a:.60}, not {headers['range']}")
            out.seek(piece.begin)
            for chunk in response.iter_bytes():
                if self._stop.is_set():
                    return
                if len(chunk) > piece.end - piece.begin:
                    raise DamagedError(f"more than {self._file.size} bytes came")
                out.write(chunk)
                out.flush()
                piece.begin += len(chunk)


def _missing_ranges(blob: Path, size: int) -> list[_Range]:
    """What is not there of a blob: all of it, unless part and journal say something else."""
    try:
        if part_of(blob).stat().st_size == size:
            ranges = json.loads(journal_of(blob).read_text(encoding="utf-8"))
            return [_Range(begin, min(end, size)) for begin, end in ranges]
    except (OSError, ValueError, TypeError):
        pass
    return [_Range(0, size)] if size else []


def _cut(ranges: list[_Range], at_once: int) -> list[_Range]:
    """The same bytes in pieces, so that each of `at_once` threads has some."""
    if at_once == 1:
        return ranges
    share = -(-sum(r.end - r.begin for r in ranges) // at_once)
    length = min(max(share, SMALLEST_RANGE), LARGEST_RANGE)
    return [
        _Range(begin, min(begin + length, r.end))
        for r in ranges
        for begin in range(r.begin, r.end, length)
    ]

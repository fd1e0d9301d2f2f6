"""What a command that is interrupted leaves: the take of its run."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from istar.byte_size import bytes_of, readable_size
from istar.cli.console import say, voice, warn
from istar.errors import StateError

if TYPE_CHECKING:
    from istar.cli.options import CommonOptions
    from istar.events import Event
    from istar.job import Job

_SECONDS_BETWEEN = 3.0
_SHARE_OF_TIME = 0.01


class TakeSettings:
    """What becomes of takes, by the person's settings.

    Attributes:
        finished: takes of runs that are finished are kept.
        limit: bytes of all takes together.

    Raises:
        UsageError: as `istar.cli.settings.setting`.
    """

    def __init__(self) -> None:
        from istar.cli.settings import setting

        self.finished = setting("keep-takes") == "all"
        self.limit = bytes_of(setting("takes-size")) or 0

    def remove_finished(self, take: Path) -> None:
        """Remove the file of a finished take, where it lies in the store and none is kept there."""
        from istar.take_store import is_stored

        if not self.finished and is_stored(take):
            take.unlink(missing_ok=True)


class TakeKeeper:
    """Writes the take of a job that runs, now and then.

    Attributes:
        path: the take's file, once it is there.

    Args:
        job: what runs.
        settings: of the store, for a take that lies in it or will; None for one of elsewhere.
        path: a take's file, to be kept up to date; by default a new one in the store, which no
            other process makes until `close`.
    """

    def __init__(self, job: Job, settings: TakeSettings | None, path: Path | None = None) -> None:
        self.path = path
        self._job = job
        self._settings = settings
        self._held = ExitStack()
        self._prunes = True
        self._works = True
        self._written = time.monotonic()
        self._cost = 0.0
        # What is known at the start need not be kept.
        self._saved = job.take().position

    def keeping(self, events: Iterator[Event]) -> Iterator[Event]:
        """The job's events; meanwhile its take is kept.

        The take is written after a step, no more often than every few seconds, and so seldom that
        it takes less than a hundredth of the time.
        """
        for event in events:
            yield event
            wait = max(_SECONDS_BETWEEN, self._cost / _SHARE_OF_TIME)
            if time.monotonic() - self._written >= wait:
                self.write()

    def write(self, *, synced: bool = False) -> None:
        """Write the take as it is, if there is anything new in it or its file is gone.

        That it cannot be written is said once, and ends nothing.

        Args:
            synced: it outlasts the power, too; waiting for the disk is most of what a write costs.
        """
        take = self._job.take()
        is_there = self.path is None or self.path.exists()
        if not self._works or (take.position == self._saved and is_there):
            return
        from istar.take_store import held_take, store_take

        began = time.monotonic()
        try:
            if self.path is None:
                self.path = store_take(take, synced=synced)
                self._held.enter_context(held_take(self.path))
            else:
                take.save(self.path, overwrite=True, synced=synced)
        except StateError as error:
            self._works = False
            is_old = f"'{self.path}' is not up to date"
            warn(f"{is_old if self.path else 'no take of this run is kept'}: {error}")
            return
        if self._prunes and self._settings is not None:
            self._prune(self._settings.limit, self.path)
        voice().take = self.path
        self._saved = take.position
        self._written = time.monotonic()
        self._cost = self._written - began

    def _prune(self, allowed: int, written: Path) -> None:
        """Remove the oldest takes of the store where it has grown past its size, and say so."""
        from istar.take_store import prune_takes

        try:
            removed = prune_takes(allowed, keep=written)
        except StateError as error:
            # This run's own take is written all the same.
            say(f"the takes here are more than takes-size allows: {error}")
            self._prunes = False
            return
        if removed:
            what = f"take {removed[0].stem}" if len(removed) == 1 else f"{len(removed)} takes"
            limit = readable_size(allowed)
            say(f"removed the older {what}: takes-size is {limit}")

    def finish(self) -> None:
        """What becomes of the take when its picture or video is there."""
        if self._settings is None or self._settings.finished:
            self.write()
            return
        if self.path is not None:
            self.path.unlink(missing_ok=True)
            voice().take = None

    def close(self) -> None:
        """Other processes may continue the take from here on."""
        self._held.close()

    def leave(self, words: Sequence[str]) -> None:
        """Write the take of a run that is not finished, and say how to continue it.

        Args:
            words: options of the command that does.
        """
        self.write(synced=True)
        if self.path is not None:
            command = shlex.join(["istar", "finish", *words, str(self.path)])
            say(f"what was made is kept; `{command}` continues it")


Keeping = Callable[[Iterator["Event"]], Iterator["Event"]]
"""Gives a run's events; meanwhile its take may be kept."""


def take_settings(options: CommonOptions) -> TakeSettings | None:
    """What becomes of the takes of a command; None where none is kept.

    Raises:
        UsageError: as `TakeSettings`.
    """
    return None if options.no_take else TakeSettings()


@contextmanager
def kept_take(
    job: Job,
    words: Sequence[str],
    settings: TakeSettings | None,
    continued: Path | None = None,
) -> Iterator[Keeping]:
    """Inside, run a job's events through what is given: should it not end, its take is there.

    Args:
        job: what runs.
        words: options of the command that continues it: its model, and how a clip is written.
        settings: see `take_settings`.
        continued: the file of the take that the job continues; one in the store is kept up to date,
            and held, see `istar.take_store.held_take`.
    """
    if settings is None:
        yield lambda events: events
        return
    from istar.take_store import is_stored

    path = continued if continued is not None and is_stored(continued) else None
    keeper = TakeKeeper(job, settings, path)
    with closing(keeper):
        try:
            yield keeper.keeping
        except BaseException:
            keeper.leave(words)
            raise
        if job.finished:
            keeper.finish()
        else:
            keeper.leave(words)

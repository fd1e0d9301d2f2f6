"""Signals end a command quietly, from its first instruction to its last.

Little is imported here: until `SignalWatch` is made, a signal meets Python's own handlers.
"""

from __future__ import annotations

import os
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType

_SHOW_CURSOR = b"\x1b[?25h"


class SignalWatch:
    """What this process does on SIGINT, SIGTERM and SIGHUP; those that are ignored stay so.

    The first signal unwinds the work with a KeyboardInterrupt or SystemExit, so that files are
    removed and what was made is named. The process ends at once, with the same exit code, where
    that does not serve: on a second signal; while a module is imported, since importers swallow
    what is raised or fail in ways of their own; where an exception would be lost; after the work.
    """

    def __init__(self) -> None:
        self._process = os.getpid()
        self._unwinds = True
        self._received = 0
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._receive)
        sys.unraisablehook = self._lost

    def work_is_over(self) -> None:
        """From now on nothing is left to unwind."""
        self._unwinds = False

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._received = number
        if not self._unwinds or _is_import(frame):
            self._end()
        self._unwinds = False
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        sys.exit(128 + number)

    def _lost(self, found: sys.UnraisableHookArgs) -> None:
        """End for a signal whose exception came up where nothing can be raised."""
        if self._received and isinstance(found.exc_value, KeyboardInterrupt | SystemExit):
            self._end()
        sys.__unraisablehook__(found)

    def _end(self) -> None:
        files = sys.modules.get("istar.files")
        # A forked child has no part in its parent's files. This module may be half imported.
        if os.getpid() == self._process and (remove := getattr(files, "remove_unfinished", None)):
            remove()
        if os.isatty(2) and os.environ.get("TERM") != "dumb":
            os.write(2, _SHOW_CURSOR)
        os._exit(128 + self._received)


def _is_import(frame: FrameType | None) -> bool:
    """Whether an import is under way in a frame or in one of its callers."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False

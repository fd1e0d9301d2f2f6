"""One run at a time trains in a directory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from istar.errors import StateError
from istar.files import writing_failed
from istar.training.distributed import Share


@contextmanager
def held_alone(output: Path) -> Iterator[None]:
    """Inside, no other run writes to a directory; the system frees it when this process dies.

    The first of several processes holds it for all.

    Raises:
        StateError: another one does already.
        MediaError: the directory cannot be made or written.
    """
    if Share.of_this_process().rank:
        yield
        return
    lock = FileLock(output / "run.lock", timeout=0)
    try:
        output.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise StateError(
            f"'{output}' is in use: another process trains there; give the run another output"
        ) from None
    except OSError as error:
        raise writing_failed(output, error) from error
    try:
        yield
    finally:
        lock.release()

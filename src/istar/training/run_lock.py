"""One run at a time trains in a directory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from istar.files import locked, writing_failed
from istar.training.distributed import Share


@contextmanager
def held_alone(output: Path) -> Iterator[None]:
    """Inside, no other run writes to a directory; the system frees it when this process dies.

    The first of several processes holds it for all.

    Raises:
        StateError: another one does already, or the directory cannot be written.
        MediaError: it cannot be made.
    """
    if Share.of_this_process().rank:
        yield
        return
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise writing_failed(output, error) from error
    in_use = f"'{output}' is in use: another process trains there; give the run another output"
    with locked(output / "run.lock", in_use):
        yield

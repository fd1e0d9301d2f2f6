"""The directory in which takes lie that nobody named, known without reading any."""

from __future__ import annotations

from pathlib import Path

from platformdirs import user_state_path

TAKE_SUFFIX = ".take"


def takes_directory() -> Path:
    """The directory, which may not be there yet."""
    return user_state_path("istar", appauthor=False) / "takes"


def take_files() -> tuple[Path, ...]:
    """What lies in it under a take's name; not what is being written."""
    return tuple(takes_directory().glob(f"[!.]*{TAKE_SUFFIX}"))

"""A run's TOML file as its configuration.

Unknown and mistyped settings are refused. Paths are relative to the file.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from istar.errors import UsageError
from istar.tables import decode
from istar.text_files import parse_toml, read_text

_Config = TypeVar("_Config")


def read_config(path: Path, kind: type[_Config]) -> _Config:
    """The configuration that a TOML file holds.

    Raises:
        UsageError: unreadable, not TOML, or a setting is missing, unknown, of the wrong kind or
            out of range.
    """
    try:
        content = parse_toml(read_text(path))
    except ValueError as error:
        raise UsageError(f"{path} is not TOML: {error}") from error
    try:
        return decode(kind, content, base=path.absolute().parent)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error

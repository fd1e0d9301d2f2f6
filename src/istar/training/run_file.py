"""A run's TOML file as its configuration.

Unknown and mistyped settings are refused. Paths are relative to the file.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TypeVar

from istar.errors import UsageError
from istar.tables import decode
from istar.text_files import read_text

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_Config = TypeVar("_Config")


def read_config(path: Path, kind: type[_Config]) -> _Config:
    """The configuration that a TOML file holds.

    Raises:
        UsageError: unreadable, not TOML, or a setting is missing, unknown, of the wrong kind or
            out of range.
    """
    try:
        content = tomllib.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not TOML: {error}") from error
    try:
        return decode(kind, content, base=path.absolute().parent)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error

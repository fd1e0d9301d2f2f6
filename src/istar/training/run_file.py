"""A run's TOML file as its configuration.

Unknown and mistyped settings are refused. Paths are relative to the file.
"""

from __future__ import annotations

import os
import sys
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from istar.errors import UsageError

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
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} is not readable TOML: {error}") from error
    try:
        return _from_table(kind, content, "", path.absolute().parent)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error


def _from_table(kind: type[_Config], table: object, name: str, base: Path) -> _Config:
    """A configuration class from a TOML table, its paths relative to `base`."""
    if not isinstance(table, dict):
        raise UsageError(f"{name} must be a table")
    hints = get_type_hints(kind)
    assert is_dataclass(kind)
    known = {f.name: f for f in fields(kind)}
    where = f"[{name}]" if name else "the file"
    if unknown := sorted(set(table) - set(known)):
        raise UsageError(f"{where} has an unknown setting: {unknown[0]}")
    values: dict[str, Any] = {}
    for key, declared in known.items():
        if key in table:
            values[key] = _value(hints[key], table[key], f"{name}.{key}".lstrip("."), base)
        elif declared.default is MISSING and declared.default_factory is MISSING:
            raise UsageError(f"{where} lacks {key}")
    return kind(**values)


def _value(hint: Any, value: Any, name: str, base: Path) -> Any:
    """A value of the hinted type."""
    if is_dataclass(hint):
        assert isinstance(hint, type)
        return _from_table(hint, value, name, base)
    origin = get_origin(hint)
    if origin is UnionType:
        return _value(get_args(hint)[0], value, name, base)
    if origin is tuple:
        inner = get_args(hint)
        if isinstance(value, list) and (inner[-1] is ... or len(inner) == len(value)):
            return tuple(_value(inner[0], item, name, base) for item in value)
    elif origin is Literal:
        if value in get_args(hint):
            return value
        raise UsageError(f"{name} is one of {', '.join(get_args(hint))}, not {value!r}")
    elif hint is Path and isinstance(value, str):
        return _path(value, name, base)
    elif hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        if abs(value) <= sys.float_info.max:
            return float(value)
    elif type(value) is hint:
        return value
    raise UsageError(f"{name} has the wrong kind of value: {value!r}")


def _path(value: str, name: str, base: Path) -> Path:
    """A path relative to `base`."""
    try:
        if value and "\0" not in value:
            return Path(os.path.normpath(base / Path(value).expanduser()))
    except RuntimeError as error:
        raise UsageError(f"{name} names a home directory that is unknown: {value!r}") from error
    raise UsageError(f"{name} is no path: {value!r}")

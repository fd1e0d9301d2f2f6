"""Tables of JSON and TOML as frozen dataclasses, and dataclasses as tables.

The type hints of a dataclass say what its table may hold; nothing is converted silently but whole
numbers to `float`, lists to tuples and texts to paths. A message names the field by its path,
`data.mix[0].kind`.
"""

from __future__ import annotations

import os
import sys
from dataclasses import MISSING, asdict, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from istar.errors import IstarError, UsageError

_Kind = TypeVar("_Kind")

_NAMES = {bool: "true or false", int: "a whole number", float: "a finite number", str: "a text"}
_IN_NO_TABLE = {"Tensor": type("Tensor", (), {})}
"""Hints that a module imports for type checking only."""


def decode(
    kind: type[_Kind],
    table: object,
    *,
    name: str = "the file",
    base: Path = Path(),
    error: type[IstarError] = UsageError,
) -> _Kind:
    """The dataclass that a table describes.

    Args:
        kind: a dataclass whose hints are of `bool`, `int`, `float`, `str`, `Path`, `Literal`,
            tuples and `dict[str, …]` of these, dataclasses, and unions.
        table: what `json` or `tomllib` read.
        name: of the whole table in messages.
        base: the directory that paths are relative to.
        error: the class of errors about the table.

    Raises:
        IstarError: of class `error`: a field is missing, unknown or of the wrong kind; and
            whatever the dataclasses themselves raise.
    """
    return _Decoder(name, base, error).table(kind, table, "")


def encode(value: Any) -> dict[str, Any]:
    """The table that describes a dataclass, without the fields that are None.

    Paths become texts; the rest is as `dataclasses.asdict` gives it.
    """

    def present(items: list[tuple[str, Any]]) -> dict[str, Any]:
        return {
            key: os.fspath(item) if isinstance(item, Path) else item
            for key, item in items
            if item is not None
        }

    return asdict(value, dict_factory=present)


class _Decoder:
    def __init__(self, name: str, base: Path, error: type[IstarError]) -> None:
        self._name = name
        self._base = base
        self._error = error

    def table(self, kind: type[_Kind], table: object, path: str) -> _Kind:
        """A dataclass from the table at `path`."""
        where = path or self._name
        if not isinstance(table, dict):
            raise self._error(f"{where} must be a table, not {table!r:.80}")
        assert is_dataclass(kind)
        known = {field.name: field for field in fields(kind)}
        if unknown := sorted(map(str, set(table) - set(known))):
            raise self._error(f"{where} has an unknown field: {unknown[0]}")
        hints = get_type_hints(kind, localns=_IN_NO_TABLE)
        values: dict[str, Any] = {}
        for key, field in known.items():
            if key in table:
                values[key] = self.value(hints[key], table[key], f"{path}.{key}".lstrip("."))
            elif field.default is MISSING and field.default_factory is MISSING:
                raise self._error(f"{where} lacks {key}")
        return kind(**values)

    def value(self, hint: Any, value: Any, path: str) -> Any:
        """A value of the hinted type from what stands at `path`."""
        union = get_origin(hint) in (Union, UnionType)
        members = get_args(hint) if union else (hint,)
        member = next((one for one in members if _holds(one, value)), members[0])
        arguments = get_args(member)
        if is_dataclass(member):
            assert isinstance(member, type)
            return self.table(member, value, path)
        if get_origin(member) is Literal:
            if value not in arguments:
                choices = ", ".join(arguments)
                raise self._error(f"{path} is one of {choices}, not {value!r:.80}")
            return value
        if not _holds(member, value):
            raise self._error(f"{path} must be {_in_words(member)}, not {value!r:.80}")
        if get_origin(member) is tuple:
            return tuple(
                self.value(arguments[0], item, f"{path}[{number}]")
                for number, item in enumerate(value)
            )
        if get_origin(member) is dict:
            return {
                key: self.value(arguments[1], item, f"{path}.{key}") for key, item in value.items()
            }
        if member is Path:
            return self._path(value, path)
        return float(value) if member is float else value

    def _path(self, value: str, path: str) -> Path:
        """A path relative to the base."""
        if not value or "\0" in value:
            raise self._error(f"{path} must be a path, not {value!r:.80}")
        try:
            return Path(os.path.normpath(self._base / Path(value).expanduser()))
        except RuntimeError as error:
            raise self._error(f"{path} names an unknown home directory: {value!r}") from error


def _holds(hint: Any, value: object) -> bool:
    """Whether a value is of the JSON type that becomes a `hint`."""
    origin = get_origin(hint) or hint
    if is_dataclass(hint) or origin is dict:
        return isinstance(value, dict)
    if origin is tuple:
        items = get_args(hint)
        return isinstance(value, list) and (items[-1] is ... or len(items) == len(value))
    if origin is Literal or hint is Path:
        return isinstance(value, str)
    if hint is float and type(value) in (int, float):
        assert isinstance(value, int | float)
        return abs(value) <= sys.float_info.max
    return type(value) is hint


def _in_words(hint: Any) -> str:
    """What a value of a hint is called."""
    origin, items = get_origin(hint) or hint, get_args(hint)
    if origin is tuple:
        return "a list" if items[-1] is ... else f"a list of {len(items)}"
    return _NAMES.get(hint, "a path" if hint is Path else "a table")

"""A person's usual values: a TOML file, and variables of the environment, which count more.

Where a command has an option of a setting's name, the setting takes the place of the option's
default; what is typed counts more than both.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from istar.cli.setting_table import SETTINGS, Setting
from istar.errors import UsageError

PATH_VARIABLE = "ISTAR_CONFIG"


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """A setting's value, and where it comes from.

    Attributes:
        value: None where it is not set.
        origin: the file or the variable; None where it is not set.
        in_file: the origin is the file.
    """

    value: Any = None
    origin: str | None = None
    in_file: bool = False


def setting(name: str) -> Any:
    """The value of a setting that no option stands for, or its default.

    Raises:
        UsageError: the file, or the variable, cannot be used.
    """
    chosen = choose(SETTINGS[name], values_in_file())
    return SETTINGS[name].default if chosen.value is None else chosen.value


def option_defaults(command: str) -> dict[str, Any]:
    """The values of a command's options that are set, by their names.

    Raises:
        UsageError: the file, or one of the variables, cannot be used.
    """
    in_file = values_in_file()
    chosen = {
        name: choose(one, in_file, command).value
        for name, one in SETTINGS.items()
        if command in one.commands
    }
    return {name: value for name, value in chosen.items() if value is not None}


def choose(wanted: Setting, in_file: Mapping[str, Any], command: str = "") -> Chosen:
    """The value to use of a setting: the variable's, else the command's own, else that for all.

    Args:
        wanted: to be looked up.
        in_file: see `values_in_file`.
        command: by name; empty for what is set for all.

    Raises:
        UsageError: the variable's value is not allowed.
    """
    if text := os.environ.get(wanted.variable):
        try:
            return Chosen(value=wanted.parsed(text, command), origin=wanted.variable)
        except UsageError as error:
            text = str(error).removeprefix(wanted.name)
            raise UsageError(wanted.variable + text, remedies=error.remedies) from error
    for name in (f"{command}.{wanted.name}", wanted.name):
        if name in in_file:
            return Chosen(value=in_file[name], origin=str(settings_path()), in_file=True)
    return Chosen()


def settings_path() -> Path:
    """Where the file is, or would be."""
    if named := os.environ.get(PATH_VARIABLE):
        return Path(named).expanduser()
    from platformdirs import user_config_path

    return user_config_path("istar", appauthor=False) / "config.toml"


def is_missing() -> bool:
    """The person named a file, and it is not there."""
    return bool(os.environ.get(PATH_VARIABLE)) and not settings_path().exists()


def values_in_file() -> dict[str, Any]:
    """What the file sets, by name; of a command's table as `t2v.seconds`. All of it is checked.

    Raises:
        UsageError: it cannot be read, is not TOML, or a key or a value is wrong.
    """
    path, found = settings_path(), {}
    for name, value in _flat(_content(path)):
        try:
            command, one = find_setting(name)
            found[name] = one.checked(value, command)
        except UsageError as error:
            raise UsageError(f"{path}: {error}", remedies=error.remedies) from error
    return found


def find_setting(name: str) -> tuple[str, Setting]:
    """A command's name, or an empty one, and the setting that a name stands for.

    Raises:
        UsageError: it stands for none.
    """
    if name in SETTINGS:
        return "", SETTINGS[name]
    command, _, rest = name.partition(".")
    if rest in SETTINGS and command in SETTINGS[rest].commands:
        return command, SETTINGS[rest]
    if rest in SETTINGS and any(command in one.commands for one in SETTINGS.values()):
        raise UsageError(f"{command} has no setting {rest!r}")
    from difflib import get_close_matches

    near = get_close_matches(name, SETTINGS, n=1)
    hint = f"; did you mean {near[0]}?" if near else "; `istar config show` lists them"
    raise UsageError(f"there is no setting {name!r}{hint}")


def _content(path: Path) -> dict[str, Any]:
    """The file's TOML; empty where there is no file, unless the person named it."""
    if is_missing():
        raise UsageError(f"there is no '{path}', which {PATH_VARIABLE} names")
    if not path.exists():
        return {}
    from istar.text_files import parse_toml, read_text

    try:
        return parse_toml(read_text(path))
    except ValueError as error:
        raise UsageError(f"{path} is not TOML: {error}") from error


def _flat(table: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Names and values of a table and of the tables in it."""
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{key}.")
        else:
            yield above + key, value

"""`istar config`: the person's settings, shown and changed."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from istar.cli.completion import setting_names, setting_values
from istar.cli.console import aligned, print_json, print_lines, print_path, printable, say
from istar.cli.setting_table import SETTINGS, Setting, in_words
from istar.cli.settings import Chosen, choose, find_setting, settings_path, values_in_file
from istar.errors import IstarError, UsageError

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from tomlkit import TOMLDocument

SettingArgument = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        help="A setting, as `istar config show` lists them; t2v.seconds is that of one command.",
        autocompletion=setting_names,
    ),
]

config = typer.Typer(
    no_args_is_help=True,
    help="See and change your settings: what options are where you do not type them.",
)


@config.command("show")
def show(
    name: Annotated[
        str | None,
        typer.Argument(
            help="One of them, as `NAME` or `COMMAND.NAME`.",
            autocompletion=setting_names,
            show_default="all",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """Print settings, their values and where those are set; of one that is named the value."""
    in_file = values_in_file()
    if name is not None:
        command, one = find_setting(name)
        chosen = choose(one, in_file, command)
        if as_json:
            print_json(_described(name, one, chosen))
        else:
            value = one.default_in_words if chosen.origin is None else in_words(chosen.value)
            print_lines([printable(value)])
        return
    found = [(key, one, choose(one, in_file)) for key, one in SETTINGS.items()]
    for key in in_file:
        command, one = find_setting(key)
        if command:
            found.append((key, one, choose(one, in_file, command)))
    if as_json:
        print_json([_described(*row) for row in found])
        return
    print_lines(aligned([("NAME", "VALUE", "FROM"), *(_row(*row) for row in found)]))


@config.command("set", context_settings={"ignore_unknown_options": True})
def set_value(
    name: SettingArgument,
    value: Annotated[
        str,
        typer.Argument(
            metavar="VALUE", help="As its option takes it.", autocompletion=setting_values
        ),
    ],
) -> None:
    """Set a value in the file; comments and order in it stay. Prints the file's path.

    Example: istar config set t2v.seconds 10
    """
    command, setting = find_setting(name)
    parsed = setting.parsed(value, command)
    if setting.name == "model":
        from istar.models.find import check_name

        check_name(parsed)  # elsewhere where it is used: what has a model of its own needs no other
    path = settings_path()
    document = _document(path)
    *tables, key = name.split(".")
    place: MutableMapping[str, Any] = document
    for table in tables:
        place = _table_in(place, table, path)
    place[key] = parsed
    _write(path, document)
    _say_variable(setting)
    if setting.name == "crf":
        _say_formats_without(parsed)


@config.command("unset")
def unset(name: SettingArgument) -> None:
    """Remove a value from the file. Prints the file's path.

    Example: istar config unset t2v.seconds
    """
    path = settings_path()
    document = _document(path)
    *tables, key = name.split(".")
    place: Any = document
    for table in tables:
        place = place.get(table) if isinstance(place, dict) else None
    if not isinstance(place, dict) or key not in place:
        raise UsageError(f"{path} does not set {name!r}")
    del place[key]
    _write(path, document)
    if name in SETTINGS:
        _say_variable(SETTINGS[name])


@config.command("path")
def path() -> None:
    """Print the path of the settings' file, which may not be there yet."""
    print_path(settings_path())


@config.command("edit")
def edit() -> None:
    """Open the file in VISUAL or EDITOR, then check it."""
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR")
    path = settings_path()
    if not editor:
        raise UsageError(f"there is no editor: set VISUAL or EDITOR, or edit {path} yourself")
    if not path.exists():
        _write_text(path, template())
    try:
        done = subprocess.run([*shlex.split(editor), str(path)], check=False)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise IstarError(f"the editor {editor!r} cannot be started: {reason}") from error
    if done.returncode:
        raise IstarError(f"the editor {editor!r} ended with code {done.returncode}")
    values_in_file()


def template() -> str:
    """A file that sets nothing and names everything that can be set."""
    lines = ["# istar's settings. A variable of the environment counts more, and an option most."]
    table = ""
    for name, one in SETTINGS.items():
        head, _, key = name.rpartition(".")
        if head != table:
            lines += ["", f"[{head}]"]
            table = head
        lines += ["", f"# {one.help} Default: {one.default_in_words}.", f"# {key} ="]
    return "\n".join(lines) + "\n"


def _row(name: str, setting: Setting, chosen: Chosen) -> tuple[str, str, str]:
    if chosen.origin is None:
        return name, f"({setting.default_in_words})", "default"
    return name, printable(in_words(chosen.value)), printable(chosen.origin)


def _described(name: str, setting: Setting, chosen: Chosen) -> dict[str, Any]:
    source = "default" if chosen.origin is None else "file" if chosen.in_file else "environment"
    return {
        "name": name,
        "value": chosen.value,
        "source": source,
        "origin": chosen.origin,
        "default": setting.default,
    }


def _document(path: Path) -> TOMLDocument:
    """The file with its comments; empty where there is no file.

    Raises:
        UsageError: it cannot be read, or is not TOML.
    """
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    from istar.text_files import read_text

    if not path.exists():
        return tomlkit.document()
    try:
        return tomlkit.parse(read_text(path))
    except (TOMLKitError, RecursionError) as error:
        raise UsageError(f"{path} is not TOML: {error}") from error


def _table_in(place: MutableMapping[str, Any], name: str, path: Path) -> MutableMapping[str, Any]:
    """A table by its name; it is made where it is missing.

    Raises:
        UsageError: something else has the name.
    """
    import tomlkit

    if name not in place:
        place[name] = tomlkit.table()
    if not isinstance(place[name], dict):
        raise UsageError(f"{path}: {name} is a value there, not a table; remove it first")
    found: MutableMapping[str, Any] = place[name]
    return found


def _write(path: Path, document: TOMLDocument) -> None:
    import tomlkit

    _write_text(path, tomlkit.dumps(document))
    print_path(path)


def _write_text(path: Path, text: str) -> None:
    """Write the file, through a link to where it lies."""
    from istar.files import write_text, writing_failed

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise writing_failed(path.parent, error) from error
    write_text(path.resolve(), text, overwrite=True)


def _say_formats_without(crf: int) -> None:
    """Say which formats refuse a rate factor that others take."""
    from istar.clip_format import CLIP_FORMATS, ClipEncoding

    for suffix, known in CLIP_FORMATS.items():
        if known.worst_crf is not None:
            try:
                ClipEncoding(crf=crf).check(Path(f"clip{suffix}"))
            except UsageError as error:
                say(f"{known.name} will refuse it: {error}")


def _say_variable(setting: Setting) -> None:
    """Say where what was written has no effect."""
    if os.environ.get(setting.variable):
        say(f"{setting.variable} is set and counts more")

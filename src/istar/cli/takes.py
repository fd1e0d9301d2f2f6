"""`istar takes`: the takes that runs left on this machine."""

from __future__ import annotations

import shutil
import sys
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from istar.byte_size import readable_size
from istar.cli.completion import take_names
from istar.cli.console import aligned, print_json, print_lines, print_path, printable
from istar.errors import UsageError

if TYPE_CHECKING:
    from istar.take_file import TakeSummary
    from istar.take_store import StoredTake

_PROMPT_CHARACTERS = 40
_FEWEST_CHARACTERS = 12
_LONGEST_MODEL = 12

takes = typer.Typer(
    no_args_is_help=True,
    help="See and remove the takes that runs left here.",
)


@takes.command("list")
def list_takes(
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """List takes, the newest first: what each makes, and how far it is.

    Which are kept, and how large all may be together, are the settings keep-takes and takes-size
    (`istar config show`): when the size is passed the oldest go, finished ones first.
    """
    from istar.take_store import stored_takes

    found = stored_takes()
    if as_json:
        print_json([_described(take) for take in found])
        return
    rows = [("NAME", "MODEL", "LENGTH", "DONE", "SIZE", "PROMPT"), *map(_row, found)]
    lines = list(aligned([(*row[:-1], "") for row in rows]))
    room = _PROMPT_CHARACTERS
    if sys.stdout.isatty():
        room = max(shutil.get_terminal_size().columns - len(lines[0]), _FEWEST_CHARACTERS)
    print_lines(line + _cut(row[-1], room) for line, row in zip(lines, rows, strict=True))


@takes.command("path")
def take_path(
    name: Annotated[
        str | None,
        typer.Argument(
            help="A take's name; `istar takes list` has them.",
            show_default="their directory",
            autocompletion=take_names,
        ),
    ] = None,
) -> None:
    """Print the path of a take, or of the directory in which all lie."""
    from istar.take_directory import takes_directory
    from istar.take_store import stored_takes

    if name is None:
        print_path(takes_directory())
        return
    for take in stored_takes():
        if take.name == name:
            print_path(take.path)
            return
    raise UsageError(f"there is no take {name!r}", remedies=("list_takes",))


@takes.command("rm")
def remove(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Names of takes.", metavar="NAME...", autocompletion=take_names),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Remove all takes.")] = False,
) -> None:
    """Remove takes; prints the path of each that is gone.

    Example: istar takes rm 20261129-113000-t2v-7
    """
    from istar.take_store import remove_takes, stored_takes

    if every == bool(names):
        raise UsageError("name takes, or remove them all", remedies=("list_takes",))
    for path in remove_takes([take.name for take in stored_takes()] if every else names or []):
        print_path(path)


def _row(take: StoredTake) -> tuple[str, str, str, str, str, str]:
    summary, name, size = take.summary, printable(take.name), readable_size(take.bytes_here)
    if summary is None:
        return (name, "?", "?", "?", size, "(of another version, or no take)")
    model = _cut(printable(summary.model), _LONGEST_MODEL)
    prompt = printable(" / ".join(summary.prompts))
    return (name, model, _length(summary), f"{summary.share:.0%}", size, prompt)


def _length(summary: TakeSummary) -> str:
    if summary.mode == "t2i":
        return "picture"
    return "?" if summary.seconds is None else f"{summary.seconds:g} s"


def _cut(text: str, characters: int) -> str:
    return text if len(text) <= characters else text[: characters - 1] + "…"


def _described(take: StoredTake) -> dict[str, Any]:
    described: dict[str, Any] = {
        "name": take.name,
        "path": str(take.path),
        "bytes": take.bytes_here,
        "written": datetime.fromtimestamp(take.written).astimezone().isoformat(timespec="seconds"),
    }
    if (summary := take.summary) is not None:
        described |= {
            "mode": summary.mode,
            "prompts": summary.prompts,
            "seed": summary.seed,
            "model": summary.model,
            "seconds": summary.seconds,
            "share": summary.share,
            "finished": take.finished,
        }
    return described

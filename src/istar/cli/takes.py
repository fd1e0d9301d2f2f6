"""`istar takes`: the takes that runs left on this machine."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from istar.byte_size import readable_size
from istar.cli.completion import take_names
from istar.cli.console import print_json, print_lines, print_path, printable
from istar.errors import UsageError

if TYPE_CHECKING:
    from istar.take_store import StoredTake

_PROMPT_CHARACTERS = 40

takes = typer.Typer(
    no_args_is_help=True,
    help="See and remove the takes that runs left here.",
)


@takes.command("list")
def list_takes(
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """List takes, the newest first: how far each is, and what it shows.

    Which are kept, and how large all may be together, are the settings keep-takes and takes-size
    (`istar config show`): when the size is passed the oldest go, finished ones first.
    """
    from istar.take_store import stored_takes

    found = stored_takes()
    if as_json:
        print_json([_described(take) for take in found])
        return
    rows = [("NAME", "DONE", "SIZE", "WRITTEN", "PROMPT"), *map(_row, found)]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    print_lines(
        "  ".join((*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[4]))
        for row in rows
    )


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


def _row(take: StoredTake) -> tuple[str, str, str, str, str]:
    summary = take.summary
    written = datetime.fromtimestamp(take.written).strftime("%Y-%m-%d %H:%M")
    size = readable_size(take.bytes_here)
    if summary is None:
        return (printable(take.name), "?", size, written, "(of another version, or no take)")
    prompt = printable(" / ".join(summary.prompts))
    if len(prompt) > _PROMPT_CHARACTERS:
        prompt = prompt[: _PROMPT_CHARACTERS - 1] + "…"
    return (printable(take.name), f"{summary.share:.0%}", size, written, prompt)


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
            "share": summary.share,
            "finished": take.finished,
        }
    return described

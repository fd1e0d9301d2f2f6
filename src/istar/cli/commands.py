"""The commands by name; each is imported when it is wanted, and not before.

The main help, its completion and `--version` read this table alone, and so start as fast as typer.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

import typer
from typer._click.shell_completion import CompletionItem
from typer.core import TyperCommand, TyperGroup
from typer.main import get_group

from istar.cli.console import say
from istar.errors import UsageError

if TYPE_CHECKING:
    from typer._click import Command, Context, HelpFormatter


@dataclass(frozen=True)
class CommandEntry:
    """A command in the main help.

    Attributes:
        place: its module below this package and, after a colon, its name there: a function's, or
            that of the typer of several commands.
        help: the first sentence of its own help.
    """

    place: str
    help: str


PANELS: dict[str, dict[str, CommandEntry]] = {
    "Make pictures and video": {
        "t2i": CommandEntry("generate:t2i", "Make a picture from a prompt."),
        "t2v": CommandEntry("generate:t2v", "Make a video from a prompt."),
        "i2v": CommandEntry("generate:i2v", "Make a video that begins with a picture."),
        "extend": CommandEntry("generate:extend", "Add new seconds to the end of a video."),
        "interact": CommandEntry(
            "interact:interact",
            "Make a video prompt by prompt, five seconds (one clip of the model) each.",
        ),
        "finish": CommandEntry(
            "finish:finish",
            "Continue takes to their end: drafts, or what a deadline cut short.",
        ),
        "vary": CommandEntry(
            "vary:vary",
            "Make variations of a take that keep its layout, or all but a part of it.",
        ),
        "takes": CommandEntry("takes:takes", "See and remove the takes that runs left here."),
        "rewrite": CommandEntry(
            "rewrite:rewrite", "Print a richer prompt, written by a language model."
        ),
    },
    "Look at what was made": {
        "info": CommandEntry(
            "look:info",
            "Say how files were made: prompt, seed, model and settings; "
            "of a take also how far it is.",
        ),
        "frame": CommandEntry(
            "frame:frame",
            "Take one picture out of a video, upright, in its own size, with the video's settings.",
        ),
        "render": CommandEntry(
            "render:render",
            "Decode a take's picture or video again; of a clip under way what there is of it.",
        ),
        "verify": CommandEntry(
            "render:verify",
            "Draw every bit of a take again, and name the first that would be another here.",
        ),
        "score": CommandEntry(
            "score:score",
            "Say how likely a take's bits are, and how much of that the prompt explains.",
        ),
    },
    "Models and this machine": {
        "models": CommandEntry("models:models", "See, fetch, check, convert and remove models."),
        "config": CommandEntry(
            "config:config",
            "See and change your settings: what options are where you do not type them.",
        ),
        "doctor": CommandEntry(
            "doctor:doctor",
            "Look at whether istar runs on this machine, and say what to do if not.",
        ),
        "bench": CommandEntry(
            "bench:bench",
            "Measure what a generation takes: seconds and memory by stage, operations, traffic.",
        ),
    },
    "Train and measure a model of your own": {
        "prepare": CommandEntry(
            "train:prepare",
            "Encode clips once, so that a transformer can be trained on their latents.",
        ),
        "train": CommandEntry("train:train", "Train a tokenizer or a transformer."),
        "eval": CommandEntry("lab:evaluate", "Measure how good a model is."),
    },
}
"""The main help, heading by heading."""

ENTRIES = {name: entry for entries in PANELS.values() for name, entry in entries.items()}


class MainGroup(TyperGroup):
    """The commands of the table."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        # Typer reads their names alone, and asks `get_command` for the rest.
        self.commands = {name: TyperCommand(name) for name in ENTRIES}

    def get_command(self, ctx: Context, cmd_name: str) -> Command | None:
        """Import a command."""
        return _import_command(cmd_name) if cmd_name in ENTRIES else None

    def resolve_command(
        self, ctx: Context, args: list[str]
    ) -> tuple[str | None, Command | None, list[str]]:
        """The command that is named, with the person's settings for its options' defaults."""
        name, command, rest = super().resolve_command(ctx, args)
        # Completing looks at no values.
        if name is not None and command is not None and not ctx.resilient_parsing:
            for_help = not set(ctx.help_option_names).isdisjoint(rest)
            ctx.default_map = {name: _defaults(name, command, for_help=for_help)}
        return name, command, rest

    def format_commands(self, ctx: Context, formatter: HelpFormatter) -> None:
        """Write the table."""
        width = max(map(len, ENTRIES))
        for heading, entries in PANELS.items():
            with formatter.section(heading):
                formatter.write_dl([(name.ljust(width), one.help) for name, one in entries.items()])

    def shell_complete(self, ctx: Context, incomplete: str) -> list[CompletionItem]:
        """Names with the table's words, and the options of istar itself."""
        names = [
            CompletionItem(name, help=entry.help)
            for name, entry in ENTRIES.items()
            if name.startswith(incomplete)
        ]
        return names + super(TyperGroup, self).shell_complete(ctx, incomplete)


def _defaults(name: str, command: Command, *, for_help: bool) -> dict[str, Any]:
    """What is set of a command's options; of a group's those of each of its commands.

    Raises:
        UsageError: the settings cannot be used, which is said only where help is asked for.
    """
    from istar.cli.setting_table import COMMANDS
    from istar.cli.settings import is_missing, option_defaults

    try:
        found = option_defaults(name) if name in COMMANDS else {}
    except UsageError as error:
        if not for_help:
            raise
        if not is_missing():
            say(f"no settings are used: {error}")
        return {}
    if isinstance(command, TyperGroup):
        return dict.fromkeys(command.commands, found)
    return found


def _import_command(name: str) -> Command:
    module, _, attribute = ENTRIES[name].place.partition(":")
    found = getattr(import_module(f"istar.cli.{module}"), attribute)
    parent = typer.Typer(rich_markup_mode=None)
    if isinstance(found, typer.Typer):
        parent.add_typer(found, name=name)
    else:
        parent.command(name)(found)
    return get_group(parent).commands[name]

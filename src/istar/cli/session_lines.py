"""What a person types in an interactive session: prompts, and commands that begin with a slash."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from istar.cli.console import ask, say, warn
from istar.cli.drafts import MOST_DRAFTS
from istar.cli.session import check_branch
from istar.errors import UsageError
from istar.plurals import counted
from istar.request import check_prompt, check_seed


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command as it was typed.

    Attributes:
        name: without its slash.
        argument: what stands behind it; empty for nothing.
    """

    name: str
    argument: str = ""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A prompt, or while drafts are there the number of one.

    Attributes:
        text: what it says.
        typed: what was typed, where the text was rewritten from it.
    """

    text: str
    typed: str | None = None

    @property
    def typed_text(self) -> str:
        """What was typed."""
        return self.text if self.typed is None else self.typed

    def rewritten(self, richer: Mapping[str, str]) -> Prompt:
        """The same with a richer text, where there is one by what was typed."""
        typed = self.typed_text
        return Prompt(text=richer[typed], typed=typed) if typed in richer else self


Line = Prompt | Command

HELP = {
    "undo": ("", "take back the last prompt and its clip; a branch keeps them"),
    "again": ("", "make the last prompt's clip again, with another seed; a branch keeps it"),
    "seed": ("N", "draw from this seed, from the next clip on"),
    "draft": ("N", "draft the next prompt with N seeds and show them on a sheet, to choose one"),
    "branch": (
        "[NAME]",
        "start a branch here, or go to the one of that name; without a name, list them",
    ),
    "save": ("[FILE]", "copy the video as it is now"),
    "help": ("", "show this"),
}
"""Every command's argument, and what it does."""


class TypedLines(Iterator[Line]):
    """Lines as the person types them; asked for on stderr, which a terminal shows.

    Attributes:
        drafts: of so many one is to be chosen; 0 where a prompt or a command is wanted.
        rewriting: gives a prompt richer words; the number of a draft stays as it is. None where
            prompts stay as they are typed.

    Raises:
        UsageError: there is nobody to ask.
    """

    def __init__(self) -> None:
        if sys.stdin is None or not sys.stdin.isatty():
            raise UsageError(
                "there is no terminal to ask for prompts; use --script FILE, or --script - for "
                "stdin"
            )
        self.drafts = 0
        self.rewriting: Callable[[Prompt], Prompt] | None = None

    def __next__(self) -> Line:
        while True:
            text = ask(f"istar: {self._question()} ").strip()
            if not text and self.drafts:
                return Prompt(text="0")
            if not text:
                raise StopIteration
            try:
                line = parse_line(text)
            except UsageError as error:
                warn(str(error))
                continue
            if self.rewriting and isinstance(line, Prompt) and not self.drafts:
                return self.rewriting(line)
            return line

    def _question(self) -> str:
        if self.drafts:
            return f"which draft, 1 to {self.drafts}? (an empty line: none of them)"
        return "what happens next? (/help lists commands, an empty line ends)"


def place_words(branch: str, prompts: Sequence[str]) -> str:
    """Where a session is."""
    return f"on {branch}, after {counted(len(prompts), 'prompt')}; the last is {prompts[-1]!r}"


def parse_line(text: str) -> Line:
    """A line that is not empty.

    Raises:
        UsageError: a command that does not exist or lacks its argument, or an unusable prompt.
    """
    if not text.startswith("/"):
        check_prompt(text)
        return Prompt(text=text)
    name, _, argument = text[1:].partition(" ")
    command = Command(name=name, argument=argument.strip())
    if name not in HELP:
        raise UsageError(f"there is no command /{name}; /help lists them")
    usage = HELP[name][0]
    if bool(command.argument) != bool(usage) and not usage.startswith("["):
        raise UsageError(f"/{name} takes {usage or 'nothing behind it'}")
    if name == "seed":
        parse_seed(command.argument)
    if name == "draft":
        parse_count(command.argument)
    if name == "branch" and command.argument:
        check_branch(command.argument)
    return command


def parse_seed(text: str) -> int:
    """A seed as typed.

    Raises:
        UsageError: the text is no seed.
    """
    seed = int(text) if text.isascii() and text.isdecimal() and len(text) <= 20 else text
    check_seed(seed)
    return int(seed)


def parse_count(text: str) -> int:
    """A number of drafts as typed.

    Raises:
        UsageError: the text is no number, or there are too many.
    """
    if not (text.isascii() and text.isdecimal() and 1 <= int(text[:9]) <= MOST_DRAFTS):
        raise UsageError(f"/draft takes a number from 1 to {MOST_DRAFTS}, not {text!r}")
    return int(text)


def say_help() -> None:
    """Say what there is to type."""
    usages = {name: f"/{name} {usage}".strip() for name, (usage, _) in HELP.items()}
    width = max(map(len, usages.values()))
    for name, (_, does) in HELP.items():
        say(f"{usages[name].ljust(width)}  {does}")
    say("anything else is a prompt; an empty line ends")

"""A script of an interactive session: checked whole before its first line is used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import TypeVar

from istar.cli.session_lines import Command, Line, Prompt, parse_line
from istar.errors import IstarError, UsageError

_Error = TypeVar("_Error", bound=IstarError)


class ScriptLines(Iterator[Line]):
    """The lines of a script, empty ones left out.

    Attributes:
        number: of the line that was given last, counted from 1 with the empty ones.

    Args:
        text: of the script.

    Raises:
        UsageError: a line can be neither a prompt nor a command.
    """

    def __init__(self, text: str) -> None:
        self.number = 0
        self._lines: list[tuple[int, Line]] = []
        for number, line in enumerate(text.splitlines(), 1):
            self.number = number
            if line.strip():
                try:
                    self._lines.append((number, parse_line(line.strip())))
                except UsageError as error:
                    raise self.named(error) from error
        self._left = iter(self._lines)

    def __next__(self) -> Line:
        self.number, line = next(self._left)
        return line

    @property
    def prompts(self) -> list[Prompt]:
        """Its prompts; not the numbers of drafts."""
        return [line for _, line in self._lines_with_prompts()]

    def rewrite(self, prompts: Sequence[Prompt]) -> None:
        """Put others in the place of its prompts."""
        places = [place for place, _ in self._lines_with_prompts()]
        for place, prompt in zip(places, prompts, strict=True):
            self._lines[place] = (self._lines[place][0], prompt)

    def _lines_with_prompts(self) -> Iterator[tuple[int, Prompt]]:
        is_drafted = is_number = False
        for place, (_, line) in enumerate(self._lines):
            if isinstance(line, Command):
                is_drafted = is_drafted or line.name == "draft"
            elif is_number:
                is_number = False
            else:
                yield place, line
                is_drafted, is_number = False, is_drafted

    def named(self, error: _Error) -> _Error:
        """An error of the line that was given last, with its number."""
        return type(error)(f"line {self.number}: {error}", remedies=error.remedies)

    def check(self, branch: str, prompts: Mapping[str, int | None]) -> None:
        """Refuse a script with a line that cannot be done where it stands.

        Args:
            branch: where it begins.
            prompts: how many each branch has; None where that is not known.

        Raises:
            UsageError: there is one.
        """
        counts = dict(prompts)
        wanted = drafts = 0
        for number, line in self._lines:
            self.number = number
            known = counts[branch]
            # 1. The number of a draft.
            if drafts:
                chosen = line.text if isinstance(line, Prompt) else ""
                if chosen not in [str(number) for number in range(drafts + 1)]:
                    text = f"the number of a draft is missing, 1 to {drafts}, or 0 for none"
                    raise self.named(UsageError(text))
                if chosen != "0" and known is not None:
                    counts[branch] = known + 1
                drafts = 0
                continue
            # 2. A prompt.
            if isinstance(line, Prompt):
                drafts, wanted = wanted, 0
                if not drafts and known is not None:
                    counts[branch] = known + 1
                continue
            # 3. A command.
            self._check_command(line, known)
            if line.name == "draft":
                wanted = int(line.argument)
            elif line.name in ("undo", "again"):
                names = (f"{branch}-{number}" for number in count(1))
                counts[next(name for name in names if name not in counts)] = known
                if line.name == "undo" and known is not None:
                    counts[branch] = known - 1
            elif line.name == "branch" and line.argument:
                branch = line.argument
                counts.setdefault(branch, known)

    def _check_command(self, command: Command, prompts: int | None) -> None:
        if prompts == 0 and command.name not in ("help", "seed"):
            raise self.named(UsageError(f"there is no clip yet for /{command.name}"))
        if prompts == 1 and command.name == "undo":
            text = "the last prompt is the only one, and cannot be taken back"
            raise self.named(UsageError(text))

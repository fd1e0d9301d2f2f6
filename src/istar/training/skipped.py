"""Lines of lists that are skipped, and why: the first of each kind to a person, all in a file.

`skipped.jsonl` lies in a prepared set's directory or in a run's output, a line for each of them::

    {"list": "/data/clips.jsonl", "line": 7, "reason": "'/data/boat.mp4' is damaged or cut short"}
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from istar.files import write_text
from istar.text_files import LIST_BYTES, read_text

SKIPPED_NAME = "skipped.jsonl"

_NAMES_AND_NUMBERS = re.compile(r"'.*'|\d+(\.\d+)?")


class SkippedLine(NamedTuple):
    """A line that lists no clip, or a clip that cannot be read.

    Attributes:
        list: the file whose line it is.
        number: of the line, from 1.
        reason: why it is skipped.
    """

    list: Path
    number: int
    reason: str

    @property
    def kind(self) -> str:
        """The reason without names and numbers."""
        return _NAMES_AND_NUMBERS.sub("", self.reason)

    def __str__(self) -> str:
        return f"{self.list}: line {self.number} is skipped: {self.reason}"

    def to_json(self) -> dict[str, Any]:
        """The JSON values of a line of `skipped.jsonl`."""
        return {"list": str(self.list), "line": self.number, "reason": self.reason}


def skipped_from_json(entry: Any) -> SkippedLine:
    """What `to_json` gave.

    Raises:
        ValueError: it is something else.
    """
    match entry:
        case {"list": str(path), "line": int(number), "reason": str(reason)}:
            return SkippedLine(Path(path), number, reason)
    raise ValueError("list, line or reason")


class FirstOfEachKind:
    """Notes of skipped lines: of every kind of reason the first line alone."""

    def __init__(self) -> None:
        self._kinds: set[str] = set()

    def __call__(self, skipped: Iterable[SkippedLine]) -> tuple[str, ...]:
        """A sentence for every kind of reason that no line before had."""
        notes = []
        for one in skipped:
            if one.kind not in self._kinds:
                self._kinds.add(one.kind)
                notes.append(str(one))
        return tuple(notes)


def write_skipped(directory: Path, skipped: Iterable[SkippedLine]) -> Path:
    """Write `skipped.jsonl` whole, each line of a list once, in order.

    Raises:
        MediaError: it cannot be written.
    """
    once = {(one.list, one.number): one for one in skipped}
    text = "".join(json.dumps(once[key].to_json()) + "\n" for key in sorted(once))
    path = directory / SKIPPED_NAME
    directory.mkdir(parents=True, exist_ok=True)
    return write_text(path, text, overwrite=True)


def read_skipped(directory: Path) -> list[SkippedLine]:
    """What `skipped.jsonl` lists, without lines that istar did not write; empty without the file.

    Raises:
        UsageError: it cannot be read.
    """
    path = directory / SKIPPED_NAME
    found = []
    for line in read_text(path, limit=LIST_BYTES).split("\n") if path.exists() else ():
        with suppress(ValueError):
            found.append(skipped_from_json(json.loads(line)))
    return found


class SkippedRecord:
    """The skipped lines that a run meets, and `skipped.jsonl` in its directory.

    What former starts of the run found stays in the file.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lines: dict[tuple[Path, int], SkippedLine] = {}
        self._notes = FirstOfEachKind()

    def unmet(self, skipped: Iterable[SkippedLine]) -> list[SkippedLine]:
        """Those that were not added before, each once."""
        once = {(one.list, one.number): one for one in skipped}
        return [one for key, one in once.items() if key not in self._lines]

    def add(self, skipped: Iterable[SkippedLine]) -> tuple[str, ...]:
        """Add some.

        Returns:
            a sentence for every kind of reason that no line added before has; the first time also
            one with the file's name.
        """
        new = self.unmet(skipped)
        notes = self._notes(new)
        if new and not self._lines:
            notes += (f"{self._directory / SKIPPED_NAME} lists all that is skipped",)
        self._lines |= {(one.list, one.number): one for one in new}
        return notes

    def write(self) -> Path:
        """Write the file whole.

        Raises:
            MediaError: it cannot be written.
            UsageError: the one that is there cannot be read.
        """
        found = [*self._lines.values(), *read_skipped(self._directory)]
        return write_skipped(self._directory, found)

"""Seeds as they are typed: one, several, or so many from one on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import typer

from istar.cli.console import say
from istar.errors import UsageError
from istar.request import LAST_SEED

MOST_SEEDS = 10_000

_DRAWN_BITS = 32
_RANGE = re.compile(r"([0-9]{1,20})(?:-([0-9]{1,20}))?")

SeedsOption = Annotated[
    str | None,
    typer.Option(
        "--seed",
        metavar="SEED,…",
        help="Same seed, same result. Several make a file each, such as 1,5,9-12.",
        show_default="drawn and printed",
    ),
]


@dataclass(frozen=True)
class Seeds:
    """The seeds of every prompt of a command.

    Attributes:
        numbers: in their order.
        are_typed: on the command line; otherwise they are drawn, or of another file.
    """

    numbers: Sequence[int]
    are_typed: bool

    def say(self) -> None:
        """Say those that were not typed."""
        if self.are_typed:
            return
        first, last = self.numbers[0], self.numbers[-1]
        say(f"seed {first}" if first == last else f"seeds {first} to {last}")


def parse_seeds(text: str) -> tuple[int, ...]:
    """Seeds of `1,5,9-12`, each once.

    Raises:
        UsageError: another text, a seed that there is not, or too many.
    """
    seeds: dict[int, None] = {}
    for part in text.split(","):
        if (found := _RANGE.fullmatch(part.strip())) is None:
            raise UsageError(f"--seed: {part.strip()!r} is not a whole number, or two as in 9-12")
        first, last = int(found[1]), int(found[2] or found[1])
        if last < first or last > LAST_SEED:
            raise UsageError(f"--seed: {part.strip()!r} is no seed; they are 0 to {LAST_SEED}")
        if last - first >= MOST_SEEDS:
            raise UsageError(f"--seed: {part.strip()!r} is more than {MOST_SEEDS} seeds")
        seeds |= dict.fromkeys(range(first, last + 1))
    if len(seeds) > MOST_SEEDS:
        raise UsageError(f"--seed: these are more than {MOST_SEEDS} seeds")
    return tuple(seeds)


def consecutive_seeds(first: int, number: int) -> range:
    """The seeds of several drafts.

    Raises:
        UsageError: there are not so many.
    """
    if first + number - 1 > LAST_SEED:
        raise UsageError(f"seed {first + number - 1} is too large; the largest is {LAST_SEED}")
    return range(first, first + number)


def drawn_seed() -> int:
    """A seed by chance."""
    import secrets

    return secrets.randbits(_DRAWN_BITS)

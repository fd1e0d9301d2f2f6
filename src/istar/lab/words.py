"""The words of captions: what shapes, sizes, motions, directions and backgrounds are called."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import NamedTuple, TypeVar

_Item = TypeVar("_Item")


class Verb(NamedTuple):
    """A verb, with what belongs to it, in the three forms that captions need.

    `does` follows one subject, `doing` is its participle, `do` follows two subjects or "let".
    """

    does: str
    doing: str
    do: str


SHAPE_WORDS: dict[str, tuple[str, ...]] = {
    "circle": ("disc", "disk", "ball", "dot", "round shape"),
    "square": ("box", "block", "square shape"),
    "triangle": ("triangle shape", "triangular shape"),
    "star": ("star shape", "five-pointed star"),
}
"""Other words for every shape."""

BULK_WORDS: dict[str, tuple[str, ...]] = {
    "small": ("small", "little", "tiny"),
    "large": ("large", "big", "huge"),
}
PACE_WORDS: dict[str, tuple[str, ...]] = {
    "slow": ("slowly", "gently"),
    "fast": ("quickly", "fast", "rapidly"),
}

GOING: tuple[Verb, ...] = (
    Verb("moves", "moving", "move"),
    Verb("slides", "sliding", "slide"),
    Verb("glides", "gliding", "glide"),
    Verb("drifts", "drifting", "drift"),
    Verb("travels", "travelling", "travel"),
    Verb("goes", "going", "go"),
    Verb("flies", "flying", "fly"),
    Verb("floats", "floating", "float"),
    Verb("heads", "heading", "head"),
)
"""Verbs that a direction follows, the plainest first."""

ROLLING = Verb("rolls", "rolling", "roll")
"""The verb of circles that go left or right."""

WHERE: dict[str, tuple[str, ...]] = {
    "left": (
        "left",
        "to the left",
        "leftwards",
        "leftward",
        "from right to left",
        "from the right to the left",
        "towards the left",
        "toward the left edge",
        "to the left side",
    ),
    "right": (
        "right",
        "to the right",
        "rightwards",
        "rightward",
        "from left to right",
        "from the left to the right",
        "towards the right",
        "toward the right edge",
        "to the right side",
    ),
    "up": ("up", "upwards", "upward", "towards the top", "toward the top edge", "straight up"),
    "down": (
        "down",
        "downwards",
        "downward",
        "towards the bottom",
        "toward the bottom edge",
        "straight down",
    ),
    **{
        f"{vertical}-{side}": (
            f"{vertical} and {side}",
            f"{vertical} and to the {side}",
            f"diagonally {vertical} to the {side}",
            f"diagonally {vertical} and {side}",
            f"{vertical} to the {side}",
            f"to the {other} {side}",
            f"towards the {other} {side}",
            f"to the {edge} {side}",
            f"toward the {edge} {side} corner",
        )
        for vertical, other, edge in (("up", "upper", "top"), ("down", "lower", "bottom"))
        for side in ("left", "right")
    },
}
"""What follows a verb of `GOING`, the plainest first."""

DOING: dict[str, tuple[Verb, ...]] = {
    "up": (
        Verb("rises", "rising", "rise"),
        Verb("climbs", "climbing", "climb"),
        Verb("ascends", "ascending", "ascend"),
    ),
    "down": (
        Verb("sinks", "sinking", "sink"),
        Verb("descends", "descending", "descend"),
        Verb("falls", "falling", "fall"),
    ),
    "grows": (
        Verb("grows", "growing", "grow"),
        Verb("gets bigger", "getting bigger", "get bigger"),
        Verb("gets larger", "getting larger", "get larger"),
        Verb("becomes larger", "becoming larger", "become larger"),
        Verb("expands", "expanding", "expand"),
    ),
    "shrinks": (
        Verb("shrinks", "shrinking", "shrink"),
        Verb("gets smaller", "getting smaller", "get smaller"),
        Verb("becomes smaller", "becoming smaller", "become smaller"),
        Verb("contracts", "contracting", "contract"),
    ),
    "spins": (
        Verb("spins", "spinning", "spin"),
        Verb("spins around", "spinning around", "spin around"),
        Verb("rotates", "rotating", "rotate"),
        Verb("turns around", "turning around", "turn around"),
        Verb("turns in place", "turning in place", "turn in place"),
    ),
    "bounces": (
        Verb("bounces", "bouncing", "bounce"),
        Verb("bounces up and down", "bouncing up and down", "bounce up and down"),
        Verb("jumps up and down", "jumping up and down", "jump up and down"),
        Verb("hops up and down", "hopping up and down", "hop up and down"),
        Verb("hops", "hopping", "hop"),
    ),
    "stands": (
        Verb("stands still", "standing still", "stand still"),
        Verb("stays in place", "staying in place", "stay in place"),
        Verb("stays still", "staying still", "stay still"),
        Verb("rests", "resting", "rest"),
        Verb("does not move", "not moving", "not move"),
    ),
}
"""Motions in a word of their own, the plainest first."""


def choose(items: Sequence[_Item], draw: Random) -> _Item:
    """One of some items, each as likely.

    Only `random()` is promised to give the same values in every version of Python.
    """
    return items[int(draw.random() * len(items))]

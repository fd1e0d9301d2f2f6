"""The parts of a scene: colours, shapes, motions, and a subject's pose at any time."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import NamedTuple

from istar.errors import UsageError

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 20, 30),
    "green": (20, 150, 50),
    "blue": (20, 60, 230),
    "yellow": (255, 230, 0),
    "orange": (255, 130, 0),
    "purple": (130, 30, 170),
    "pink": (255, 150, 200),
    "cyan": (40, 210, 240),
    "white": (250, 250, 250),
    "black": (15, 15, 15),
}
"""Red, green and blue of every named colour, of subjects and backgrounds alike.

Any two lie 100 or more apart in RGB.
"""

SHAPES: dict[str, float] = {"circle": 1.0, "square": 1.25, "triangle": 1.3, "star": 1.3}
"""Every shape, and how far it reaches from its centre, in its size."""

DIRECTIONS: dict[str, tuple[int, int]] = {
    "left": (-1, 0),
    "right": (1, 0),
    "up": (0, -1),
    "down": (0, 1),
    "up-left": (-1, -1),
    "up-right": (1, -1),
    "down-left": (-1, 1),
    "down-right": (1, 1),
}
"""The motions with a direction: the signs of their steps across and down the frame."""

MOTIONS: tuple[str, ...] = (*DIRECTIONS, "grows", "shrinks", "spins", "bounces", "stands")

SMALLEST, LARGEST = 0.12, 0.3
"""Bounds of a size, as a share of the frame's shorter side, which growth does not cross."""

DOUBLING_SECONDS = 4.0
BOUNCE_HEIGHT = 0.2
BOUNCE_SECONDS = 1.5
HELD_OUT_SHARE = 10
"""One combination in so many is held out."""


class Pose(NamedTuple):
    """Where a subject is at one time.

    `x` and `y` are its centre as shares of the frame's width and height, `size` a share of the
    shorter side, `turns` its rotation clockwise in whole turns.
    """

    x: float
    y: float
    size: float
    turns: float


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One thing in a scene.

    Attributes:
        shape: a name of `SHAPES`.
        colour: a name of `COLOURS`.
        motion: a name of `MOTIONS`.
        x: its centre at the start, as a share of the frame's width.
        y: its centre at the start, as a share of the frame's height; with `bounces`, of the ground.
        size: its radius at the start, as a share of the frame's shorter side.
        speed: with a direction, the share of the frame's extent that it crosses in a second, along
            each axis that it moves along; with `spins`, turns a second; otherwise unused.
        phase: with `bounces`, how much of its first bounce is over at the start.
        then: its motion from second 2 on; empty where it goes on.
    """

    shape: str
    colour: str
    motion: str
    x: float
    y: float
    size: float
    speed: float = 0.0
    phase: float = 0.0
    then: str = ""

    def __post_init__(self) -> None:
        for name, value, known in (
            ("shape", self.shape, tuple(SHAPES)),
            ("colour", self.colour, tuple(COLOURS)),
            ("motion", self.motion, MOTIONS),
        ):
            if value not in known:
                raise UsageError(f"no {name} {value!r}: choose from {', '.join(known)}")
        if (self.shape, self.motion) == ("circle", "spins"):
            raise UsageError("a circle cannot be seen to spin")

    @property
    def pace(self) -> str:
        """`slow`, `fast`, or empty."""
        return ""

    @property
    def bulk(self) -> str:
        """`small`, `large`, or empty."""
        return ""

    def pose(self, seconds: float) -> Pose:
        """Where it is at a time in seconds; a direction leads out of the frame in the end."""
        across, down = DIRECTIONS.get(self.motion, (0, 0))
        distance = self.speed * seconds
        size, turns, lift = self.size, 0.0, 0.0
        if self.motion in ("grows", "shrinks"):
            doublings = seconds / DOUBLING_SECONDS
            size *= 2 ** (doublings if self.motion == "grows" else -doublings)
            size = min(max(size, SMALLEST), LARGEST)
        elif self.motion == "spins":
            turns = distance
        elif self.motion == "bounces":
            # A ball thrown up again and again: every bounce is a parabola.
            share = (seconds / BOUNCE_SECONDS + self.phase) % 1
            lift = BOUNCE_HEIGHT * 4 * share * (1 - share)
        return Pose(self.x + across * distance, self.y + down * distance - lift, size, turns)


def is_held_out(colour: str, shape: str, motion: str, background: str) -> bool:
    """Whether training leaves out this combination: a tenth of them, by a hash of the names."""
    digest = sha256(f"{colour} {shape} {motion} {background}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % HELD_OUT_SHARE == 0

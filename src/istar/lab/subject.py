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

SPEEDS = (0.07, 0.17)
"""Slowest and fastest: shares of the frame's extent crossed in a second, along each axis."""

GROWTHS = (0.17, 0.3)
"""Slowest and fastest of growing and shrinking: doublings or halvings of the size in a second."""

SPINS = (0.12, 0.28)
"""Slowest and fastest: turns a second, either way."""

BOUNCES = (0.55, 0.8)
"""Slowest and fastest: bounces a second."""

BOUNCE_HEIGHT = 0.2

SMALLEST, LARGEST = 0.11, 0.3
"""Bounds of a size, as a share of the frame's shorter side, which growth does not cross."""

CHANGE_SECONDS = 2.0
"""When a motion changes that does."""

HELD_OUT_SHARE = 10
"""One combination in so many is held out."""

_SLOW, _FAST = 0.095, 0.14
_SMALL, _LARGE = 0.165, 0.215


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

    A motion's speed is the share of the frame's extent that a direction crosses in a second along
    each of its axes, the doublings of `grows` and the halvings of `shrinks` a second, the turns of
    `spins` a second, negative ones anticlockwise, or the bounces of `bounces` a second.

    Attributes:
        shape: a name of `SHAPES`.
        colour: a name of `COLOURS`.
        motion: a name of `MOTIONS`.
        x: its centre at the start, as a share of the frame's width.
        y: its centre at the start, as a share of the frame's height; with `bounces`, of the ground.
        size: its radius at the start, as a share of the frame's shorter side.
        turns: its rotation clockwise at the start.
        speed: of its motion.
        phase: with `bounces`, how much of its first bounce is over at the start.
        then: its motion from `CHANGE_SECONDS` on, if it is another.
        then_speed: of that motion.
    """

    shape: str
    colour: str
    motion: str
    x: float
    y: float
    size: float
    turns: float = 0.0
    speed: float = 0.0
    phase: float = 0.0
    then: str = ""
    then_speed: float = 0.0

    def __post_init__(self) -> None:
        for name, value, known in (
            ("shape", self.shape, tuple(SHAPES)),
            ("colour", self.colour, tuple(COLOURS)),
            *(("motion", motion, MOTIONS) for motion in self.motions),
        ):
            if value not in known:
                raise UsageError(f"no {name} {value!r}: choose from {', '.join(known)}")
        if self.shape == "circle" and "spins" in self.motions:
            raise UsageError("a circle cannot be seen to spin")

    @property
    def motions(self) -> tuple[str, ...]:
        """Its motion, and the one that follows."""
        return (self.motion, self.then) if self.then else (self.motion,)

    @property
    def paces(self) -> tuple[str, ...]:
        """Of each motion `slow`, `fast`, or empty for a usual speed or where it goes nowhere."""
        speeds = (self.speed, self.then_speed)
        return tuple(map(_pace, self.motions, speeds[: len(self.motions)]))

    @property
    def bulk(self) -> str:
        """`small`, `large`, or empty for a usual size or a changing one."""
        if {"grows", "shrinks"} & {*self.motions} or _SMALL <= self.size <= _LARGE:
            return ""
        return "small" if self.size < _SMALL else "large"

    def pose(self, seconds: float) -> Pose:
        """Where it is at a time in seconds; a direction leads out of the frame in the end."""
        start = Pose(self.x, self.y, self.size, self.turns)
        if not self.then or seconds <= CHANGE_SECONDS:
            return _moved(start, self.motion, self.speed, seconds, self.phase)
        middle = _moved(start, self.motion, self.speed, CHANGE_SECONDS, self.phase)
        return _moved(middle, self.then, self.then_speed, seconds - CHANGE_SECONDS)


def _pace(motion: str, speed: float) -> str:
    if motion not in DIRECTIONS or _SLOW <= speed <= _FAST:
        return ""
    return "slow" if speed < _SLOW else "fast"


def _moved(start: Pose, motion: str, speed: float, seconds: float, phase: float = 0.0) -> Pose:
    """The pose after some seconds of a motion."""
    distance = speed * seconds
    if motion in DIRECTIONS:
        across, down = DIRECTIONS[motion]
        return start._replace(x=start.x + across * distance, y=start.y + down * distance)
    if motion in ("grows", "shrinks"):
        size = start.size * 2 ** (distance if motion == "grows" else -distance)
        return start._replace(size=min(max(size, SMALLEST), LARGEST))
    if motion == "spins":
        return start._replace(turns=start.turns + distance)
    if motion == "bounces":
        # A ball thrown up again and again: every bounce is a parabola.
        share = (distance + phase) % 1
        return start._replace(y=start.y - BOUNCE_HEIGHT * 4 * share * (1 - share))
    return start


def is_held_out(colour: str, shape: str, motion: str, background: str) -> bool:
    """Whether training leaves out this combination: a tenth of them, by a hash of the names."""
    digest = sha256(f"{colour} {shape} {motion} {background}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % HELD_OUT_SHARE == 0

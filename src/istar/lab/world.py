"""Scenes: random by seed, endless, and split into training and held-out ones.

A scene is one or two coloured shapes that each do one thing on a plain background. Where a
subject starts depends on its motion, with a little chance: one that moves right starts at the left,
one that stays is in the middle. It stays wholly in the frame for `STAY_SECONDS`.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from torch import Tensor

from istar.errors import UsageError
from istar.lab.captions import canonical, describe
from istar.lab.draw import draw
from istar.lab.subject import (
    COLOURS,
    DIRECTIONS,
    MOTIONS,
    SHAPES,
    Subject,
    is_held_out,
)
from istar.lab.words import choose

STAY_SECONDS = 4.0
"""How long every subject is wholly in the frame."""

TWO_SHARE = 0.15
"""The share of training scenes with two subjects."""

_MARGIN = 0.01
_SLOWEST, _FASTEST = 0.11, 0.16
_SIDE_BY_SIDE = ("up", "down", "bounces", "spins", "stands")
_ONE_ABOVE_OTHER = ("left", "right", "spins", "stands")
"""What a subject can do within half a frame."""

_SIZES = {"grows": (0.125, 0.14), "shrinks": (0.25, 0.28), "bounces": (0.17, 0.22)}
_STAYING_SIZES = (0.18, 0.26)
_GOING_SIZES = (0.17, 0.2)
_SIZES_OF_TWO = (0.13, 0.15)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One or two subjects on a plain background.

    Attributes:
        background: a name of `COLOURS`, no subject's.
        subjects: one or two, of different shapes and colours.
    """

    background: str
    subjects: tuple[Subject, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.subjects) <= 2:
            raise UsageError(f"a scene has one subject or two, not {len(self.subjects)}")
        colours = [self.background, *(subject.colour for subject in self.subjects)]
        shapes = [subject.shape for subject in self.subjects]
        if self.background not in COLOURS or len({*colours}) < len(colours):
            raise UsageError(f"a scene needs different known colours, not {', '.join(colours)}")
        if len({*shapes}) < len(shapes):
            raise UsageError(f"two subjects need different shapes, not {', '.join(shapes)}")

    @property
    def held_out(self) -> bool:
        """Whether any subject's combination with the background is never shown in training."""
        return any(
            is_held_out(subject.colour, subject.shape, subject.motion, self.background)
            for subject in self.subjects
        )

    def frames(self, count: int, height: int, width: int, *, first: int = 0) -> Tensor:
        """Its pictures `(F, H, W, 3)` uint8, 16 a second, from picture number `first` on."""
        return draw(
            self.background, self.subjects, count=count, height=height, width=width, first=first
        )

    def caption(self, seed: int) -> str:
        """What it shows, in a wording drawn from a seed."""
        return describe(self.background, self.subjects, seed)

    def canonical_caption(self) -> str:
        """What it shows, in the plainest wording."""
        return canonical(self.background, self.subjects)


def random_scene(seed: int, *, held_out: bool = False) -> Scene:
    """The scene of a seed.

    Args:
        seed: any integer.
        held_out: draw one subject, of a combination that training never sees; otherwise one
            subject or two, of other combinations.
    """
    draw = Random(f"{'held-out' if held_out else 'training'} scene {seed}")
    two = not held_out and draw.random() < TWO_SHARE
    while True:
        scene = _two(draw) if two else _one(draw)
        if scene.held_out == held_out:
            return scene


def _one(draw: Random) -> Scene:
    """A scene of one subject."""
    background, colour = _different(tuple(COLOURS), 2, draw)
    motion = choose(MOTIONS, draw)
    shape = _shape_for(motion, tuple(SHAPES), draw)
    if motion in DIRECTIONS:
        size, speed = _going(shape, _GOING_SIZES, draw)
        x, y = (
            _start(sign, SHAPES[shape] * size, speed, 0.08, draw) for sign in DIRECTIONS[motion]
        )
        return Scene(
            background=background,
            subjects=(_subject(shape, colour, motion, x, y, size, speed),),
        )
    size = _between(*_SIZES.get(motion, _STAYING_SIZES), draw)
    jitter = 0.06 if motion in ("grows", "shrinks") else 0.1
    x = _between(0.5 - jitter, 0.5 + jitter, draw)
    if motion == "bounces":
        y = _between(0.57, 0.67, draw)
    else:
        y = _between(0.5 - jitter, 0.5 + jitter, draw)
    subject = _subject(shape, colour, motion, x, y, size, *_pace(motion, draw))
    return Scene(background=background, subjects=(subject,))


def _two(draw: Random) -> Scene:
    """A scene of two subjects, each within its half of the frame."""
    background, *colours = _different(tuple(COLOURS), 3, draw)
    beside = draw.random() < 0.5
    subjects: list[Subject] = []
    for colour, middle in zip(colours, (0.25, 0.75), strict=True):
        motion = choose(_SIDE_BY_SIDE if beside else _ONE_ABOVE_OTHER, draw)
        shapes = tuple(shape for shape in SHAPES if shape not in {s.shape for s in subjects})
        shape = _shape_for(motion, shapes, draw)
        size, speed = _going(shape, _SIZES_OF_TWO, draw)
        across = _between(middle - 0.03, middle + 0.03, draw)
        sign = sum(DIRECTIONS.get(motion, (0, 0)))
        along = _start(sign, SHAPES[shape] * size, speed, 0.06, draw)
        if motion == "bounces":
            along += 0.1
        pace = (speed,) if motion in DIRECTIONS else _pace(motion, draw)
        x, y = (across, along) if beside else (along, across)
        subjects.append(_subject(shape, colour, motion, x, y, size, *pace))
    return Scene(background=background, subjects=tuple(subjects))


def _subject(
    shape: str,
    colour: str,
    motion: str,
    x: float,
    y: float,
    size: float,
    speed: float = 0.0,
    phase: float = 0.0,
) -> Subject:
    return Subject(
        shape=shape, colour=colour, motion=motion, x=x, y=y, size=size, speed=speed, phase=phase
    )


def _going(shape: str, sizes: tuple[float, float], draw: Random) -> tuple[float, float]:
    """A size, and a speed at which such a subject does not leave even a square frame."""
    size = _between(*sizes, draw)
    room = 1 - 2 * (SHAPES[shape] * size + _MARGIN)
    return size, _between(_SLOWEST, min(_FASTEST, room / STAY_SECONDS), draw)


def _start(sign: int, reach: float, speed: float, jitter: float, draw: Random) -> float:
    """Where along one axis a subject starts that moves forwards, backwards or not along it."""
    if sign == 0:
        return _between(0.5 - jitter, 0.5 + jitter, draw)
    near = reach + _MARGIN
    start = _between(near, min(near + jitter, 1 - near - STAY_SECONDS * speed), draw)
    return start if sign > 0 else 1 - start


def _pace(motion: str, draw: Random) -> tuple[float, float]:
    """Speed and phase of a subject that goes nowhere."""
    if motion == "spins":
        return _between(0.25, 0.4, draw), 0.0
    return 0.0, _between(0, 0.15, draw) if motion == "bounces" else 0.0


def _shape_for(motion: str, shapes: tuple[str, ...], draw: Random) -> str:
    """A shape on which a motion can be seen."""
    return choose(
        tuple(shape for shape in shapes if (shape, motion) != ("circle", "spins")),
        draw,
    )


def _different(names: tuple[str, ...], count: int, draw: Random) -> list[str]:
    """Some names, none twice."""
    left = list(names)
    return [left.pop(int(draw.random() * len(left))) for _ in range(count)]


def _between(low: float, high: float, draw: Random) -> float:
    return low + (high - low) * draw.random()

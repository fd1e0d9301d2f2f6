"""Scenes: random by seed, endless, and split into training and held-out ones.

A scene is one or two coloured shapes that each do one thing, or one thing after another, on a plain
background. Places, sizes, speeds, rotations and phases are drawn evenly, and drawn again until
every subject stays wholly in a square frame, or in its half of one, for `STAY_SECONDS`.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from torch import Tensor

from istar.errors import UsageError
from istar.lab.captions import Content, Wording, canonical, describe
from istar.lab.draw import draw
from istar.lab.subject import (
    BOUNCE_HEIGHT,
    BOUNCES,
    CHANGE_SECONDS,
    COLOURS,
    DIRECTIONS,
    GROWTHS,
    LARGEST,
    MOTIONS,
    SHAPES,
    SPEEDS,
    SPINS,
    Pose,
    Subject,
    is_held_out,
)
from istar.lab.words import choose

WORLD_VERSION = 3
"""To be raised with every change of the scenes or captions that a seed stands for."""

STAY_SECONDS = 4.0
"""How long every subject is wholly in the frame."""

TWO_SHARE = 0.2
"""The share of training scenes with two subjects."""

CHANGE_SHARE = 0.4
"""The share of scenes of one subject whose motion changes."""

_TRIES = 1000

_MARGIN = 0.01
_SIDE_BY_SIDE = ("up", "down", "bounces", "spins", "stands")
_ONE_ABOVE_OTHER = ("left", "right", "spins", "stands")
"""What a subject can do within half a frame."""

_SIZES = {"grows": (0.12, 0.16), "shrinks": (0.23, 0.28), "bounces": (0.15, 0.2)}
_STAYING_SIZES = (0.15, 0.25)
_GOING_SIZES = (0.15, 0.2)
_SIZES_OF_TWO = (0.13, 0.15)
_WHOLE = (0.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class World:
    """What scenes may hold: by default everything.

    Attributes:
        colours: of subjects and backgrounds.
        shapes: of subjects.
        motions: of subjects.
        changes: the share of training scenes of one subject whose motion changes.
        pairs: the share of training scenes with two subjects.

    Raises:
        UsageError: a name is unknown or twice, a share is not from 0 to 1, or there are too few
            names for its scenes.
    """

    colours: tuple[str, ...] = tuple(COLOURS)
    shapes: tuple[str, ...] = tuple(SHAPES)
    motions: tuple[str, ...] = MOTIONS
    changes: float = CHANGE_SHARE
    pairs: float = TWO_SHARE

    def __post_init__(self) -> None:
        two = self.pairs > 0
        turning = "spins" in self.motions and self.shapes.count("circle")
        for what, names, known, least in (
            ("colours", self.colours, COLOURS, 3 if two else 2),
            ("shapes", self.shapes, SHAPES, 1 + two + turning),
            ("motions", self.motions, MOTIONS, 2 if self.changes > 0 else 1),
        ):
            if unknown := [name for name in names if name not in known]:
                raise UsageError(
                    f"world: {what} are of {', '.join(known)}, not {', '.join(unknown)}"
                )
            if len({*names}) < len(names):
                raise UsageError(f"world: one of the {what} is named twice")
            if len(names) < least:
                raise UsageError(f"world: its scenes need {least} {what} or more")
        if not (0 <= self.changes <= 1 and 0 <= self.pairs <= 1):
            raise UsageError("world: changes and pairs must be from 0 to 1")
        if two and not all({*own} & {*self.motions} for own in (_SIDE_BY_SIDE, _ONE_ABOVE_OTHER)):
            raise UsageError(
                "world: pairs need motions that fit into half a frame: one of "
                f"{', '.join(_SIDE_BY_SIDE)} and one of {', '.join(_ONE_ABOVE_OTHER)}"
            )


WHOLE_WORLD = World()


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
            is_held_out(subject.colour, subject.shape, motion, self.background)
            for subject in self.subjects
            for motion in subject.motions
        )

    def frames(self, count: int, height: int, width: int, *, first: int = 0) -> Tensor:
        """Its pictures `(F, H, W, 3)` uint8, 16 a second, from picture number `first` on."""
        return draw(
            self.background, self.subjects, count=count, height=height, width=width, first=first
        )

    def caption(
        self,
        seed: int,
        *,
        clip: int | None = None,
        wording: Wording = "trained",
        content: Content = "any",
    ) -> str:
        """What it shows, in a wording drawn from a seed; see `istar.lab.captions.describe`."""
        return describe(
            self.background, self.subjects, seed, clip=clip, wording=wording, content=content
        )

    def canonical_caption(self) -> str:
        """What it shows, in the plainest wording."""
        return canonical(self.background, self.subjects)


def random_scene(seed: int, *, held_out: bool = False, world: World = WHOLE_WORLD) -> Scene:
    """The scene of a seed.

    Args:
        seed: any integer.
        held_out: draw one subject with one motion, of a combination that training never sees;
            otherwise one subject or two, of other combinations.
        world: what it may hold.

    Raises:
        UsageError: the world has hardly any such scene, or none.
    """
    draw = Random(f"{'held-out' if held_out else 'training'} scene {seed}")
    two = not held_out and draw.random() < world.pairs
    for _ in range(_TRIES):
        scene = _two(world, draw) if two else _one(world, draw, changes=not held_out)
        if scene.held_out == held_out:
            return scene
    raise UsageError(f"world: it has no {'held-out' if held_out else 'training'} scenes")


def scene_of(background: str, colour: str, shape: str, motion: str, seed: int) -> Scene:
    """A scene of one subject that does one thing: its place, size and speed are those of a seed."""
    draw = Random(f"scene of one {seed}")
    subject = _placed(shape, colour, motion, "", sizes_of(motion), (_WHOLE, _WHOLE), draw)
    return Scene(background=background, subjects=(subject,))


def sizes_of(motion: str) -> tuple[float, float]:
    """The smallest and the largest size at the start of a subject that has a frame to itself."""
    return _SIZES.get(motion, _GOING_SIZES if motion in DIRECTIONS else _STAYING_SIZES)


def _one(world: World, draw: Random, *, changes: bool) -> Scene:
    """A scene of one subject, whose motion may change."""
    background, colour = _different(world.colours, 2, draw)
    motion = choose(world.motions, draw)
    then = ""
    if changes and draw.random() < world.changes:
        then = choose([other for other in world.motions if other != motion], draw)
    shape = _shape_for((motion, then), world.shapes, draw)
    subject = _placed(shape, colour, motion, then, sizes_of(motion), (_WHOLE, _WHOLE), draw)
    return Scene(background=background, subjects=(subject,))


def _two(world: World, draw: Random) -> Scene:
    """A scene of two subjects, each within its half of the frame."""
    background, *colours = _different(world.colours, 3, draw)
    beside = draw.random() < 0.5
    fitting = _SIDE_BY_SIDE if beside else _ONE_ABOVE_OTHER
    motions = tuple(motion for motion in fitting if motion in world.motions)
    subjects: list[Subject] = []
    for colour, half in zip(colours, ((0.0, 0.5), (0.5, 1.0)), strict=True):
        motion = choose(motions, draw)
        shapes = tuple(shape for shape in world.shapes if shape not in {s.shape for s in subjects})
        shape = _shape_for((motion,), shapes, draw)
        room = (half, _WHOLE) if beside else (_WHOLE, half)
        subjects.append(_placed(shape, colour, motion, "", _SIZES_OF_TWO, room, draw))
    if draw.random() < 0.5:
        subjects.reverse()
    return Scene(background=background, subjects=tuple(subjects))


def _placed(
    shape: str,
    colour: str,
    motion: str,
    then: str,
    sizes: tuple[float, float],
    room: tuple[tuple[float, float], tuple[float, float]],
    draw: Random,
) -> Subject:
    """A subject anywhere in its room, the first and last of x and of y, that it does not leave."""
    while True:
        subject = Subject(
            shape=shape,
            colour=colour,
            motion=motion,
            x=_between(*room[0], draw),
            y=_between(*room[1], draw),
            size=_between(*sizes, draw),
            turns=draw.random() if "spins" in (motion, then) else 0.0,
            speed=_speed(motion, draw),
            phase=draw.random() if motion == "bounces" else 0.0,
            then=then,
            then_speed=_speed(then, draw),
        )
        if stays(subject, room):
            return subject


def stays(
    subject: Subject, room: tuple[tuple[float, float], tuple[float, float]] = (_WHOLE, _WHOLE)
) -> bool:
    """Whether a subject stays wholly in its room and never outgrows `LARGEST`.

    Args:
        subject: in the frame.
        room: the first and last of x and of y, 0 to 1.
    """
    middle = subject.pose(CHANGE_SECONDS)
    poses = [subject.pose(0), middle, subject.pose(STAY_SECONDS)]
    if subject.motion == "bounces":
        poses += _bounce_ends(subject.pose(0)._replace(y=subject.y))
    if subject.then == "bounces":
        poses += _bounce_ends(middle)
    (left, right), (top, bottom) = room
    for pose in poses:
        reach = SHAPES[subject.shape] * pose.size + _MARGIN
        if not (
            left + reach <= pose.x <= right - reach and top + reach <= pose.y <= bottom - reach
        ):
            return False
    return all(pose.size < LARGEST for pose in poses)


def _bounce_ends(ground: Pose) -> tuple[Pose, Pose]:
    """The lowest and the highest pose of a bounce."""
    return ground, ground._replace(y=ground.y - BOUNCE_HEIGHT)


def _speed(motion: str, draw: Random) -> float:
    """A speed of a motion."""
    if motion in DIRECTIONS:
        return _between(*SPEEDS, draw)
    if motion in ("grows", "shrinks"):
        return _between(*GROWTHS, draw)
    if motion == "spins":
        return _between(*SPINS, draw) * choose((-1, 1), draw)
    return _between(*BOUNCES, draw) if motion == "bounces" else 0.0


def _shape_for(motions: tuple[str, ...], shapes: tuple[str, ...], draw: Random) -> str:
    """A shape on which some motions can be seen."""
    return choose(
        tuple(shape for shape in shapes if shape != "circle" or "spins" not in motions), draw
    )


def _different(names: tuple[str, ...], count: int, draw: Random) -> list[str]:
    """Some names, none twice."""
    left = list(names)
    return [left.pop(int(draw.random() * len(left))) for _ in range(count)]


def _between(low: float, high: float, draw: Random) -> float:
    return low + (high - low) * draw.random()

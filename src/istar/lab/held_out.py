"""Scenes for tests: of combinations that training leaves out, none twice, motions balanced."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from itertools import count as count_from
from itertools import product
from random import Random

from istar.lab.subject import (
    COLOURS,
    DIRECTIONS,
    MOTIONS,
    SHAPES,
    SPEEDS,
    Subject,
    is_held_out,
)
from istar.lab.words import choose
from istar.lab.world import STAY_SECONDS, Scene, random_scene

_MARGIN = 0.01


@cache
def held_out_scenes(seed: int, count: int, motions: tuple[str, ...] = MOTIONS) -> tuple[Scene, ...]:
    """Scenes of one subject that training leaves out.

    Every motion is as frequent as every other, but for a remainder. No two scenes have the same
    colour, shape, motion and background, unless there are more scenes than such combinations.

    Args:
        seed: of the first scene that is considered; the others' follow it.
        count: how many.
        motions: those that occur.
    """
    left = _shares(count, motions, Random(f"held-out motions {seed}"))
    most = {motion: -(-left[motion] // _combinations(motion)) for motion in motions}
    seen = Counter[tuple[str, ...]]()
    scenes: list[Scene] = []
    for scene in (random_scene(number, held_out=True) for number in count_from(seed)):
        if len(scenes) == count:
            break
        (one,) = scene.subjects
        combination = one.colour, one.shape, one.motion, scene.background
        if left[one.motion] > 0 and seen[combination] < most[one.motion]:
            left[one.motion] -= 1
            seen[combination] += 1
            scenes.append(scene)
    return tuple(scenes)


def turning_scenes(seed: int, count: int) -> tuple[Scene, ...]:
    """Held-out scenes of one subject that moves in one direction, then in another."""
    return tuple(
        replace(scene, subjects=(_turned(scene.subjects[0], Random(f"turn {seed + number}")),))
        for number, scene in enumerate(held_out_scenes(seed, count, tuple(DIRECTIONS)))
    )


def scenes_of_two(seed: int, count: int) -> tuple[Scene, ...]:
    """Scenes of two subjects of which at least one is of a combination that training leaves out."""
    scenes: list[Scene] = []
    seen = set[frozenset[tuple[str, ...]]]()
    for scene in _recoloured(seed):
        if len(scenes) == count:
            break
        pair = frozenset(
            (one.colour, one.shape, one.motion, scene.background) for one in scene.subjects
        )
        if scene.held_out and pair not in seen:
            seen.add(pair)
            scenes.append(scene)
    return tuple(scenes)


def scene_alike(scene: Scene, seed: int) -> Scene:
    """A scene of the world with the same colour, shape, motion and background, drawn anew."""
    (wanted,) = scene.subjects
    for number in count_from():
        other = random_scene(1_000_003 * (seed + 1) + number, held_out=True)
        (one,) = other.subjects
        if (one.shape, one.motion) == (wanted.shape, wanted.motion):
            break
    # Where a subject is and how it moves does not depend on the colours.
    return Scene(background=scene.background, subjects=(replace(one, colour=wanted.colour),))


def _shares(count: int, motions: tuple[str, ...], draw: Random) -> Counter[str]:
    """How many scenes every motion has."""
    left = Counter({motion: count // len(motions) for motion in motions})
    names = list(motions)
    for _ in range(count % len(motions)):
        left[names.pop(int(draw.random() * len(names)))] += 1
    return left


@cache
def _combinations(motion: str) -> int:
    """How many combinations of a motion training leaves out."""
    return sum(
        is_held_out(colour, shape, motion, background)
        for colour, shape, background in product(COLOURS, SHAPES, COLOURS)
        if colour != background and (shape, motion) != ("circle", "spins")
    )


def _turned(subject: Subject, draw: Random) -> Subject:
    """A subject whose second motion is another direction that it has room for."""
    others = [motion for motion in DIRECTIONS if motion != subject.motion]
    while True:
        then = choose(others, draw)
        speed = SPEEDS[0] + (subject.speed - SPEEDS[0]) * draw.random()
        turned = replace(subject, then=then, then_speed=speed)
        end = turned.pose(STAY_SECONDS)
        reach = SHAPES[subject.shape] * end.size + _MARGIN
        if all(reach <= place <= 1 - reach for place in (end.x, end.y)):
            return turned


def _recoloured(seed: int) -> Iterator[Scene]:
    """Training's scenes of two subjects, in other colours: those do not change how they move."""
    for number in count_from():
        scene = random_scene(-1 - seed - number)
        if len(scene.subjects) == 2:
            draw = Random(f"colours {seed + number}")
            names = list(COLOURS)
            background, *own = (names.pop(int(draw.random() * len(names))) for _ in range(3))
            first, second = scene.subjects
            yield Scene(
                background=background,
                subjects=(replace(first, colour=own[0]), replace(second, colour=own[1])),
            )

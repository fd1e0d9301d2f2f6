"""Scenes for tests: of combinations that training leaves out, none twice, motions balanced."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from itertools import count as count_from
from itertools import product
from random import Random

from istar.lab.subject import COLOURS, DIRECTIONS, MOTIONS, SHAPES, SPEEDS, Subject, is_held_out
from istar.lab.words import choose
from istar.lab.world import Scene, random_scene, scene_of, stays


@cache
def held_out_scenes(seed: int, count: int, motions: tuple[str, ...] = MOTIONS) -> tuple[Scene, ...]:
    """Scenes of one subject that training leaves out.

    Every motion is as frequent as every other, but for a remainder. No two scenes have the same
    colour, shape, motion and background before all such combinations have occurred.

    Args:
        seed: of the first scene; the others' follow it.
        count: how many; a smaller number gives the first of them.
        motions: those that occur.
    """
    order = _shuffled(motions, Random(f"order of motions {seed}"))
    left: dict[str, list[tuple[str, str, str]]] = {motion: [] for motion in motions}
    scenes = []
    for number in range(count):
        motion = order[number % len(order)]
        if not left[motion]:
            left[motion] = _combinations(motion)
        draw = Random(f"held-out scene {seed + number}")
        background, colour, shape = left[motion].pop(int(draw.random() * len(left[motion])))
        scenes.append(scene_of(background, colour, shape, motion, seed + number))
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
    (one,) = scene.subjects
    return scene_of(scene.background, one.colour, one.shape, one.motion, -1 - seed)


def _combinations(motion: str) -> list[tuple[str, str, str]]:
    """The background, colour and shape of all combinations of a motion that training leaves out."""
    return [
        (background, colour, shape)
        for background, colour, shape in product(COLOURS, COLOURS, SHAPES)
        if colour != background
        and (shape, motion) != ("circle", "spins")
        and is_held_out(colour, shape, motion, background)
    ]


def _turned(subject: Subject, draw: Random) -> Subject:
    """A subject whose second motion is another direction that it has room for."""
    others = [motion for motion in DIRECTIONS if motion != subject.motion]
    while True:
        then = choose(others, draw)
        speed = SPEEDS[0] + (subject.speed - SPEEDS[0]) * draw.random()
        turned = replace(subject, then=then, then_speed=speed)
        if stays(turned):
            return turned


def _recoloured(seed: int) -> Iterator[Scene]:
    """Training's scenes of two subjects, in other colours: those do not change how they move."""
    for number in count_from():
        scene = random_scene(-1 - seed - number)
        if len(scene.subjects) == 2:
            background, *colours = _shuffled(tuple(COLOURS), Random(f"colours {seed + number}"))
            first, second = scene.subjects
            yield Scene(
                background=background,
                subjects=(
                    replace(first, colour=colours[0]),
                    replace(second, colour=colours[1]),
                ),
            )


def _shuffled(names: tuple[str, ...], draw: Random) -> list[str]:
    left = list(names)
    return [left.pop(int(draw.random() * len(left))) for _ in names]

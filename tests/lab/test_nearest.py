"""Clips compared with the nearest scene of their caption."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from math import log, sqrt

import pytest
import torch

from istar.errors import UsageError
from istar.lab.held_out import scene_alike
from istar.lab.nearest import NO_PLACE, NO_SIZE, Nearness, nearness, spread_shares
from istar.lab.subject import DIRECTIONS, SPEEDS, Subject
from istar.lab.world import Scene, World, random_scene

WORLD = World(
    colours=("red", "blue", "yellow", "white"),
    shapes=("circle", "square", "triangle"),
    motions=("left", "down-right", "grows", "shrinks", "stands"),
    changes=0,
    pairs=0,
)


def moving(**changes: float) -> Scene:
    """A square that moves right in the middle."""
    values = {"x": 0.4, "y": 0.5, "size": 0.18, "speed": 0.12} | changes
    subject = Subject(shape="square", colour="red", motion="right", **values)
    return Scene(background="white", subjects=(subject,))


@pytest.mark.parametrize("size", [(80, 80), (96, 144)])
def test_the_worlds_own_clips_are_at_the_nearest_scene(size: tuple[int, int]) -> None:
    for seed in range(8):
        scene = random_scene(seed, world=WORLD)
        other = scene_alike(scene, 1)
        found = nearness(scene.frames(17, *size), other)
        (own,), (fitted,) = scene.subjects, found.scene.subjects
        assert found.present
        assert found.place < 0.004, scene
        assert found.size < 0.04, scene
        assert found.psnr > 27, scene
        assert (fitted.x, fitted.y) == pytest.approx((own.x, own.y), abs=0.01)
        assert fitted.size == pytest.approx(own.size, rel=0.06)
        goes = own.motion in DIRECTIONS
        assert fitted.speed == pytest.approx(own.speed, abs=0.01 if goes else 0.04)


def test_a_subject_that_is_too_fast_is_off_by_what_it_is_too_fast() -> None:
    """Over a second and around its middle, 17 times have a deviation of 0.306 s."""
    fast = moving(x=0.3, speed=SPEEDS[1] + 0.2)
    found = nearness(fast.frames(17, 96, 96), moving())
    assert found.scene.subjects[0].speed == SPEEDS[1]
    assert found.place == pytest.approx(0.2 * sqrt((17**2 - 1) / 12) / 16, abs=0.003)
    assert found.size < 0.02


def test_another_motion_and_size_are_errors() -> None:
    subject = moving().subjects[0]
    still = replace(subject, motion="stands", speed=0.0, size=0.3)
    frames = Scene(background="white", subjects=(still,)).frames(17, 96, 96)
    found = nearness(frames, moving())
    assert found.place == pytest.approx(SPEEDS[0] * 0.306, abs=0.003)
    assert found.size == pytest.approx(log(0.3 / 0.2), abs=0.02)  # a square that moves is 0.2


def test_other_colours_and_shapes_are_farther_in_decibels() -> None:
    right = nearness(moving().frames(17, 80, 80), moving())
    subject = moving().subjects[0]
    for other in (
        Scene(background="white", subjects=(replace(subject, colour="blue"),)),
        Scene(background="yellow", subjects=(subject,)),
        Scene(background="white", subjects=(replace(subject, shape="triangle"),)),
    ):
        assert nearness(moving().frames(17, 80, 80), other).psnr < right.psnr - 5


def test_a_picture_without_the_subject_counts_as_half_a_frame() -> None:
    empty = torch.full((16, 80, 80, 3), 250, dtype=torch.uint8)
    found = nearness(empty, moving())
    assert (found.present, found.place, found.size) == (False, NO_PLACE, NO_SIZE)
    half = torch.cat((moving().frames(16, 80, 80), empty))
    found = nearness(half, moving())
    assert found.present
    assert found.place == pytest.approx(NO_PLACE * sqrt(0.5), abs=0.001)
    assert found.size == pytest.approx(NO_SIZE * sqrt(0.5), abs=0.01)


def test_what_is_not_fitted_is_refused() -> None:
    bouncing = Subject(shape="star", colour="red", motion="bounces", x=0.5, y=0.6, size=0.2)
    scene = Scene(background="blue", subjects=(bouncing,))
    with pytest.raises(UsageError, match="moves straight"):
        nearness(scene.frames(3, 40, 40), scene)


def test_spread_is_1_of_the_world_and_0_of_copies() -> None:
    captions = [random_scene(seed, world=WORLD) for seed in range(4)]

    def measured(scenes: Iterable[Scene]) -> list[Nearness]:
        return [nearness(scene.frames(17, 64, 64), scene) for scene in scenes]

    clips = [measured(scene_alike(scene, n) for n in range(10)) for scene in captions]
    world = spread_shares(clips, world_scenes=10)
    assert world == pytest.approx({"place": 1, "size": 1, "speed": 1}, abs=0.15)
    copies = spread_shares([measured([scene] * 3) for scene in captions])
    assert copies == pytest.approx({"place": 0, "size": 0, "speed": 0}, abs=1e-6)

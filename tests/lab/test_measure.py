"""The judge of clips, on clips whose truth is known."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from istar.lab.measure import Measurement, measure
from istar.lab.motion import (
    LEAST_SHARE,
    USUAL_GROWTH,
    USUAL_SPEED,
    USUAL_SPIN,
    Trajectory,
    classify_motion,
)
from istar.lab.score import LEAST_SECONDS
from istar.lab.subject import COLOURS, DIRECTIONS, MOTIONS, Subject
from istar.lab.world import Scene, random_scene

PICTURES = 33


def one_subject_scenes(count: int, *, held_out: bool) -> list[Scene]:
    every = (random_scene(seed, held_out=held_out) for seed in range(10 * count))
    return [scene for scene in every if len(scene.subjects) == 1][:count]


def truth(scene: Scene) -> tuple[str, str, str, str, bool]:
    (one,) = scene.subjects
    return scene.background, one.colour, one.shape, one.motion, True


def found(measured: Measurement) -> tuple[str, str | None, str | None, str | None, bool]:
    m = measured
    return m.background, m.colour, m.shape, m.motion, m.kept


def degraded(frames: Tensor, random: torch.Generator, *, noise: float, blur: float) -> Tensor:
    """Blurred by a Gaussian of 7 taps, with noise of so many levels on every number."""
    places = torch.arange(-3, 4).float()
    taps = torch.exp(-places.square() / (2 * blur**2))
    taps = (taps / taps.sum()).expand(3, 1, 7)
    x = F.pad(frames.permute(0, 3, 1, 2).float(), (3, 3, 3, 3), mode="replicate")
    x = F.conv2d(F.conv2d(x, taps[:, :, None], groups=3), taps[..., None], groups=3)
    x = x + noise * torch.randn(x.shape, generator=random)
    return x.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def clip(
    motion: str = "stands", shape: str = "square", colour: str = "red", **changes: float
) -> Tensor:
    values = {"x": 0.5, "y": 0.5, "size": 0.2} | changes
    subject = Subject(shape=shape, colour=colour, motion=motion, **values)
    return Scene(background="white", subjects=(subject,)).frames(PICTURES, 64, 112)


@pytest.mark.parametrize("size", [(64, 112), (80, 80)])
@pytest.mark.parametrize(("noise", "blur", "least"), [(0, 0.1, 0.99), (10, 0.8, 0.97)])
def test_the_judge_sees_what_was_drawn(
    random: torch.Generator, size: tuple[int, int], noise: float, blur: float, least: float
) -> None:
    right = []
    for held_out in (False, True):
        for scene in one_subject_scenes(40, held_out=held_out):
            frames = degraded(scene.frames(PICTURES, *size), random, noise=noise, blur=blur)
            right.append(found(measure(frames)) == truth(scene))
    assert sum(right) / len(right) >= least


@pytest.mark.slow
@pytest.mark.parametrize("size", [(64, 112), (80, 80)])
@pytest.mark.parametrize(
    ("noise", "blur", "least"), [(0, 0.1, 0.99), (10, 0.8, 0.97), (20, 1.2, 0.97)]
)
def test_the_judge_sees_what_was_drawn_in_many_scenes(
    random: torch.Generator, size: tuple[int, int], noise: float, blur: float, least: float
) -> None:
    right = []
    for held_out in (False, True):
        for scene in one_subject_scenes(300, held_out=held_out):
            frames = degraded(scene.frames(PICTURES, *size), random, noise=noise, blur=blur)
            right.append(found(measure(frames)) == truth(scene))
    assert sum(right) / len(right) >= least


def test_the_continued_part_is_measured_too() -> None:
    """A continuation begins in the middle of what a subject does."""
    wrong = [
        scene
        for scene in one_subject_scenes(60, held_out=True)
        if found(measure(scene.frames(32, 64, 112, first=33))) != truth(scene)
    ]
    assert not wrong


def test_the_shortest_clip_is_enough() -> None:
    pictures = round(LEAST_SECONDS * 16)
    for first in range(0, 30, 6):
        for scene in one_subject_scenes(60, held_out=True):
            if scene.subjects[0].motion in ("bounces", "up", "down", "stands"):
                measured = measure(scene.frames(pictures, 64, 112, first=first))
                assert found(measured) == truth(scene)


def test_large_pictures_are_measured_alike() -> None:
    for scene in one_subject_scenes(8, held_out=False):
        assert found(measure(scene.frames(PICTURES, 270, 480))) == truth(scene)


def test_nothing_is_seen_where_nothing_is() -> None:
    frames = torch.tensor(COLOURS["green"], dtype=torch.uint8).repeat(PICTURES, 64, 112, 1)
    measured = measure(frames)
    assert found(measured) == ("green", None, None, None, False)
    assert measured.centre is None


def test_noise_is_not_a_subject(random: torch.Generator) -> None:
    frames = torch.randint(0, 256, (PICTURES, 64, 112, 3), generator=random, dtype=torch.uint8)
    measured = measure(frames)
    assert measured.shape is None
    assert not measured.kept


def test_an_unknown_shape_has_no_name() -> None:
    """A bar across the frame, and two squares, are no shape of the world."""
    frames = clip()
    frames[:] = 250
    frames[:, 28:36, 10:100] = 0
    assert measure(frames).shape is None
    frames[:] = 250
    frames[:, 20:40, 10:30] = 0
    frames[:, 20:40, 80:100] = 0
    measured = measure(frames)
    assert measured.shape is None
    assert not measured.kept


@pytest.mark.parametrize(
    "changed", [clip(colour="green"), clip(shape="star"), clip(shape="circle"), clip(x=9.0)]
)
@pytest.mark.parametrize("third", range(3))
def test_a_subject_that_changes_is_not_kept(changed: Tensor, third: int) -> None:
    frames = clip().clone()
    assert measure(frames).kept
    part = slice(third * 11, third * 11 + 11)
    frames[part] = changed[part]
    assert not measure(frames).kept


def test_a_subject_that_is_gone_for_a_moment_is_not_kept() -> None:
    """One picture of eleven may be missing, two may not."""
    frames, gone = clip().clone(), clip(x=9.0)
    frames[14] = gone[14]
    assert measure(frames).kept
    frames[15] = gone[15]
    assert not measure(frames).kept


def test_a_subject_that_is_rarely_there_has_no_motion() -> None:
    frames = clip("right", x=0.2, speed=0.14)
    frames[8:] = clip(x=9.0)[8:]
    assert measure(frames).motion is None
    assert measure(frames).colour == "red"


def test_the_centre_is_where_the_subject_starts() -> None:
    measured = measure(clip("right", x=0.25, y=0.4, speed=0.14))
    assert measured.centre == pytest.approx((0.25, 0.4), abs=0.01)


def test_the_repeated_first_picture_does_no_harm() -> None:
    for scene in one_subject_scenes(20, held_out=False):
        frames = scene.frames(PICTURES, 64, 112)
        frames[0] = frames[1]
        assert found(measure(frames)) == truth(scene)


def path(**changes: Tensor) -> Trajectory:
    still = Trajectory(
        seconds=torch.arange(PICTURES) / 16,
        across=torch.full((PICTURES,), 0.5),
        down=torch.full((PICTURES,), 0.5),
        areas=torch.full((PICTURES,), 400.0),
    )
    return replace(still, **changes)


@pytest.mark.parametrize("name", DIRECTIONS)
@pytest.mark.parametrize(("factor", "moves"), [(1.0, True), (1.1, True), (0.9, False)])
def test_a_direction_counts_from_four_tenths_of_the_usual_speed(
    name: str, factor: float, moves: bool
) -> None:
    least = path().seconds * USUAL_SPEED * LEAST_SHARE * factor * 1.001
    across, down = DIRECTIONS[name]
    way = path(across=0.5 + across * least, down=0.5 + down * least)
    assert classify_motion(way) == (name if moves else "stands")


def test_the_nearest_of_eight_directions_counts() -> None:
    seconds = path().seconds
    for across, down, name in (
        (0.14, 0.05, "right"),
        (0.14, 0.07, "down-right"),
        (-0.06, 0.14, "down-left"),
        (-0.05, -0.14, "up"),
    ):
        way = path(across=0.5 + across * seconds, down=0.5 + down * seconds)
        assert classify_motion(way) == name


def test_growth_and_spin_count_from_four_tenths_of_the_usual() -> None:
    seconds = path().seconds
    for factor, seen in ((1.05, True), (0.95, False)):
        share = LEAST_SHARE * factor
        areas = 400 * 2 ** (USUAL_GROWTH * share * seconds)
        assert classify_motion(path(areas=areas)) == ("grows" if seen else "stands")
        assert classify_motion(path(areas=400 * 400 / areas)) == ("shrinks" if seen else "stands")
        for way in (1, -1):
            turns = (4 * way * USUAL_SPIN * share * seconds) % 1
            assert classify_motion(path(), turns, 4) == ("spins" if seen else "stands")


def test_the_strongest_motion_counts() -> None:
    seconds = path().seconds
    moving = path(across=0.2 + 0.135 * seconds, areas=400 * 2 ** (0.3 * seconds))
    assert classify_motion(moving) == "right"
    growing = path(across=0.2 + 0.07 * seconds, areas=400 * 2 ** (0.5 * seconds))
    assert classify_motion(growing) == "grows"


def test_a_bounce_goes_both_ways() -> None:
    half = torch.linspace(0, 0.07, 16)
    there_and_back = 0.5 - torch.cat((half, half.flip(0), half[:1]))
    assert classify_motion(path(down=there_and_back)) == "bounces"
    assert classify_motion(path(across=there_and_back)) == "stands"
    low = 0.5 - (0.5 - there_and_back) * 0.8
    assert classify_motion(path(down=low)) == "stands"


def test_strays_do_not_make_a_motion(random: torch.Generator) -> None:
    down = path().down.clone()
    down[[5, 20]] = 0.9
    assert classify_motion(path(down=down)) == "stands"
    turns = torch.rand(PICTURES, generator=random)
    assert classify_motion(path(), turns, 4) == "stands"


def test_every_motion_of_the_world_is_recognized() -> None:
    seen = {
        measure(s.frames(PICTURES, 64, 112)).motion for s in one_subject_scenes(80, held_out=False)
    }
    assert seen == set(MOTIONS)

"""The judge of clips, on clips whose truth is known."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from istar.lab.held_out import scenes_of_two
from istar.lab.measure import Measurement, measure, measure_two
from istar.lab.motion import (
    LEAST_SHARE,
    USUAL_BOUNCE,
    USUAL_GROWTH,
    USUAL_SPEED,
    USUAL_SPIN,
    Movement,
    Trajectory,
    classify_motion,
)
from istar.lab.score import LEAST_SECONDS
from istar.lab.subject import COLOURS, DIRECTIONS, MOTIONS, Subject
from istar.lab.world import Scene, random_scene

PICTURES = 33


def one_subject_scenes(count: int, *, held_out: bool) -> list[Scene]:
    """Scenes of one subject with one motion."""
    every = (random_scene(seed, held_out=held_out) for seed in range(10 * count))
    scenes = (s for s in every if len(s.subjects) == 1 and len(s.subjects[0].motions) == 1)
    return list(islice(scenes, count))


Found = tuple[str, str | None, str | None, str | None, bool, bool]


def truth(scene: Scene, one: Subject | None = None) -> Found:
    one = one or scene.subjects[0]
    return scene.background, one.colour, one.shape, one.motion, True, True


def found(measured: Measurement) -> Found:
    m = measured
    return m.background, m.colour, m.shape, m.motion, m.kept, m.whole


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


USUAL = ((0, (64, 112)), (20, (80, 80)))
"""The noise and the size of what is judged without `slow`."""


@pytest.mark.parametrize(
    ("noise", "blur", "least", "size", "count"),
    [
        pytest.param(
            noise,
            blur,
            least,
            size,
            count,
            marks=() if count == 6 and (noise, size) in USUAL else pytest.mark.slow,
        )
        for noise, blur, least in ((0, 0.1, 0.99), (10, 0.8, 0.97), (20, 1.2, 0.97))
        for size in ((64, 112), (80, 80))
        for count in (6, 300)
    ],
)
def test_the_judge_sees_what_was_drawn(
    random: torch.Generator,
    size: tuple[int, int],
    noise: float,
    blur: float,
    least: float,
    count: int,
) -> None:
    """Of the twelve scenes that are drawn without `slow` it may miss none."""
    right = []
    for held_out in (False, True):
        for scene in one_subject_scenes(count, held_out=held_out):
            frames = degraded(scene.frames(PICTURES, *size), random, noise=noise, blur=blur)
            right.append(found(measure(frames)) == truth(scene))
    assert sum(right) / len(right) >= least


def test_the_continued_part_is_measured_too() -> None:
    """A continuation begins in the middle of what a subject does."""
    wrong = [
        scene
        for scene in one_subject_scenes(10, held_out=True)
        if found(measure(scene.frames(32, 64, 112, first=33))) != truth(scene)
    ]
    assert not wrong


def test_the_shortest_clip_is_enough() -> None:
    pictures = round(LEAST_SECONDS * 16)
    scenes = one_subject_scenes(25, held_out=True)
    for first in (0, 12, 24):
        for scene in scenes:
            if scene.subjects[0].motion in ("bounces", "up", "down", "stands"):
                measured = measure(scene.frames(pictures, 64, 112, first=first))
                assert found(measured) == truth(scene)


def test_large_pictures_are_measured_alike() -> None:
    for scene in one_subject_scenes(3, held_out=False):
        assert found(measure(scene.frames(PICTURES, 270, 480))) == truth(scene)


def test_nothing_is_seen_where_nothing_is() -> None:
    frames = torch.tensor(COLOURS["green"], dtype=torch.uint8).repeat(PICTURES, 64, 112, 1)
    measured = measure(frames)
    assert found(measured) == ("green", None, None, None, False, False)
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
    assert not measured.whole


@pytest.mark.parametrize(
    ("shape", "number"), [("circle", 0), ("square", 16), ("triangle", 16), ("star", 32)]
)
def test_a_subject_that_is_torn_or_doubled_in_one_picture_is_not_whole(
    shape: str, number: int
) -> None:
    frames = clip(shape=shape)
    assert measure(frames).whole
    torn = frames.clone()
    torn[number, 31:34] = 250
    assert not measure(torn).whole
    assert (measure(torn).colour, measure(torn).motion) == ("red", "stands")
    doubled = torch.minimum(clip(shape=shape, x=0.3), clip(shape=shape, x=0.7))
    changed = frames.clone()
    changed[number] = doubled[number]
    assert not measure(changed).whole


def test_a_torn_bounce_is_a_bounce_but_not_whole() -> None:
    """Half of the subject of one phase, and half of that of another."""
    first, second = (
        clip("bounces", y=0.7, size=0.17, speed=0.7, phase=phase) for phase in (0.0, 0.2)
    )
    torn = torch.cat((first[:, :, :56], second[:, :, 56:]), dim=2)
    torn[:, :, 55:57] = 250
    assert found(measure(first))[3:] == ("bounces", True, True)
    measured = measure(torn)
    assert (measured.colour, measured.motion, measured.whole) == ("red", "bounces", False)


@pytest.mark.parametrize("colour", ["pink", "yellow"])
def test_something_else_in_one_picture_is_seen_whatever_its_colour(colour: str) -> None:
    """On white, where pink and yellow are far nearer to the background than a black subject is."""
    frames = clip(colour="black").clone()
    assert measure(frames).whole
    frames[9, 4:14, 4:14] = torch.tensor(COLOURS[colour], dtype=torch.uint8)
    assert not measure(frames).whole
    frames[9, 4:14, 4:14] = frames[0, 0, 0]
    frames[9, 4:7, 4:7] = torch.tensor(COLOURS[colour], dtype=torch.uint8)
    assert measure(frames).whole


def test_a_third_thing_is_seen_beside_two_subjects() -> None:
    (one, other) = (
        replace(each, colour=colour)
        for each, colour in zip(two().subjects, ("red", "yellow"), strict=True)
    )
    scene = Scene(background="blue", subjects=(one, other))
    frames = scene.frames(PICTURES, 80, 80).clone()
    assert right_of_two(scene, frames)
    frames[:, 4:20, 4:20] = torch.tensor(COLOURS["cyan"], dtype=torch.uint8)
    measured, _ = measure_two(frames, (one.colour, other.colour))
    assert not any(found.whole for found in measured)


def test_specks_do_not_tear_a_subject(random: torch.Generator) -> None:
    frames = degraded(clip(), random, noise=20, blur=1.0)
    frames[:, 5, 5] = 0
    assert measure(frames).whole


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
    for scene in one_subject_scenes(8, held_out=False):
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


def movement_of(*trajectory: Any) -> Movement:
    found = classify_motion(*trajectory)
    assert found is not None
    return found


def motion_of(*trajectory: Any) -> str:
    return movement_of(*trajectory).motion


@pytest.mark.parametrize("name", DIRECTIONS)
@pytest.mark.parametrize(("factor", "moves"), [(1.0, True), (1.1, True), (0.9, False)])
def test_a_direction_counts_from_four_tenths_of_the_usual_speed(
    name: str, factor: float, moves: bool
) -> None:
    least = path().seconds * USUAL_SPEED * LEAST_SHARE * factor * 1.001
    across, down = DIRECTIONS[name]
    way = path(across=0.5 + across * least, down=0.5 + down * least)
    assert motion_of(way) == (name if moves else "stands")


def test_the_nearest_of_eight_directions_counts() -> None:
    seconds = path().seconds
    for across, down, name in (
        (0.14, 0.05, "right"),
        (0.14, 0.07, "down-right"),
        (-0.06, 0.14, "down-left"),
        (-0.05, -0.14, "up"),
    ):
        way = path(across=0.5 + across * seconds, down=0.5 + down * seconds)
        assert motion_of(way) == name


def test_growth_and_spin_count_from_four_tenths_of_the_usual() -> None:
    seconds = path().seconds
    for factor, seen in ((1.05, True), (0.95, False)):
        share = LEAST_SHARE * factor
        areas = 400 * 2 ** (USUAL_GROWTH * share * seconds)
        assert motion_of(path(areas=areas)) == ("grows" if seen else "stands")
        assert motion_of(path(areas=400 * 400 / areas)) == ("shrinks" if seen else "stands")
        for way in (1, -1):
            turns = (4 * way * USUAL_SPIN * share * seconds) % 1
            assert motion_of(path(), turns, 4) == ("spins" if seen else "stands")


def test_the_strongest_motion_counts() -> None:
    seconds = path().seconds
    moving = path(across=0.2 + 0.135 * seconds, areas=400 * 2 ** (0.3 * seconds))
    assert motion_of(moving) == "right"
    growing = path(across=0.2 + 0.07 * seconds, areas=400 * 2 ** (0.5 * seconds))
    assert motion_of(growing) == "grows"


def test_a_bounce_goes_both_ways() -> None:
    half = torch.linspace(0, 0.07, 16)
    there_and_back = 0.5 - torch.cat((half, half.flip(0), half[:1]))
    assert motion_of(path(down=there_and_back)) == "bounces"
    assert motion_of(path(across=there_and_back)) == "stands"
    low = 0.5 - (0.5 - there_and_back) * 0.8
    assert motion_of(path(down=low)) == "stands"


@pytest.mark.parametrize("rest", [0.0, 0.5])
@pytest.mark.parametrize("changed", ["across", "down", "areas"])
def test_what_wanders_or_changes_its_size_for_a_while_does_not_stand(
    changed: str, rest: float
) -> None:
    """A jump after a part of the clip leaves the median slope at zero."""
    values = getattr(path(), changed).clone()
    values[24:30] *= 1.35
    values[30:] *= 1.35 - 0.7 * rest
    assert classify_motion(path(**{changed: values})) is None
    values = getattr(path(), changed) * (1 + 0.1 * (path().seconds > 1.2))
    assert motion_of(path(**{changed: values})) == "stands"


def test_a_bounce_goes_neither_sideways_nor_grows() -> None:
    share = (path().seconds * 0.66) % 1
    down, late = 0.7 - 0.8 * share * (1 - share), path().seconds / 2
    for across, growth, bounces in ((0.08, 0.0, True), (0.2, 0.0, False), (0.0, 0.5, False)):
        way = path(down=down, across=0.4 + across * late, areas=400 * 2 ** (growth * late))
        found = classify_motion(way)
        assert (found is not None and found.motion == "bounces") == bounces


def test_strays_do_not_make_a_motion(random: torch.Generator) -> None:
    down = path().down.clone()
    down[[5, 20]] = 0.9
    assert motion_of(path(down=down)) == "stands"
    turns = torch.rand(PICTURES, generator=random)
    assert motion_of(path(), turns, 4) == "stands"


@pytest.mark.parametrize("factor", [0.6, 1.0, 1.4])
def test_a_speed_is_a_share_of_the_usual(factor: float) -> None:
    seconds = path().seconds
    for way, turns in (
        (path(across=0.2 + factor * USUAL_SPEED * seconds), None),
        (path(areas=400 * 2 ** (factor * USUAL_GROWTH * seconds)), None),
        (path(), (4 * factor * USUAL_SPIN * seconds) % 1),
    ):
        assert movement_of(way, turns, 4).speed == pytest.approx(factor, abs=0.02)
    assert movement_of(path()).speed == 0


@pytest.mark.parametrize("rate", [0.55, 0.66, 0.8])
@pytest.mark.parametrize("phase", [0.0, 0.3, 0.8])
def test_a_bounce_has_its_speed_and_phase(rate: float, phase: float) -> None:
    share = (path().seconds * rate + phase) % 1
    movement = movement_of(path(down=0.7 - 0.8 * share * (1 - share)))
    assert movement.motion == "bounces"
    assert movement.speed * USUAL_BOUNCE == pytest.approx(rate, abs=0.02)
    assert movement.phase is not None
    assert abs((movement.phase - phase + 0.5) % 1 - 0.5) < 0.02


def right_of_two(scene: Scene, frames: Tensor) -> bool:
    first, second = scene.subjects
    measured, apart = measure_two(frames, (first.colour, second.colour))
    truths = [truth(scene, one) for one in scene.subjects]
    return apart and [found(one) for one in measured] == truths


@pytest.mark.parametrize(
    ("size", "noise", "blur", "least"),
    [
        pytest.param((80, 80), 0, 0.1, 0.98, marks=pytest.mark.slow),
        ((64, 112), 0, 0.1, 0.98),
        pytest.param((112, 64), 0, 0.1, 0.98, marks=pytest.mark.slow),
        pytest.param((80, 80), 10, 0.8, 0.98, marks=pytest.mark.slow),
    ],
)
def test_two_subjects_are_measured_as_drawn(
    random: torch.Generator, size: tuple[int, int], noise: float, blur: float, least: float
) -> None:
    right = [
        right_of_two(scene, degraded(scene.frames(PICTURES, *size), random, noise=noise, blur=blur))
        for scene in scenes_of_two(0, 5)
    ]
    assert sum(right) / len(right) >= least


@pytest.mark.slow
@pytest.mark.parametrize("size", [(64, 112), (80, 80), (112, 64)])
@pytest.mark.parametrize(("noise", "blur", "least"), [(0, 0.1, 0.98), (10, 0.8, 0.97)])
def test_many_scenes_of_two_subjects_are_measured_as_drawn(
    random: torch.Generator, size: tuple[int, int], noise: float, blur: float, least: float
) -> None:
    right = [
        right_of_two(scene, degraded(scene.frames(PICTURES, *size), random, noise=noise, blur=blur))
        for scene in scenes_of_two(1000, 200)
    ]
    assert sum(right) / len(right) >= least


def two(**changes: float) -> Scene:
    circle = Subject(shape="circle", colour="red", motion="stands", x=0.25, y=0.5, size=0.14)
    square = Subject(shape="square", colour="white", motion="up", x=0.75, y=0.7, size=0.14)
    return Scene(
        background="black",
        subjects=(circle, replace(square, speed=0.1, **changes)),
    )


def test_two_subjects_that_are_wrong_are_seen_to_be() -> None:
    scene = two()
    assert right_of_two(scene, scene.frames(PICTURES, 80, 80))
    circle, square = scene.subjects
    swapped = (replace(circle, colour="white"), replace(square, colour="red"))
    for others in (
        swapped,
        (circle, replace(square, colour="green")),
        (circle, replace(square, shape="star")),
        (circle, replace(square, motion="stands")),
        (circle,),
        (square,),
    ):
        frames = replace(scene, subjects=others).frames(PICTURES, 80, 80)
        assert not right_of_two(scene, frames)


def test_two_subjects_that_touch_are_not_apart() -> None:
    touching = two(x=0.25 + 0.14 + 0.85 * 0.14)
    frames = touching.frames(PICTURES, 80, 80)
    _, apart = measure_two(frames, ("red", "white"))
    assert not apart
    melted = two(x=0.3, y=0.5)
    assert not right_of_two(melted, melted.frames(PICTURES, 80, 80))


def test_every_motion_of_the_world_is_recognized() -> None:
    scenes = {one.subjects[0].motion: one for one in one_subject_scenes(80, held_out=False)}
    assert scenes.keys() == set(MOTIONS)
    for motion, scene in scenes.items():
        assert measure(scene.frames(PICTURES, 64, 112)).motion == motion

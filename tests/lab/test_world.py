"""The world of shapes: its scenes, pictures and captions."""

from __future__ import annotations

from functools import cache
from itertools import combinations
from math import dist

import pytest
import torch
from torch import Tensor

from istar.errors import UsageError
from istar.lab.subject import (
    CHANGE_SECONDS,
    COLOURS,
    DIRECTIONS,
    LARGEST,
    MOTIONS,
    SHAPES,
    SMALLEST,
    SPEEDS,
    Subject,
    is_held_out,
)
from istar.lab.world import CHANGE_SHARE, STAY_SECONDS, TWO_SHARE, Scene, World, random_scene

SEEDS = range(2000)

Combination = tuple[str, str, str, str]

scene_of_seed = cache(random_scene)
"""Scenes are frozen: what several tests look at is drawn once."""


def combinations_of(scene: Scene) -> set[Combination]:
    return {
        (one.colour, one.shape, motion, scene.background)
        for one in scene.subjects
        for motion in one.motions
    }


def scene_of(motion: str, shape: str = "square", **changes: float) -> Scene:
    """The first held-out or training scene of one subject that does something, rebuilt."""
    seeds = map(scene_of_seed, SEEDS)
    found = next(
        scene
        for scene in seeds
        if len(scene.subjects) == 1 and scene.subjects[0].motions == (motion,)
    )
    old = found.subjects[0]
    values = {"x": old.x, "y": old.y, "size": old.size, "speed": old.speed, "phase": old.phase}
    subject = Subject(shape=shape, colour="red", motion=motion, **(values | changes))
    return Scene(background="blue", subjects=(subject,))


def covered(frames: Tensor, background: str) -> Tensor:
    """Pixels `(F, H, W)` that are not the background's."""
    return (frames != torch.tensor(COLOURS[background])).any(dim=-1)


def centroids(mask: Tensor) -> Tensor:
    """Centres `(F, 2)` of a mask `(F, H, W)`: down and across, in shares of the frame."""
    _, height, width = mask.shape
    weight = mask.double()
    area = weight.sum(dim=(1, 2))
    down = (weight.sum(dim=2) * (torch.arange(height) + 0.5)).sum(dim=1) / area / height
    across = (weight.sum(dim=1) * (torch.arange(width) + 0.5)).sum(dim=1) / area / width
    return torch.stack((down, across), dim=1)


def test_a_seed_always_gives_the_same_scene() -> None:
    assert random_scene(3) == random_scene(3)
    assert random_scene(3) != random_scene(4)
    assert random_scene(3) != random_scene(-3)
    assert random_scene(3).caption(5) == random_scene(3).caption(5)
    again = random_scene(3).frames(9, 20, 30)
    assert torch.equal(random_scene(3).frames(9, 20, 30), again)


def test_a_seed_gives_this_scene_for_good() -> None:
    """Published rates are of seeds, so what a seed shows may not change."""
    held_out = random_scene(0, held_out=True)
    assert (
        held_out.canonical_caption() == "a white star moves down and right on a purple background"
    )
    assert random_scene(3).canonical_caption() == (
        "a black square stands still on the right and a green triangle spins on the left on a "
        "yellow background"
    )


def test_training_never_shows_a_held_out_combination() -> None:
    training = set[Combination]().union(*(combinations_of(scene_of_seed(seed)) for seed in SEEDS))
    held_out = [scene_of_seed(seed, held_out=True) for seed in SEEDS[:200]]
    assert all(scene.held_out and len(scene.subjects) == 1 for scene in held_out)
    kept_back = set[Combination]().union(*map(combinations_of, held_out))
    assert len(training) > 1500
    assert len(kept_back) > 150
    assert not training & kept_back


def test_training_has_scenes_of_two_subjects_and_every_name() -> None:
    scenes = [scene_of_seed(seed) for seed in SEEDS]
    share = sum(len(scene.subjects) == 2 for scene in scenes) / len(scenes)
    assert share == pytest.approx(TWO_SHARE, abs=0.03)
    everything = [part for scene in scenes for part in combinations_of(scene)]
    for place, names in enumerate((COLOURS, SHAPES, MOTIONS, COLOURS)):
        assert {part[place] for part in everything} == set(names)


SMALL_WORLD = World(
    colours=("red", "blue", "white"),
    shapes=("circle", "square"),
    motions=("left", "grows", "stands"),
    changes=0.5,
    pairs=0.3,
)


def test_a_small_world_has_its_own_names_and_all_of_them() -> None:
    scenes = [random_scene(seed, world=SMALL_WORLD) for seed in range(400)]
    assert scenes == [random_scene(seed, world=SMALL_WORLD) for seed in range(400)]
    everything = [part for scene in scenes for part in combinations_of(scene)]
    assert {part[0] for part in everything} == {"red", "blue", "white"}
    assert {part[1] for part in everything} == {"circle", "square"}
    assert {part[2] for part in everything} == {"left", "grows", "stands"}
    assert {part[3] for part in everything} == {"red", "blue", "white"}
    assert sum(len(scene.subjects) == 2 for scene in scenes) / 400 == pytest.approx(0.3, abs=0.07)
    single = [scene.subjects[0] for scene in scenes if len(scene.subjects) == 1]
    changing = sum(bool(one.then) for one in single) / len(single)
    assert changing == pytest.approx(0.5, abs=0.1)
    held_out = {
        part
        for seed in range(100)
        for part in combinations_of(random_scene(seed, held_out=True, world=SMALL_WORLD))
    }
    assert held_out
    assert not held_out & {*everything}


def test_a_world_without_pairs_and_changes_has_none() -> None:
    still = World(changes=0, pairs=0)
    scenes = [random_scene(seed, world=still) for seed in range(300)]
    assert all(len(one.subjects) == 1 and not one.subjects[0].then for one in scenes)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"colours": ("red", "mauve")}, "not mauve"),
        ({"shapes": ("star", "star")}, "twice"),
        ({"colours": ("red", "blue")}, "3 colours"),
        ({"shapes": ("circle", "square"), "motions": ("spins", "left")}, "3 shapes"),
        ({"motions": ("up",)}, "2 motions"),
        ({"motions": ("left", "right")}, "half a frame"),
        ({"pairs": 1.5}, "0 to 1"),
    ],
)
def test_a_world_without_its_scenes_is_refused(
    settings: dict[str, tuple[str, ...]], reason: str
) -> None:
    with pytest.raises(UsageError, match=reason):
        World(**settings)


def test_a_world_without_held_out_scenes_has_none_to_give() -> None:
    few = World(colours=("red", "blue"), shapes=("circle",), motions=("left",), changes=0, pairs=0)
    assert not is_held_out("red", "circle", "left", "blue")
    assert not is_held_out("blue", "circle", "left", "red")
    assert random_scene(1, world=few).subjects[0].shape == "circle"
    with pytest.raises(UsageError, match="no held-out scenes"):
        random_scene(1, held_out=True, world=few)


def test_colours_lie_far_apart() -> None:
    assert min(dist(one, other) for one, other in combinations(COLOURS.values(), 2)) >= 100


@pytest.mark.parametrize("held_out", [False, True])
def test_pictures_have_only_the_named_colours_but_at_edges(held_out: bool) -> None:
    for seed in range(40):
        scene = random_scene(seed, held_out=held_out)
        frames = scene.frames(5, 64, 112)
        assert frames.shape == (5, 64, 112, 3)
        assert frames.dtype == torch.uint8
        pure = torch.zeros(frames.shape[:3], dtype=torch.bool)
        for name in (scene.background, *(one.colour for one in scene.subjects)):
            shown = (frames == torch.tensor(COLOURS[name])).all(dim=-1)
            assert shown.any(dim=2).any(dim=1).all(), (seed, name)
            pure |= shown
        flat = torch.nn.functional.max_pool2d(frames.permute(0, 3, 1, 2).float(), 3, 1, 1) == (
            -torch.nn.functional.max_pool2d(-frames.permute(0, 3, 1, 2).float(), 3, 1, 1)
        )
        assert pure[flat.all(dim=1)].all(), seed


def test_subjects_stay_in_the_frame_and_apart() -> None:
    times = [STAY_SECONDS * step / 16 for step in range(17)]
    for seed in SEEDS[:200]:
        for held_out in (False, True):
            subjects = scene_of_seed(seed, held_out=held_out).subjects
            poses = [[one.pose(time) for time in times] for one in subjects]
            for height, width in ((64, 112), (96, 96), (112, 64)):
                side = min(height, width)
                reaches = [SHAPES[one.shape] * side for one in subjects]
                for own, share in zip(poses, reaches, strict=True):
                    for time, pose in zip(times, own, strict=True):
                        reach = share * pose.size
                        assert reach < pose.x * width < width - reach, (seed, held_out, time)
                        assert reach < pose.y * height < height - reach, (seed, held_out, time)
                        assert SMALLEST <= pose.size <= LARGEST
                if len(subjects) == 2:
                    for first, second in zip(*poses, strict=True):
                        apart = max(
                            abs(first.x - second.x) * width, abs(first.y - second.y) * height
                        )
                        assert apart > first.size * reaches[0] + second.size * reaches[1], seed


@pytest.mark.parametrize("motion", DIRECTIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_what_goes_somewhere_goes_there(motion: str, shape: str) -> None:
    scene = scene_of(motion, shape)
    path = centroids(covered(scene.frames(65, 64, 112), scene.background))
    across, down = DIRECTIONS[motion]
    way = (path[-1] - path[0]) / STAY_SECONDS
    speed = scene.subjects[0].speed
    assert SPEEDS[0] <= speed <= SPEEDS[1]
    assert way.tolist() == pytest.approx([down * speed, across * speed], abs=0.01)


def test_a_motion_changes_without_a_jump_where_it_should() -> None:
    scenes = [scene_of_seed(seed) for seed in SEEDS]
    singles = [scene.subjects[0] for scene in scenes if len(scene.subjects) == 1]
    changing = [one for one in singles if one.then]
    assert len(changing) / len(singles) == pytest.approx(CHANGE_SHARE, abs=0.05)
    assert {one.then for one in changing} == {*MOTIONS}
    moment = 1 / 256
    for one in changing:
        before, at, after = (one.pose(CHANGE_SECONDS + part * moment) for part in (-1, 0, 1))
        for old, new in ((before, at), (at, after)):
            assert all(abs(a - b) < 0.01 for a, b in zip(old, new, strict=True)), one
        if {one.motion, one.then} <= {*DIRECTIONS}:
            ways = [(b.x - a.x, b.y - a.y) for a, b in ((before, at), (at, after))]
            for way, motion in zip(ways, one.motions, strict=True):
                signs = tuple((part > 1e-9) - (part < -1e-9) for part in way)
                assert signs == DIRECTIONS[motion]


def test_scenes_of_one_caption_differ_widely() -> None:
    """Where they start and how fast they go: a video of a seed is to be one of many."""
    right = [
        one
        for scene in map(scene_of_seed, SEEDS)
        for one in scene.subjects
        if len(scene.subjects) == 1 and one.motions == ("right",)
    ]
    values = torch.tensor([[one.x, one.y, one.speed] for one in right]).double()
    spread = values.std(dim=0)
    assert spread[0] > 0.06
    assert spread[1] > 0.14
    assert spread[2] > 0.015
    turns = [one.turns for scene in map(scene_of_seed, SEEDS) for one in scene.subjects]
    assert len({*turns}) > 200


def test_speed_is_the_same_in_short_and_long_clips() -> None:
    scene = scene_of("right")
    assert torch.equal(scene.frames(9, 32, 48), scene.frames(65, 32, 48)[:9])
    assert torch.equal(scene.frames(9, 32, 48, first=20), scene.frames(65, 32, 48)[20:29])


@pytest.mark.parametrize(("motion", "factor"), [("grows", 4.0), ("shrinks", 0.25), ("stands", 1)])
def test_areas_change_as_named(motion: str, factor: float) -> None:
    """At a quarter of a doubling a second the size doubles or halves in four."""
    scene = scene_of(motion, "circle", speed=0.25, size=0.24 if motion == "shrinks" else 0.12)
    area = covered(scene.frames(65, 128, 128), scene.background).sum(dim=(1, 2))
    assert float(area[-1] / area[0]) == pytest.approx(factor, rel=0.15)


def test_what_bounces_goes_up_and_comes_back() -> None:
    scene = scene_of("bounces", phase=0.0, speed=1 / 1.5)
    height = centroids(covered(scene.frames(25, 100, 100), scene.background))[:, 0]
    ground = scene.subjects[0].y
    assert [float(height[at]) for at in (0, 12, 24)] == pytest.approx(
        [ground, ground - 0.2, ground], abs=0.01
    )


@pytest.mark.parametrize(("shape", "symmetry"), [("square", 4), ("triangle", 3), ("star", 5)])
def test_what_spins_turns_by_its_speed(shape: str, symmetry: int) -> None:
    """After the time of one symmetric turn the picture is the same, in between it is not."""
    scene = scene_of("spins", shape, speed=0.25, x=0.5, y=0.5, size=0.2)
    subject = scene.subjects[0]
    still = Scene(
        background="blue",
        subjects=(
            Subject(shape=shape, colour="red", motion="stands", x=0.5, y=0.5, size=subject.size),
        ),
    )
    assert subject.pose(4 / symmetry).turns == pytest.approx(1 / symmetry)
    frames, unmoved = scene.frames(65, 96, 96), still.frames(1, 96, 96)[0]
    assert torch.equal(frames[0], unmoved)
    half, whole = round(16 * 2 / symmetry), round(16 * 4 / symmetry)
    changed = [int((frames[at] != unmoved).any(dim=-1).sum()) for at in (half, whole, 64)]
    assert changed[0] > 200
    assert changed[1] < changed[0] / 2
    assert changed[2] <= 1


def test_drawn_areas_are_the_shapes_own() -> None:
    """The sum of antialiased pixels is the area of the polygon."""
    from math import pi, sin

    areas = {
        "circle": pi,
        "square": 4 / 2 * 1.25**2,
        "triangle": 3 * 3**0.5 / 4 * 1.3**2,
        "star": 5 * 0.45 * sin(pi / 5) * 1.3**2,
    }
    for shape, area in areas.items():
        scene = scene_of("stands", shape, x=0.5, y=0.5, size=0.3)
        red, blue = (torch.tensor(COLOURS[name]).double() for name in ("red", "blue"))
        share = (scene.frames(1, 200, 200)[0].double() - blue)[..., 0] / (red - blue)[0]
        assert float(share.sum()) == pytest.approx(area * 60**2, rel=0.01), shape


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (200, 3), (33, 57), (480, 16)])
def test_every_size_works(size: tuple[int, int]) -> None:
    for seed in range(10):
        assert random_scene(seed).frames(2, *size).shape == (2, *size, 3)


def test_what_has_left_the_frame_is_not_drawn() -> None:
    scene = scene_of("left")
    gone = scene.frames(2, 32, 48, first=400)
    assert not covered(gone, "blue").any()


def test_captions_name_the_places_of_two_subjects() -> None:
    seen = set()
    named = scenes = 0
    for seed in SEEDS:
        scene = scene_of_seed(seed)
        if len(scene.subjects) == 1:
            continue
        caption = scene.canonical_caption()
        for time in (0, STAY_SECONDS / 2, STAY_SECONDS):
            first, second = (one.pose(time) for one in scene.subjects)
            for words, right in (
                (" on the left and ", first.x < second.x),
                (" on the right and ", first.x > second.x),
                (" at the top and ", first.y < second.y),
                (" at the bottom and ", first.y > second.y),
            ):
                if words in caption:
                    seen.add(words)
                    assert right, caption
        named += any(words in caption for words in seen)
        scenes += 1
    assert len(seen) == 4
    assert named > 0.95 * scenes


def test_ambiguous_scenes_are_refused() -> None:
    one = Subject(shape="square", colour="red", motion="stands", x=0.5, y=0.5, size=0.2)
    with pytest.raises(UsageError, match="different known colours"):
        Scene(background="red", subjects=(one,))
    with pytest.raises(UsageError, match="different shapes"):
        Scene(
            background="blue",
            subjects=(
                one,
                Subject(shape="square", colour="green", motion="up", x=0.5, y=0.5, size=0.2),
            ),
        )
    with pytest.raises(UsageError, match="one subject or two"):
        Scene(background="blue", subjects=())
    with pytest.raises(UsageError, match="spin"):
        Subject(shape="circle", colour="red", motion="spins", x=0.5, y=0.5, size=0.2)
    with pytest.raises(UsageError, match="no colour 'mauve'"):
        Subject(shape="circle", colour="mauve", motion="up", x=0.5, y=0.5, size=0.2)

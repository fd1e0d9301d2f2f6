"""How much videos of one prompt differ."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from random import Random

import pytest

from istar.lab.held_out import held_out_scenes, scene_alike
from istar.lab.measure import Measurement, measure
from istar.lab.spread import Prompt, spreads
from istar.lab.subject import MOTIONS


def seen(
    motion: str, draw: Random, *, around: float = 0.5, by: float, speed: float = 1.0
) -> Measurement:
    return Measurement(
        background="blue",
        motion=motion,
        centre=(around + by * draw.gauss(0, 1), around + by * draw.gauss(0, 1)),
        speed=speed + by * draw.gauss(0, 1),
        phase=(0.95 + by * draw.gauss(0, 1)) % 1 if motion == "bounces" else None,
    )


def prompts(motion: str, by: float, count: int = 60) -> list[Prompt]:
    """Each prompt's videos lie around a place of their own, as far apart as `by`."""
    draw = Random(f"{motion} {by}")
    return [
        Prompt(
            motion=motion,
            made=tuple(seen(motion, draw, around=number / count, by=by) for _ in range(8)),
            world=tuple(seen(motion, draw, by=0.05) for _ in range(8)),
        )
        for number in range(count)
    ]


@pytest.mark.parametrize("by", [0.0, 0.01, 0.05, 0.1])
def test_a_spread_is_a_share_of_the_worlds_within_a_prompt(by: float) -> None:
    found = spreads(prompts("bounces", by))
    assert set(found) == {"start", "speed", "phase"}
    for name, spread in found.items():
        # far around a circle the chord is shorter than the arc
        assert spread.ratio == pytest.approx(by / 0.05, rel=0.15 if name == "phase" else 0.1)
        assert spread.low <= spread.ratio <= spread.high
        assert spread.prompts == 60
        assert (spread.low == spread.high) == (by == 0)


def test_only_videos_of_the_right_motion_have_a_speed() -> None:
    (prompt,) = prompts("right", 0.05, count=1)
    wrong = seen("stands", Random(0), by=0, speed=9.0)
    mixed = Prompt(motion="right", made=(*prompt.made, wrong), world=prompt.world)
    assert spreads([mixed])["speed"].ratio == spreads([prompt])["speed"].ratio
    assert "phase" not in spreads([prompt])
    assert spreads([Prompt(motion="right", made=(wrong,) * 2, world=prompt.world)]).keys() == {
        "start"
    }
    assert not spreads([])


def test_a_prompt_without_a_right_video_does_not_change_the_others() -> None:
    """The world's bounces differ less in speed than what moves: they are compared with none."""
    going = prompts("right", 0.05)
    for one in prompts("bounces", 0.001, count=30):
        wrong = tuple(replace(made, motion="stands") for made in one.made)
        world = tuple(replace(made, speed=1 + 0.001 * n) for n, made in enumerate(one.world))
        going.append(replace(one, made=wrong, world=world))
    found = spreads(going)["speed"]
    assert found == spreads(going[:60])["speed"]
    assert found.prompts == 60


@pytest.mark.slow
def test_the_worlds_own_spread_is_one() -> None:
    """By the same measurement, on pictures."""
    groups = []
    for scene in held_out_scenes(0, len(MOTIONS)):
        shown = [measure(scene_alike(scene, seed).frames(33, 48, 48)) for seed in range(8 * 2)]
        motion = scene.subjects[0].motion
        groups.append(Prompt(motion=motion, made=tuple(shown[:8]), world=tuple(shown[8:])))
    found = spreads(groups)
    assert found["start"].ratio == pytest.approx(1, abs=0.2)
    assert found["speed"].ratio == pytest.approx(1, abs=0.3)
    assert found["phase"].ratio == pytest.approx(1, abs=0.4)


def test_measured_speed_and_phase_follow_those_of_the_scene() -> None:
    for motion in ("right", "grows", "spins", "bounces"):
        scenes = [
            scene_alike(scene, seed)
            for scene in held_out_scenes(0, 1, (motion,))
            for seed in range(6)
        ]
        scenes.sort(key=lambda scene: abs(scene.subjects[0].speed))
        speeds = [measure(scene.frames(33, 80, 80)).speed or 0 for scene in scenes]
        assert all(slower <= faster + 0.06 for slower, faster in pairwise(speeds)), motion
        for scene in scenes if motion == "bounces" else ():
            phase = measure(scene.frames(33, 80, 80)).phase
            assert phase is not None
            assert abs((phase - scene.subjects[0].phase + 0.5) % 1 - 0.5) < 0.05

"""How near a clip is to the scenes of the world of shapes that its caption allows, in numbers.

A plain caption names colours, shape and motion, and leaves open where the subject is, how large and
how fast. The nearest scene is the one whose places and sizes fit those measured in the clip best,
by least squares; its speed and first size stay within the world's bounds, its place does not
matter. What is left are errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import exp, log, sqrt
from statistics import fmean, variance

import torch
from torch import Tensor

from istar.errors import UsageError
from istar.lab.held_out import scene_alike
from istar.lab.measure import trajectory_of
from istar.lab.motion import Trajectory
from istar.lab.quality import PERFECT_PSNR, psnr
from istar.lab.subject import DIRECTIONS, GROWTHS, SPEEDS, Subject
from istar.lab.world import Scene, sizes_of

NO_PLACE, NO_SIZE = 0.5, log(2)
"""The errors in a picture without the subject."""

_STRAIGHT = (*DIRECTIONS, "grows", "shrinks", "stands")
_USUAL_SIZE = 0.2


@dataclass(frozen=True, kw_only=True)
class Nearness:
    """A clip, compared with the nearest scene of its caption.

    Attributes:
        scene: that scene, its values as the clip has them; some of the world's usual ones where
            the clip has no subject.
        present: the clip has a subject.
        place: the root mean square, over pictures, of the distance between the subject's centre and
            the scene's, as a share of the frame; `NO_PLACE` in a picture without it.
        size: the root mean square of the logarithm of the sizes' ratio; `NO_SIZE` in a picture
            without the subject.
        psnr: decibels between the clip and the scene's own pictures, at most `PERFECT_PSNR`.
    """

    scene: Scene
    present: bool
    place: float
    size: float
    psnr: float


def nearness(frames: Tensor, scene: Scene) -> Nearness:
    """Compare a clip with the scenes of a caption.

    Args:
        frames: `(F, H, W, 3)` uint8, at 16 a second.
        scene: any of that caption, with one subject and a motion that has neither phase nor turns.

    Raises:
        UsageError: another scene.
    """
    (subject, *others) = scene.subjects
    if others or subject.then or subject.motion not in _STRAIGHT:
        raise UsageError("only one subject that moves straight, grows, shrinks or stands is fitted")
    count, height, width = frames.shape[:3]
    found = trajectory_of(frames)
    if found is None:
        fitted = _fitted(subject, None, None)
        place, size = NO_PLACE, NO_SIZE
    else:
        unit = _area_of_unit(subject.shape, height, width)
        sizes = (found.areas.double() / unit).log() / 2
        fitted = _fitted(subject, found, sizes)
        poses = [fitted.pose(seconds) for seconds in found.seconds.tolist()]
        expected = torch.tensor(
            [(pose.x, pose.y, log(pose.size)) for pose in poses], dtype=torch.float64
        )
        across, down = found.across - expected[:, 0], found.down - expected[:, 1]
        absent = count - len(poses)
        place = sqrt(float((across**2 + down**2).sum() + absent * NO_PLACE**2) / count)
        size = sqrt(float(((sizes - expected[:, 2]) ** 2).sum() + absent * NO_SIZE**2) / count)
    nearest = Scene(background=scene.background, subjects=(fitted,))
    shown = nearest.frames(count, height, width)
    return Nearness(
        scene=nearest,
        present=found is not None,
        place=place,
        size=size,
        psnr=min(psnr(shown, frames), PERFECT_PSNR),
    )


def spread_shares(clips: Sequence[Sequence[Nearness]], world_scenes: int = 64) -> dict[str, float]:
    """The standard deviation of clips of one caption, as a share of the world's own.

    Args:
        clips: of every caption, clips of several seeds.
        world_scenes: how many scenes of each caption the world is measured by.

    Returns:
        by `place`, of the subject's start, `size`, its logarithm at the start, and `speed`; 1
        where clips differ as much as the scenes of the world. A caption of which fewer than two
        clips have a subject counts as one whose clips are all the same.
    """
    made, world = _no_variances(), _no_variances()
    for own in clips:
        scenes = [scene_alike(own[0].scene, seed) for seed in range(world_scenes)]
        _add_variances(made, [one.scene.subjects[0] for one in own if one.present])
        _add_variances(world, [scene.subjects[0] for scene in scenes])
    return {name: sqrt(made[name] / world[name]) for name in made if world[name]}


def _fitted(subject: Subject, found: Trajectory | None, sizes: Tensor | None) -> Subject:
    """The subject that fits places and the logarithms of sizes best."""
    motion = subject.motion
    low, high = (log(size) for size in sizes_of(motion))
    if found is None or sizes is None:
        speed = fmean(_speeds(motion))
        return replace(subject, x=0.5, y=0.5, size=exp((low + high) / 2), speed=speed)
    seconds = found.seconds.double()
    late = seconds - seconds.mean()
    across, down = DIRECTIONS.get(motion, (0, 0))
    growth = {"grows": log(2), "shrinks": -log(2)}.get(motion, 0.0)
    # 1. The speed: the slope of what the motion changes, within the world's bounds.
    changed = across * found.across + down * found.down + growth * sizes
    rate = across**2 + down**2 + growth**2
    weight = float(late.square().sum()) * rate
    slowest, fastest = _speeds(motion)
    speed = float((late * changed).sum()) / weight if weight else (slowest + fastest) / 2
    speed = min(max(speed, slowest), fastest)
    # 2. Where it started, at that speed.
    way = speed * float(seconds.mean())
    size = float(sizes.mean()) - growth * way
    return replace(
        subject,
        x=float(found.across.mean()) - across * way,
        y=float(found.down.mean()) - down * way,
        size=exp(min(max(size, low), high)),
        speed=speed,
    )


def _speeds(motion: str) -> tuple[float, float]:
    """The slowest and the fastest of a motion."""
    if motion in DIRECTIONS:
        return SPEEDS
    return GROWTHS if motion in ("grows", "shrinks") else (0.0, 0.0)


@lru_cache
def _area_of_unit(shape: str, height: int, width: int) -> float:
    """The measured area of a shape by the square of its size: less than drawn where it is thin."""
    subject = Subject(shape=shape, colour="white", motion="stands", x=0.5, y=0.5, size=_USUAL_SIZE)
    shown = Scene(background="black", subjects=(subject,)).frames(1, height, width)
    found = trajectory_of(shown)
    assert found is not None
    return float(found.areas[0]) / _USUAL_SIZE**2


def _no_variances() -> dict[str, float]:
    return {"place": 0.0, "size": 0.0, "speed": 0.0}


def _add_variances(sums: dict[str, float], subjects: Sequence[Subject]) -> None:
    """Add the variances of subjects of one caption to the sums of all captions."""
    if len(subjects) < 2:
        return
    sums["place"] += variance(one.x for one in subjects) + variance(one.y for one in subjects)
    sums["size"] += variance(log(one.size) for one in subjects)
    sums["speed"] += variance(one.speed for one in subjects)

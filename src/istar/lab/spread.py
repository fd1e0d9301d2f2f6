"""How much videos of one prompt differ, compared with scenes of the world of that prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import cos, dist, pi, sqrt
from random import Random

from istar.lab.measure import Measurement
from istar.lab.words import choose

_RESAMPLINGS = 1000
_LOW, _HIGH = 0.025, 0.975


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """What was made from one prompt.

    Attributes:
        motion: that it names.
        made: what the videos of several seeds show.
        world: what as many scenes of the world show that the prompt fits.
    """

    motion: str
    made: tuple[Measurement, ...]
    world: tuple[Measurement, ...]


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A standard deviation over seeds, within a prompt, as a share of the world's own.

    Attributes:
        ratio: 1 where videos differ as much as scenes of the world.
        low: lower end of its interval of 95 %, by resampling prompts.
        high: upper end.
        prompts: how many it is measured on.
    """

    ratio: float
    low: float
    high: float
    prompts: int


def spreads(prompts: Sequence[Prompt]) -> dict[str, Spread]:
    """The spreads of what prompts leave open.

    `start` is where the subject begins, `speed` how fast it moves, turns, grows or bounces, `phase`
    where in a bounce it begins. The last two are measured on videos whose motion is right. One that
    cannot be measured is left out.
    """
    found = {}
    for name, difference in _DIFFERENCES.items():
        sums = (
            _Sums(
                *_summed(prompt.made, prompt.motion, difference),
                *_summed(prompt.world, prompt.motion, difference),
            )
            for prompt in prompts
        )
        groups = [own for own in sums if own.made_pairs and own.world_pairs]
        ratio = _ratio(groups)
        if ratio is None:
            continue
        draw = Random(0)
        again = sorted(
            drawn
            for _ in range(_RESAMPLINGS)
            if (drawn := _ratio([choose(groups, draw) for _ in groups])) is not None
        )
        found[name] = Spread(
            ratio=ratio,
            low=again[int(_LOW * len(again))],
            high=again[int(_HIGH * len(again))],
            prompts=len(groups),
        )
    return found


@dataclass(frozen=True)
class _Sums:
    """Of one prompt: sums of squared differences of pairs, and numbers of pairs."""

    made: float
    made_pairs: int
    world: float
    world_pairs: int


def _summed(
    measured: Sequence[Measurement],
    motion: str,
    difference: Callable[[Measurement, Measurement], float | None],
) -> tuple[float, int]:
    """The sum of the squared differences between every two that have the motion, and their number.

    The start is compared whatever the motion.
    """
    right = [one for one in measured if one.motion == motion or difference is _start]
    values = [
        value
        for first, second in combinations(right, 2)
        if (value := difference(first, second)) is not None
    ]
    return sum(values), len(values)


def _ratio(groups: Sequence[_Sums]) -> float | None:
    """The square root of what was made by as many pairs of the world; None without one.

    Of every prompt as many of the world's pairs count as were made: motions differ in how much the
    world leaves open.
    """
    world = sum(group.world / group.world_pairs * group.made_pairs for group in groups)
    return sqrt(sum(group.made for group in groups) / world) if world else None


def _start(first: Measurement, second: Measurement) -> float | None:
    if first.centre is None or second.centre is None:
        return None
    return dist(first.centre, second.centre) ** 2


def _speed(first: Measurement, second: Measurement) -> float | None:
    if not first.speed or not second.speed:
        return None
    return (first.speed - second.speed) ** 2


def _phase(first: Measurement, second: Measurement) -> float | None:
    if first.phase is None or second.phase is None:
        return None
    # The squared length between two points on a circle: phases come round.
    return 1 - cos(2 * pi * (first.phase - second.phase))


_DIFFERENCES: dict[str, Callable[[Measurement, Measurement], float | None]] = {
    "start": _start,
    "speed": _speed,
    "phase": _phase,
}

"""Classify a subject's motion by its trajectory, its area and its rotation.

The rules, in this order:

- It bounces if it both rises and falls by 0.06 of the frame's height or more.
- Otherwise its speed, its growth and its spin, each the slope of a straight line through the whole
  trajectory, are compared with the averages of the world of shapes: 0.135 of the frame's extent
  along an axis a second, two doublings of the area in four seconds, 0.325 turns a second. The
  largest of the three shares counts, if it is 0.4 or more. A direction is the nearest of eight,
  with a frame's width and height counting alike.
- Otherwise it stands.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import hypot, pi

import torch
from torch import Tensor

from istar.lab.subject import DIRECTIONS

USUAL_SPEED = 0.135
USUAL_GROWTH = 0.5
USUAL_SPIN = 0.325
LEAST_SHARE = 0.4
LEAST_BOUNCE = 0.06

_FASTEST_SPIN = 0.8
_SPINS = 321
_LEAST_COHERENCE = 0.5


@dataclass(frozen=True, kw_only=True)
class Trajectory:
    """Where a subject is in N pictures, three or more, and how large.

    Attributes:
        seconds: `(N)`, when each was taken.
        across: `(N)`, the centre as a share of the frame's width.
        down: `(N)`, the centre as a share of the frame's height.
        areas: `(N)`, in pixels, above zero.
    """

    seconds: Tensor
    across: Tensor
    down: Tensor
    areas: Tensor


def classify_motion(trajectory: Trajectory, turns: Tensor | None = None, symmetry: int = 1) -> str:
    """The name of a motion.

    Args:
        trajectory: of the subject.
        turns: `(N)`, the subject's rotation, in shares of `1 / symmetry` of a turn; None for one
            whose rotation cannot be seen.
        symmetry: in how many ways it can be turned and look the same.
    """
    if min(_largest_rise(trajectory.down), _largest_rise(-trajectory.down)) >= LEAST_BOUNCE:
        return "bounces"
    across, down = (
        _slope(trajectory.seconds, trajectory.across),
        _slope(trajectory.seconds, trajectory.down),
    )
    growth = _slope(trajectory.seconds, trajectory.areas.log2())
    spin = 0.0 if turns is None else _spin(trajectory.seconds, turns, symmetry)
    shares = {
        _direction(across, down): max(abs(across), abs(down)) / USUAL_SPEED,
        "grows" if growth > 0 else "shrinks": abs(growth) / USUAL_GROWTH,
        "spins": abs(spin) / USUAL_SPIN,
    }
    strongest = max(shares, key=lambda name: shares[name])
    return strongest if shares[strongest] >= LEAST_SHARE else "stands"


def _direction(across: float, down: float) -> str:
    """The direction nearest to a velocity."""
    return max(
        DIRECTIONS,
        key=lambda name: (
            (DIRECTIONS[name][0] * across + DIRECTIONS[name][1] * down) / hypot(*DIRECTIONS[name])
        ),
    )


def _largest_rise(down: Tensor) -> float:
    """How far `(N)` places go up from any of them to any later one; single strays do not count."""
    steady = down.unfold(0, 3, 1).median(dim=1).values
    return float((steady.cummax(dim=0).values - steady).max())


def _slope(seconds: Tensor, values: Tensor) -> float:
    """The median slope between any two of `(N)` values: a line that strays do not bend."""
    later, earlier = torch.triu_indices(len(seconds), len(seconds), 1).flip(0)
    steps = values[later] - values[earlier]
    return float((steps / (seconds[later] - seconds[earlier])).median())


def _spin(seconds: Tensor, turns: Tensor, symmetry: int) -> float:
    """Turns a second, at which the rotations of a clip agree best; 0 where none agree.

    Rotations are only known up to the shape's symmetry, and some may be wrong: so every spin in
    turn is taken back from the rotations, and that one wins after which they differ least.
    """
    spins = torch.linspace(-_FASTEST_SPIN, _FASTEST_SPIN, _SPINS)
    phases = 2 * pi * (turns[:, None] - symmetry * spins * seconds[:, None])  # N spins
    coherence = torch.polar(torch.ones_like(phases), phases).mean(dim=0).abs()
    best = int(coherence.argmax())
    return float(spins[best]) if coherence[best] >= _LEAST_COHERENCE else 0.0

"""Classify a subject's motion by its trajectory, its area and its rotation.

The rules, in this order:

- It bounces if it both rises and falls by 0.06 of the frame's height or more, an even bounce agrees
  with its heights (their correlation is 0.9 or more), and it neither wanders sideways nor changes
  its size. Its speed and its phase are those of the even bounce that agrees best.
- Otherwise its speed, its growth and its spin, each the slope of a straight line through the whole
  trajectory, are compared with the averages of the world of shapes. The largest of the three shares
  counts, if it is 0.4 or more. A direction is the nearest of eight, with a frame's width and height
  counting alike.
- Otherwise it stands, if it neither wanders nor changes its size.

It wanders if its places are farther from each other, across or down, than 0.4 of the average speed
leads in the time of the clip; its size changes if that does by more than 0.4 of the average growth.
What bounces or stands by the other rules and yet does this has no motion of the world.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import hypot, pi
from statistics import fmean

import torch
from torch import Tensor

from istar.lab.subject import BOUNCES, DIRECTIONS, GROWTHS, SPEEDS, SPINS

USUAL_SPEED = fmean(SPEEDS)
USUAL_GROWTH = 2 * fmean(GROWTHS)
"""Doublings of the area a second."""

USUAL_SPIN = fmean(SPINS)
USUAL_BOUNCE = fmean(BOUNCES)
LEAST_SHARE = 0.4
LEAST_BOUNCE = 0.06

_FASTEST_SPIN = 0.8
_SPINS = 321
_LEAST_COHERENCE = 0.5
_LEAST_AGREEMENT = 0.9
_BOUNCE_RATES, _BOUNCE_PHASES = 29, 64


@dataclass(frozen=True, kw_only=True)
class Trajectory:
    """Where a subject is in N pictures, and how large.

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


@dataclass(frozen=True, kw_only=True)
class Movement:
    """What a subject does, and how.

    Attributes:
        motion: its name.
        speed: as a share of the usual one of such motions; 0 where it stands.
        phase: how much of its first bounce is over at the start, from 0 to 1; None where it does
            not bounce.
    """

    motion: str
    speed: float
    phase: float | None = None


def classify_motion(
    trajectory: Trajectory, turns: Tensor | None = None, symmetry: int = 1
) -> Movement | None:
    """What a subject does; None if it is nothing that subjects of the world do.

    Args:
        trajectory: of the subject, in three pictures or more.
        turns: `(N)`, the subject's rotation, in shares of `1 / symmetry` of a turn; None for one
            whose rotation cannot be seen.
        symmetry: in how many ways it can be turned and look the same.
    """
    slow = LEAST_SHARE * float(trajectory.seconds[-1] - trajectory.seconds[0])
    changes = _range(trajectory.areas.log2()) > slow * USUAL_GROWTH
    wanders_across = _range(trajectory.across) > slow * USUAL_SPEED
    if min(_largest_rise(trajectory.down), _largest_rise(-trajectory.down)) >= LEAST_BOUNCE:
        rate, phase, agreement = _bounce(trajectory.seconds, trajectory.down)
        if wanders_across or changes or agreement < _LEAST_AGREEMENT:
            return None
        return Movement(motion="bounces", speed=rate / USUAL_BOUNCE, phase=phase)
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
    if shares[strongest] < LEAST_SHARE:
        if wanders_across or changes or _range(trajectory.down) > slow * USUAL_SPEED:
            return None
        return Movement(motion="stands", speed=0.0)
    return Movement(motion=strongest, speed=shares[strongest])


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
    steady = _steady(down)
    return float((steady.cummax(dim=0).values - steady).max())


def _range(values: Tensor) -> float:
    """How far `(N)` values are apart; single strays do not count."""
    steady = _steady(values)
    return float(steady.max() - steady.min())


def _steady(values: Tensor) -> Tensor:
    """The median of every three values that follow each other."""
    return values.unfold(0, 3, 1).median(dim=1).values


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


def _bounce(seconds: Tensor, down: Tensor) -> tuple[float, float, float]:
    """Bounces a second, the share of the first that is over at time 0, and the correlation.

    They are those of the even parabolas that agree best with `(N)` places.
    """
    slowest, fastest = BOUNCES
    rates = torch.linspace(0.8 * slowest, 1.2 * fastest, _BOUNCE_RATES)[:, None, None]
    phases = (torch.arange(_BOUNCE_PHASES) / _BOUNCE_PHASES)[:, None]
    share = (rates * seconds + phases) % 1  # rates phases N
    lift = share * (1 - share)
    lift = lift - lift.mean(dim=-1, keepdim=True)
    lift = lift / lift.norm(dim=-1, keepdim=True).clamp(min=1e-6)
    heights = down.mean() - down
    agreement = (lift @ heights / heights.norm().clamp(min=1e-6)).flatten()
    best = int(agreement.argmax())
    rate, phase = divmod(best, _BOUNCE_PHASES)
    return float(rates[rate]), phase / _BOUNCE_PHASES, float(agreement[best])

"""How far a draft goes: a scale of a clip, or a share of the clip's work."""

from __future__ import annotations

from collections.abc import Sequence

from istar.errors import UsageError
from istar.generation.flop import step_flop
from istar.generation.schedule import Step
from istar.transformer.config import TransformerConfig

Until = float | tuple[int, int]
"""A share of a clip's work, or a scale by its width and height in tokens."""

DRAFT_SHARE = 0.25


def stop_step(config: TransformerConfig, steps: Sequence[Step], clip: int, until: Until) -> int:
    """The index of the step before which a draft of a clip stops.

    Args:
        config: the transformer's sizes.
        steps: the schedule.
        clip: which clip.
        until: a scale, of which every repetition is taken; or a share, within which as many steps
            are taken as fit, at least one.

    Raises:
        UsageError: a scale that the schedule does not have, or no share.
    """
    check_until(steps, until)
    own = [step for step in steps if step.clip == clip]
    if isinstance(until, tuple):
        scale = scale_number(steps, until)
        return next(step.index for step in reversed(own) if step.scale == scale) + 1
    costs = [step_flop(config, step, steps) for step in own]
    room, taken = until * sum(costs), 0
    while taken < len(costs) and sum(costs[: taken + 1]) <= room:
        taken += 1
    return own[max(taken, 1) - 1].index + 1


def check_until(steps: Sequence[Step], until: Until) -> None:
    """Refuse a scale that a schedule does not have, and a number that is no share.

    Raises:
        UsageError: it is one of these.
    """
    if isinstance(until, tuple):
        scale_number(steps, until)
    elif not 0 < until <= 1:
        raise UsageError(f"a share of a clip's work is above 0 and at most 1, not {until:g}")


def scale_number(steps: Sequence[Step], size: tuple[int, int]) -> int:
    """Which scale, coarse to fine, has a width and height in tokens.

    Raises:
        UsageError: the schedule has no such scale.
    """
    scales = {step.scale: (step.grid.width, step.grid.height) for step in steps}
    for number in sorted(scales, reverse=True):
        if scales[number] == size:
            return number
    names = ", ".join(scale_name(*own) for own in scales.values())
    raise UsageError(f"there is no scale of {scale_name(*size)}; the scales are {names}")


def scale_name(width: int, height: int) -> str:
    """What people call a scale."""
    return f"{width}x{height}"

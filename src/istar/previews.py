"""When a generation that is asked for previews shows what it has."""

from __future__ import annotations

from collections.abc import Sequence

from istar.generation.schedule import Step

SHARES = (1 / 4, 1 / 2)
"""Of a clip's tokens: what the scales so far have, at least, when the clip is shown."""


def is_previewed(steps: Sequence[Step], index: int) -> bool:
    """Whether what a window has so far is shown after a step.

    Each preview costs a decode, so there are few: the finished image clip of a video, which is one
    latent frame, and every other clip after a scale or two.

    Args:
        steps: of the window.
        index: of the step.
    """
    step = steps[index]
    starts_video = step.image and steps[-1].clip > step.clip
    if step.ends_clip or starts_video:
        return step.ends_clip and starts_video
    if steps[index + 1].scale == step.scale:
        return False
    own = [one for one in steps if one.clip == step.clip]
    whole = sum(one.grid.tokens for one in own)
    until = sum(one.grid.tokens for one in own if one.index <= index)
    before = sum(one.grid.tokens for one in own if one.scale < step.scale)
    return any(before < share * whole <= until for share in SHARES)

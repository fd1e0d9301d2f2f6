"""What a generation that is asked for previews shows, and when."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from istar.errors import DeviceError, GenerationError
from istar.events import Event, Note, Preview, Progress
from istar.generation.schedule import Step
from istar.generation.state import GenerationState

SHARES = (1 / 4, 1 / 2)
"""Of a clip's tokens: what the scales so far have, at least, when the clip is shown."""


class Previews:
    """What a run shows of its clips while they are made, until memory does not suffice for it.

    Args:
        decode: gives the clip under way as far as it is, `(F, H, W, 3)`, uint8.
        wanted: something is to be shown.
    """

    def __init__(self, decode: Callable[[], Tensor], *, wanted: bool) -> None:
        self._decode, self._wanted = decode, wanted

    def after(
        self, events: Sequence[Event], window: GenerationState | None
    ) -> tuple[Preview | Note, ...]:
        """What there is to show; a note where it cannot be decoded.

        Args:
            events: of what the job did last, which shows something only where it drew bits.
            window: the one under way then.
        """
        is_drawn = any(isinstance(one, Progress) and not one.given for one in events)
        if not (self._wanted and is_drawn) or window is None:
            return ()
        step = window.steps[window.position - 1]
        if not is_previewed(window.steps, step.index):
            return ()
        try:
            frames = self._decode()
        except (DeviceError, GenerationError) as error:
            self._wanted = False
            return (Note(text=f"{error}; there are no more previews", warns=True),)
        scales = 1 + max(one.scale for one in window.steps if one.clip == step.clip)
        return (
            Preview(
                frames=frames, clip=step.clip, scale=step.scale, scales=scales, final=step.ends_clip
            ),
        )


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

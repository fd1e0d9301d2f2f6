"""Variations of a window: which of its tokens stay, and which are drawn anew."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor

import torch
from torch import Tensor

from istar.errors import UsageError
from istar.generation.schedule import LATENT_FRAMES_PER_SECOND, Grid, Schedule, Step
from istar.generation.state import TakeWindow
from istar.generation.until import scale_name
from istar.request import Mode
from istar.video_tokenizer.config import FRAMES_PER_SECOND, SPATIAL_STRIDE

_ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True)
class Part:
    """The part of a window in which tokens are drawn anew; what is outside stays.

    A token belongs to it where all of its cell lies inside, so of coarse scales few do, or none.

    Attributes:
        frames: latent frames of the window, the first and the one after the last; None: all.
        left, top, width, height: of the pictures, as shares of their size.
    """

    frames: tuple[int, int] | None = None
    left: float = 0.0
    top: float = 0.0
    width: float = 1.0
    height: float = 1.0

    @classmethod
    def of(
        cls,
        schedule: Schedule,
        frames: tuple[int, int] | None = None,
        region: tuple[int, int, int, int] | None = None,
    ) -> Part:
        """A part of a window's pictures.

        Args:
            schedule: the window's.
            frames: latent frames; None: all.
            region: left, top, width and height in pixels; None: all.

        Raises:
            UsageError: the region does not lie inside the pictures.
        """
        if region is None:
            return cls(frames=frames)
        full = Grid(1, *schedule.scales[-1])
        height, width = SPATIAL_STRIDE * full.height, SPATIAL_STRIDE * full.width
        left, top, across, down = region
        outside = left + across > width or top + down > height
        if min(left, top) < 0 or min(across, down) < 1 or outside:
            raise UsageError(f"a region lies inside the pictures, which are {width}×{height}")
        return cls(
            frames=frames,
            left=left / width,
            top=top / height,
            width=across / width,
            height=down / height,
        )

    def tokens(self, step: Step) -> Tensor:
        """`(t·h·w)` booleans: which tokens of a step belong to it."""
        grid = step.grid
        times = torch.arange(step.first_frame, step.first_frame + grid.frames)
        first, end = self.frames or (0, step.first_frame + grid.frames)
        inside = [(first <= times) & (times < end)]
        for cells, start, size in (
            (grid.height, self.top, self.height),
            (grid.width, self.left, self.width),
        ):
            edges = torch.arange(cells + 1, dtype=torch.float64) / cells
            # An edge on the border counts as inside.
            inside.append(
                (edges[:-1] >= start - _ROUNDING) & (edges[1:] <= start + size + _ROUNDING)
            )
        frames, rows, columns = inside
        return (frames[:, None, None] & rows[:, None] & columns).flatten()


def frames_within(
    schedule: Schedule, mode: Mode, given_pictures: int, seconds: tuple[float, float]
) -> tuple[int, int]:
    """The latent frames of a request's first window whose pictures all lie in a time.

    Args:
        schedule: the window's.
        mode: of the request.
        given_pictures: length of the clip that the video begins with; 0 without one.
        seconds: from when to when, in the video.

    Returns:
        the first, and the one after the last.

    Raises:
        UsageError: no frame lies in it.
    """
    # 1. When the window begins in the video, and whether with a frame of one picture.
    rate, begin, single = LATENT_FRAMES_PER_SECOND, given_pictures / FRAMES_PER_SECOND, 1
    if mode == "extend":
        begin -= schedule.clips[1].frames / rate
    elif given_pictures:
        single = 0
    # 2. What lies in the time; a single picture is a moment.
    count = sum(clip.frames for clip in schedule.clips)
    start, end = (single + (time - begin) * rate for time in seconds)
    first = 0 if seconds[0] <= begin else ceil(start - _ROUNDING)
    after = min(floor(end + _ROUNDING), count)
    if first >= after:
        lasts = begin + (count - single) / rate
        raise UsageError(
            f"from {seconds[0]:g} s to {seconds[1]:g} s there is no whole quarter of a second of "
            f"the {lasts:g} s that can be varied"
        )
    return first, after


def varied(
    window: TakeWindow,
    generator: Tensor,
    *,
    keep: int = -1,
    part: Part | None = None,
    input_clips: int = 0,
) -> TakeWindow:
    """A window before its first step, of whose tokens some are known and the others drawn anew.

    Args:
        window: whose tokens are kept.
        generator: the state of the CPU generator from which the others are drawn.
        keep: scales up to this one stay, in every clip; -1: none.
        part: of the finer scales only what is inside is drawn anew. None: all.
        input_clips: so many clips at the beginning show the input, and stay.

    Raises:
        UsageError: nothing would stay or nothing would be drawn anew, or the window has not come
            to the scale that is to stay.
    """
    steps = window.schedule.steps
    final = len(window.seconds)
    known = {i: bits for i, bits in window.bits.items() if i < final or i in window.given}
    own = [step for step in steps if step.clip >= input_clips]
    last = next((step for step in reversed(own) if step.index in known), None)
    if last is None:
        raise UsageError("the take has no steps that could stay")
    if keep > last.scale:
        name = scale_name(last.grid.width, last.grid.height)
        raise UsageError(f"the take has come to {name} only: no finer scale can stay")
    given, masks = set(), {}
    for step in steps:
        if step.index not in known:
            continue
        if step.clip < input_clips or step.scale <= keep:
            given.add(step.index)
        elif part is not None:
            drawn = part.tokens(step)
            if not drawn.any():
                given.add(step.index)
            elif not drawn.all():
                masks[step.index] = drawn
    if all(index in given for index in (known if part is not None else range(len(steps)))):
        raise UsageError(
            "nothing would be drawn anew: every scale is kept, or no token of those that there are "
            "lies inside the part"
        )
    return TakeWindow(
        schedule=window.schedule,
        generator=generator,
        bits={index: known[index] for index in sorted(given | masks.keys())},
        given=frozenset(given),
        masks=masks,
    )

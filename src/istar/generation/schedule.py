"""The spacetime pyramid: a video as clips, a clip as scales, a scale as repeated steps.

A video is an image clip of one latent frame followed by video clips of equal length, in the
released models twenty, the last perhaps shorter; or, for comparison, its first frame and its first
video clip are one. Every clip is generated coarse to fine over the same list of spatial scales;
each scale is predicted several times (the paper's Semantic Scale Repetition), and one such
prediction is a step. This module is plain arithmetic: it turns a request's size and length into
the list of steps that the generation loop obeys.

Source: InfinityStar paper (arXiv 2511.04675), spacetime pyramid modeling; released reference.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import sqrt
from typing import Literal, NamedTuple

from istar.errors import CheckpointError, UsageError

LATENT_FRAMES_PER_SECOND = 4

ContextKind = Literal["sparse", "full"]
"""What a step looks at beside the text and itself: the last step of the clip before, or the last
repetition of every earlier scale of its own and of every earlier clip."""

PyramidKind = Literal["image_first", "one"]
"""Where a video's first latent frame belongs: to a clip of its own, or to the first video clip."""


class Grid(NamedTuple):
    """Frames, rows and columns of a grid of tokens."""

    frames: int
    height: int
    width: int

    @property
    def tokens(self) -> int:
        """How many tokens the grid holds."""
        return self.frames * self.height * self.width


@dataclass(frozen=True, kw_only=True)
class PixelBudget:
    """How large pictures are: the side lengths, in latents, of the square pyramid's scales.

    Attributes:
        name: the released name, the pixels of a picture in millions.
        sides: side length of each scale of the 1:1 template, coarse to fine.
        resolution: the name people know it by.
    """

    name: str
    sides: tuple[int, ...]
    resolution: str

    def __post_init__(self) -> None:
        if not self.sides or list(self.sides) != sorted(set(self.sides)) or self.sides[0] < 1:
            raise CheckpointError(f"scale sides must be positive and growing, not {self.sides}")

    def scales(self, template: Template) -> tuple[tuple[int, int], ...]:
        """Height and width of every scale, coarse to fine, for one template."""
        return tuple(template.scale(side) for side in self.sides)


@dataclass(frozen=True, kw_only=True)
class Template:
    """One of the fifteen height/width ratios.

    Attributes:
        name: the real height/width of its 60-scale, cut to three decimals.
        ratio: the height/width from which the scales are computed.
    """

    name: str
    ratio: float

    def scale(self, side: int) -> tuple[int, int]:
        """Height and width of the scale that has about `side`² tokens (half to even)."""
        width = sqrt(side * side / self.ratio)
        return round(width * self.ratio), round(width)


def _templates() -> tuple[Template, ...]:
    found = []
    for base in (1, 100 / 116, 3 / 4, 2 / 3, 9 / 16, 1 / 2, 2 / 5, 1 / 3):
        for ratio in (base, 1 / base) if base != 1 else (base,):
            height, width = Template(name="", ratio=ratio).scale(60)
            name = str(height * 1000 // width / 1000)
            found.append(Template(name=name, ratio=ratio))
    return tuple(found)


TEMPLATES = _templates()

_SIDES = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 24, 32, 40, 60)

PIXEL_BUDGETS = {
    budget.name: budget
    for budget in (
        PixelBudget(name="0.06M", sides=_SIDES[:11], resolution="192p"),
        PixelBudget(name="0.25M", sides=_SIDES[:13], resolution="384p"),
        PixelBudget(name="0.40M", sides=_SIDES[:14], resolution="480p"),
        PixelBudget(name="0.90M", sides=_SIDES[:15], resolution="720p"),
    )
}


def nearest_template(ratio: float) -> Template:
    """The template whose name is nearest to a height/width ratio, as the reference chooses it.

    Raises:
        UsageError: the ratio is not a positive finite number.
    """
    if not 0 < ratio < float("inf"):
        raise UsageError(f"a height/width ratio must be a positive number, not {ratio}")
    return min(TEMPLATES, key=lambda template: abs(float(template.name) - ratio))


def clip_lengths(
    latent_frames: int, clip_frames: int, pyramid: PyramidKind = "image_first"
) -> tuple[int, ...]:
    """Latent frames of each clip of a video: 1, then full clips, the last perhaps fewer.

    Args:
        latent_frames: of the whole video.
        clip_frames: of a full video clip.
        pyramid: with `one` the first frame and the first full clip are one clip.
    """
    lengths = [1 if pyramid == "image_first" else min(latent_frames, 1 + clip_frames)]
    rest = latent_frames - lengths[0]
    while rest > 0:
        lengths.append(min(rest, clip_frames))
        rest -= lengths[-1]
    return tuple(lengths)


def grids(budget: PixelBudget, template: Template, clip_frames: Sequence[int]) -> tuple[Grid, ...]:
    """The grids of all scales of all clips, repetitions not counted."""
    scales = budget.scales(template)
    return tuple(Grid(frames, *scale) for frames in clip_frames for scale in scales)


@dataclass(frozen=True, kw_only=True)
class ClipPlan:
    """One clip to schedule.

    Attributes:
        frames: latent frames.
        repeats: how often each scale is predicted, coarse to fine.
    """

    frames: int
    repeats: tuple[int, ...]


def clip_plans(
    lengths: Sequence[int], *, image_repeats: tuple[int, ...], video_repeats: tuple[int, ...]
) -> tuple[ClipPlan, ...]:
    """The clips of a video by their latent frames: a first one of one frame is an image clip."""
    return tuple(
        ClipPlan(frames=frames, repeats=image_repeats if (n, frames) == (0, 1) else video_repeats)
        for n, frames in enumerate(lengths)
    )


@dataclass(frozen=True, kw_only=True)
class Step:
    """One prediction of one scale of one clip: all that the generation loop needs to know of it.

    Attributes:
        index: place in the whole sequence, every repetition counted; the scale coordinate of the
            position embedding.
        clip: which clip, from 0.
        scale: which scale of the clip, coarse to fine.
        repetition: which prediction of that scale, from 0.
        grid: frames, height and width of the tokens.
        full_grid: frames, height and width of the clip's finest scale, the size of its latent.
        first_frame: latent frame of the whole video with which the clip starts.
        image: the step belongs to an image clip, the first clip of one frame.
        semantic: a semantic scale, of few bits a token; otherwise a detail scale.
        starts_clip: the first step of its clip, whose input is zero.
        ends_clip: the last step of its clip, after which the running sum is the clip's latent.
        looks_at: indices of the earlier steps that it attends to; each is the previous step or one
            that the previous step attends to.
        read_later: later steps look at this one's tokens.
    """

    index: int
    clip: int
    scale: int
    repetition: int
    grid: Grid
    full_grid: Grid
    first_frame: int
    image: bool
    semantic: bool
    starts_clip: bool
    ends_clip: bool
    looks_at: tuple[int, ...]
    read_later: bool


def steps(
    clips: Sequence[ClipPlan],
    scales: Sequence[tuple[int, int]],
    *,
    semantic_scales: int,
    context: ContextKind = "sparse",
) -> tuple[Step, ...]:
    """Every step of a sequence of clips, in order.

    Args:
        clips: length and repetitions of each clip.
        scales: height and width of each scale, coarse to fine.
        semantic_scales: how many scales from the coarsest are semantic.
        context: what steps look at.

    Raises:
        CheckpointError: a clip without one positive repetition count a scale.
    """
    result: list[Step] = []
    first_frame = 0
    looks_at: tuple[int, ...] = ()
    for number, clip in enumerate(clips):
        if len(clip.repeats) != len(scales) or min(clip.repeats) < 1:
            raise CheckpointError(
                f"{len(scales)} scales need as many positive repeats, not {clip.repeats}"
            )
        for scale, (height, width) in enumerate(scales):
            for repetition in range(clip.repeats[scale]):
                ends_clip = (scale, repetition) == (len(scales) - 1, clip.repeats[-1] - 1)
                result.append(
                    Step(
                        index=len(result),
                        clip=number,
                        scale=scale,
                        repetition=repetition,
                        grid=Grid(clip.frames, height, width),
                        full_grid=Grid(clip.frames, *scales[-1]),
                        first_frame=first_frame,
                        image=number == 0 and clip.frames == 1,
                        semantic=scale < semantic_scales,
                        starts_clip=scale == repetition == 0,
                        ends_clip=ends_clip,
                        looks_at=looks_at,
                        read_later=False,
                    )
                )
            if context == "full":
                looks_at += (result[-1].index,)
        if context == "sparse":
            looks_at = (result[-1].index,)
        first_frame += clip.frames
    read = {index for step in result for index in step.looks_at}
    return tuple(replace(step, read_later=step.index in read) for step in result)


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A sequence of clips, and the steps that make them.

    Attributes:
        clips: length and repetitions of each.
        scales: height and width of each scale, coarse to fine.
        semantic_scales: how many scales from the coarsest are semantic.
        context: what steps look at.

    Raises:
        CheckpointError: on `steps`, as `steps` does.
    """

    clips: tuple[ClipPlan, ...]
    scales: tuple[tuple[int, int], ...]
    semantic_scales: int
    context: ContextKind

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        """Every step, in order."""
        return steps(
            self.clips, self.scales, semantic_scales=self.semantic_scales, context=self.context
        )


def needed_steps(steps: Sequence[Step], given: Container[int]) -> frozenset[int]:
    """Indices of the steps that a sampled step attends to, directly or indirectly.

    Other given steps need no computation.

    Args:
        steps: the whole schedule.
        given: indices of the steps whose bits are known.
    """
    needed: set[int] = set()
    for step in reversed(steps):
        if step.index in needed or step.index not in given:
            needed.update(step.looks_at)
    return frozenset(needed)

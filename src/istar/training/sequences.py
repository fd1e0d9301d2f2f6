"""Training sequences: examples as runs of tokens.

A run holds a text and one step of every scale of every clip (`istar.training.forced_steps`). A
token belongs to a group (a step, a text, a block of context) and sees its own group and at most two
ranges of earlier ones: enough for the spacetime sparse attention, and for the full attention that
it is compared with.
Source: InfinityStar paper (arXiv 2511.04675); released reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from istar.generation.loop import DETAIL_CONTEXT, ConditionBlock, condition_blocks
from istar.generation.schedule import Step
from istar.training.forced_steps import (
    DrawnClip,
    ForcedStep,
    draw_clip,
    scale_of,
    short_enough,
    teacher_forcing,
)
from istar.training.seeds import draw
from istar.transformer.config import TransformerConfig
from istar.transformer.rope import text_coordinates, visual_coordinates

NO_LOSS, SEMANTIC, DETAIL = range(3)
"""Kinds of tokens by what they predict."""

NOWHERE = -2
"""The first and last group of an empty range."""

_RANGES = 2
_SMALL_SCALES_COUNT_MORE, _AT_MOST = 0.2, 40.0
_TINY = 1e-6

Conditions = tuple[Tensor, Tensor, tuple[int, int]]
"""The context of an interactive clip, see `Example.conditions`."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """One video to learn from.

    Attributes:
        text: ids of the text's tokens.
        unconditional: the learned unconditional features stand in for the text.
        steps: the schedule of all clips.
        latents: `(C, T, H, W)` of every clip, before quantization.
        conditions: for an interactive clip, the latents `(C, n, H, W)` before it and
            `(C, 1, H, W)` of the video's first frame, and the rows and columns of the coarse grid.
    """

    text: Tensor
    unconditional: bool
    steps: tuple[Step, ...]
    latents: tuple[Tensor, ...]
    conditions: Conditions | None = None


@dataclass(frozen=True, kw_only=True)
class SequenceConfig:
    """How examples become tokens.

    Attributes:
        most_flips: self-correction: each step's bits flip with a random probability from 0 to
            this in hundredths; 0 switches it off.
        finest_share: how often a sequence holds the finest scale of its last clip.
        condition_noise: the standard deviations of noise on an interactive clip's context, of which
            each of its two blocks has one, chosen at random.
        weigh_by_magnitude: a bit's weight in the loss is proportional to the magnitude of the
            number whose sign it is, instead of the same for all.
    """

    most_flips: float = 0.3
    finest_share: float = 1.0
    condition_noise: tuple[float, ...] = (0.0, 0.15, 0.3)
    weigh_by_magnitude: bool = False


class Run(NamedTuple):
    """The tokens of one example, text first; all but `text` have one entry a token.

    Attributes:
        text: ids of the text's tokens.
        unconditional: a single boolean.
        inputs: `(L, C)`, zero for texts.
        coordinates: `(L, 4)`.
        group: `(L,)`.
        looks_at: `(L, 2, 2)`: first and last of each range of groups that a token sees beside its
            own; `NOWHERE` fills up.
        targets: `(L, C)` booleans; a semantic token's are the first few.
        bit_weight: `(L, C)`: of each bit in its token's loss; of a step's bits 1 on average.
        kind: `(L,)`: `NO_LOSS`, `SEMANTIC` or `DETAIL`.
        weight: `(L,)`: of the token in the loss.
        scale: `(L,)`: the scale's number.
    """

    text: Tensor
    unconditional: Tensor
    inputs: Tensor
    coordinates: Tensor
    group: Tensor
    looks_at: Tensor
    targets: Tensor
    bit_weight: Tensor
    kind: Tensor
    weight: Tensor
    scale: Tensor

    @property
    def tokens(self) -> int:
        """How many tokens it has."""
        return len(self.group)


class DrawnRun(NamedTuple):
    """A run with all that is random about it, before its steps are computed.

    Attributes:
        example: what to learn from.
        context: what every step sees: the text, and before an interactive clip two blocks.
        clips: the example's.
    """

    example: Example
    context: tuple[Run, ...]
    clips: tuple[DrawnClip, ...]

    @property
    def tokens(self) -> int:
        """How many tokens the run has."""
        chosen = sum(step.grid.tokens for clip in self.clips for step in clip.chosen)
        return sum(part.tokens for part in self.context) + chosen


def draw_run(
    example: Example,
    transformer: TransformerConfig,
    config: SequenceConfig,
    generator: torch.Generator,
    *,
    longest: int | None = None,
) -> DrawnRun:
    """Make an example's random choices.

    Args:
        example: what to learn from.
        transformer: sizes of the network.
        config: how.
        generator: of flips, noise and the choice of repetitions and scales.
        longest: a run with more tokens loses scales, see `short_enough`.
    """
    # The choices have random numbers of their own, so that they are the same with other flips.
    choices = torch.Generator().manual_seed(draw(1 << 48, generator))
    context = [_text_part(example, transformer)]
    if example.conditions is not None:
        context += _condition_parts(example, transformer, config, generator)
    clips = [
        draw_clip(
            latent,
            [step for step in example.steps if step.clip == number],
            semantic_bits=transformer.semantic_bits,
            most_flips=config.most_flips,
            generator=generator,
            choices=choices,
        )
        for number, latent in enumerate(example.latents)
    ]
    if config.finest_share < 1 and float(torch.rand((), generator=choices)) >= config.finest_share:
        *earlier, last = clips
        clips = [*earlier, last._replace(chosen=last.chosen[:-1])]
    if longest is not None:
        room = longest - sum(part.tokens for part in context)
        chosen = [step for clip in clips for step in clip.chosen]
        stay = short_enough(chosen, example.steps, room, choices)
        clips = [
            clip._replace(chosen=tuple(step for step in stay if step.clip == number))
            for number, clip in enumerate(clips)
        ]
    return DrawnRun(example, tuple(context), tuple(clips))


def runs_of(
    drawn: Sequence[DrawnRun], transformer: TransformerConfig, config: SequenceConfig
) -> list[Run]:
    """The tokens of some runs, computed together; they are the same as each run's alone."""
    clips = [clip for one in drawn for clip in one.clips]
    forced = iter(teacher_forcing(clips, semantic_bits=transformer.semantic_bits))
    return [
        _joined(one, [step for _ in one.clips for step in next(forced)], transformer, config)
        for one in drawn
    ]


def run_of(
    example: Example,
    transformer: TransformerConfig,
    config: SequenceConfig,
    generator: torch.Generator,
    *,
    longest: int | None = None,
) -> Run:
    """An example's tokens; see `draw_run`."""
    drawn = draw_run(example, transformer, config, generator, longest=longest)
    return runs_of([drawn], transformer, config)[0]


def _joined(
    drawn: DrawnRun,
    forced_steps: Sequence[ForcedStep],
    transformer: TransformerConfig,
    config: SequenceConfig,
) -> Run:
    """A run of its context and its forced steps.

    Each step is a group of tokens, numbered in order, that sees the groups its step looks at.
    """
    steps, parts = drawn.example.steps, list(drawn.context)
    always = range(len(parts))
    largest = max(step.grid.tokens for step in steps)
    groups = {scale_of(forced.step): group for group, forced in enumerate(forced_steps, len(parts))}
    for forced in forced_steps:
        seen = [groups[scale_of(steps[index])] for index in forced.step.looks_at]
        group = groups[scale_of(forced.step)]
        weight = step_weight(forced.step, largest)
        parts.append(_step_part(forced, group, [*always, *seen], weight, transformer, config))
    columns = zip(*(part[2:] for part in parts), strict=True)
    return Run(parts[0].text, parts[0].unconditional, *map(torch.cat, columns))


def tokens_of(example: Example) -> int:
    """How many tokens an example's run has if no scale is left out, without making it."""
    scales = {scale_of(step): step.grid.tokens for step in example.steps}
    return context_tokens(example) + sum(scales.values())


def context_tokens(example: Example) -> int:
    """How many tokens an example's run has beside its steps."""
    blocks = () if example.conditions is None else _blocks(example.conditions)
    return len(example.text) + sum(block.tokens.shape[1] for block in blocks)


def _text_part(example: Example, transformer: TransformerConfig) -> Run:
    length = len(example.text)
    return _part(
        transformer,
        group=0,
        looks_at=(),
        coordinates=text_coordinates(length),
        inputs=torch.zeros(length, transformer.latent_channels),
        text=example.text,
        unconditional=example.unconditional,
    )


def _condition_parts(
    example: Example,
    transformer: TransformerConfig,
    config: SequenceConfig,
    generator: torch.Generator,
) -> list[Run]:
    """The two blocks of context of an interactive clip, with noise on all but the first frame.

    Each block has a level of noise of its own, in units of the deviation of what it is added to.
    """
    assert example.conditions is not None
    former, first, _ = example.conditions
    parts = []
    for group, block in enumerate(_blocks(example.conditions), start=1):
        level = config.condition_noise[draw(len(config.condition_noise), generator)]
        frames = block.tokens[0].unflatten(0, (len(block.times), -1))
        clean_frames = first.shape[1] if block.scale == DETAIL_CONTEXT else 0
        clean, noisy = frames[:clean_frames], frames[clean_frames:]
        noisy = noisy + level * noisy.std() * torch.randn(noisy.shape, generator=generator)
        coordinates = visual_coordinates(
            scale=transformer.text_positions + block.scale,
            times=torch.tensor(block.times),
            grid=block.grid,
            full_grid=(former.shape[2], former.shape[3]),
        )
        parts.append(
            _part(
                transformer,
                group=group,
                looks_at=(),
                coordinates=coordinates,
                inputs=torch.cat((clean, noisy)).flatten(0, 1),
            )
        )
    return parts


def _blocks(conditions: Conditions) -> tuple[ConditionBlock, ConditionBlock]:
    """The blocks of context of an interactive clip."""
    former, first, grid = conditions
    return condition_blocks(former[None], first[None], grid)


def _step_part(
    forced: ForcedStep,
    group: int,
    looks_at: Sequence[int],
    weight: float,
    transformer: TransformerConfig,
    config: SequenceConfig,
) -> Run:
    step = forced.step
    by_magnitude = forced.magnitudes / forced.magnitudes.mean().clamp_min(_TINY)
    coordinates = visual_coordinates(
        scale=transformer.text_positions + step.index,
        times=torch.arange(step.first_frame, step.first_frame + step.grid.frames),
        grid=step.grid[1:],
        full_grid=step.full_grid[1:],
    )
    return _part(
        transformer,
        group=group,
        looks_at=looks_at,
        coordinates=coordinates,
        inputs=forced.inputs,
        forced=forced,
        weight=weight,
        bit_weights=by_magnitude if config.weigh_by_magnitude else 1.0,
    )


def _part(
    transformer: TransformerConfig,
    *,
    group: int,
    looks_at: Sequence[int],
    coordinates: Tensor,
    inputs: Tensor,
    forced: ForcedStep | None = None,
    weight: float = 0.0,
    bit_weights: Tensor | float = 0.0,
    text: Tensor | None = None,
    unconditional: bool = False,
) -> Run:
    """One group's tokens."""
    length = len(coordinates)
    targets = torch.zeros(length, transformer.latent_channels, dtype=torch.bool)
    bit_weight = torch.zeros(length, transformer.latent_channels)
    kind, scale = NO_LOSS, 0
    if forced is not None:
        step = forced.step
        targets[:, : forced.targets.shape[1]] = forced.targets
        bit_weight[:, : forced.targets.shape[1]] = bit_weights
        kind = SEMANTIC if step.semantic else DETAIL
        scale = step.scale
    ranges = _ranges(looks_at)
    looks = torch.tensor([*ranges, *[(NOWHERE, NOWHERE)] * (_RANGES - len(ranges))])
    return Run(
        text=torch.zeros(0, dtype=torch.long) if text is None else text,
        unconditional=torch.tensor(unconditional),
        inputs=inputs,
        coordinates=coordinates,
        group=torch.full((length,), group),
        looks_at=looks.expand(length, -1, -1),
        targets=targets,
        bit_weight=bit_weight,
        kind=torch.full((length,), kind),
        weight=torch.full((length,), weight),
        scale=torch.full((length,), scale),
    )


def _ranges(groups: Sequence[int]) -> list[tuple[int, int]]:
    """First and last of each unbroken range of growing numbers."""
    starts = [group for group in groups if group - 1 not in groups]
    ends = [group for group in groups if group + 1 not in groups]
    return list(zip(starts, ends, strict=True))


def step_weight(step: Step, largest: int) -> float:
    """The weight of each of a step's tokens: more on small scales, on which much hangs.

    `largest` is how many tokens the largest step of the whole video has.
    """
    return min(_AT_MOST, (largest / step.grid.tokens) ** _SMALL_SCALES_COUNT_MORE)

"""The steps of an example with their bits given, and which of them a training sequence holds.

All repetitions of all scales are simulated in the running sum. A sequence holds one repetition of
each scale, drawn at random, and where it would be too long not all scales.
Source: InfinityStar paper (arXiv 2511.04675); released reference.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from istar.generation.canvas import Canvas
from istar.generation.residual import residual_steps
from istar.generation.schedule import Step
from istar.training.seeds import draw

_LARGE_IN_ONE_OF = 4


class ForcedStep(NamedTuple):
    """One step with its bits given.

    Attributes:
        step: which.
        inputs: `(t·h·w, C)`: the running sum before it, at its size.
        targets: `(t·h·w, d)` booleans: the bits to predict.
        magnitudes: `(t·h·w, d)`: of the numbers whose signs they are.
    """

    step: Step
    inputs: Tensor
    targets: Tensor
    magnitudes: Tensor


class DrawnClip(NamedTuple):
    """One clip to force, with all that is random about it.

    Attributes:
        latent: `(C, T, H, W)`, before quantization.
        steps: all steps of the clip.
        flips: of each step, `(t·h·w, d)` booleans: which bits enter the running sum wrong.
        chosen: the steps that a sequence holds.
    """

    latent: Tensor
    steps: tuple[Step, ...]
    flips: tuple[Tensor, ...]
    chosen: tuple[Step, ...]


def scale_of(step: Step) -> tuple[int, int]:
    """A step's clip and scale, which all its repetitions have in common."""
    return step.clip, step.scale


def draw_clip(
    latent: Tensor,
    steps: Sequence[Step],
    *,
    semantic_bits: int,
    most_flips: float,
    generator: torch.Generator,
    choices: torch.Generator,
) -> DrawnClip:
    """Draw a clip's flips and one repetition of each of its scales.

    Any repetition may stand for a scale that later clips look at, too: in generation they see its
    last, but the others would otherwise be trained in no example with a later clip.

    Args:
        latent: `(C, T, H, W)`, before quantization.
        steps: all steps of the clip.
        semantic_bits: bits of a token on semantic scales.
        most_flips: see `istar.training.sequences.SequenceConfig`.
        generator: of the flips.
        choices: of the repetitions.
    """
    flips, chosen = [], []
    for step in steps:
        size = (step.grid.tokens, semantic_bits if step.semantic else len(latent))
        if step.ends_clip or most_flips <= 0:
            flips.append(torch.zeros(size, dtype=torch.bool))
            continue
        chance = draw(round(100 * most_flips) + 1, generator) / 100
        flips.append(torch.rand(size, generator=generator) < chance)
    for scale in range(steps[-1].scale + 1):
        repeated = [step for step in steps if step.scale == scale]
        chosen.append(repeated[draw(len(repeated), choices)])
    return DrawnClip(latent, tuple(steps), tuple(flips), tuple(chosen))


def teacher_forcing(clips: Sequence[DrawnClip], *, semantic_bits: int) -> list[list[ForcedStep]]:
    """Teacher forcing with bitwise self-correction: the chosen steps of each clip.

    On every step but the last some bits flip on their way into the running sum, so that later
    steps' targets make up for them; a step's own targets are its true bits. Clips whose steps have
    the same grids are computed together: one at a time, a small model's are nearly all overhead.

    Args:
        clips: any.
        semantic_bits: bits of a token on semantic scales.
    """
    alike: dict[tuple[object, ...], list[int]] = {}
    for number, clip in enumerate(clips):
        grids = tuple((step.grid, step.semantic) for step in clip.steps)
        alike.setdefault((clip.latent.shape, grids), []).append(number)
    found: dict[int, list[ForcedStep]] = {}
    for numbers in alike.values():
        together = _forced_together([clips[number] for number in numbers], semantic_bits)
        found.update(zip(numbers, together, strict=True))
    return [found[number] for number in range(len(clips))]


def _forced_together(clips: Sequence[DrawnClip], semantic_bits: int) -> list[list[ForcedStep]]:
    """The chosen steps of clips whose steps have the same grids."""
    first, *_ = clips[0].steps

    def flip(step: Step, bits: Tensor) -> Tensor:
        return bits ^ torch.stack([clip.flips[step.index - first.index] for clip in clips])

    result: list[list[ForcedStep]] = [[] for _ in clips]
    latents = torch.stack([clip.latent for clip in clips])
    parts = residual_steps(latents, clips[0].steps, semantic_bits=semantic_bits, flip=flip)
    for place, part in enumerate(parts):
        rows = [row for row, clip in enumerate(clips) if clip.steps[place] in clip.chosen]
        if not rows:
            continue
        # The network sees the sum with the flipped bits of earlier steps, as it will see its own
        # errors in generation, and predicts the true bits of what that sum lacks.
        seen = Canvas(part.before[rows]).tokens(part.step)
        magnitudes = part.residual.abs()
        for row, inputs in zip(rows, seen, strict=True):
            step = clips[row].steps[place]
            result[row].append(ForcedStep(step, inputs, part.bits[row], magnitudes[row]))
    return result


def short_enough(
    chosen: Sequence[Step], steps: Sequence[Step], room: int, generator: torch.Generator
) -> list[Step]:
    """The steps of a sequence that would otherwise be too long: small scales stay.

    A scale that later steps look at always stays. Of the others, what does not fit beside those is
    left out, and then the largest, at random among equals, until the rest fits. A large scale would
    then never be trained, so in one sequence of four another choice is made: one of the scales that
    fit but were left out, drawn at random, is kept before all others, if at least the smaller half
    of what would stay without it fits beside it.

    Args:
        chosen: a step of every scale.
        steps: the schedule of all clips.
        room: how many tokens fit. What must stay, and the smallest of the others, stay even if they
            are more.
        generator: of the draws.
    """
    if _tokens(chosen) <= room:
        return list(chosen)
    kept, rising, small, left_out = _choices(chosen, steps, room, generator)
    if left_out and draw(_LARGE_IN_ONE_OF, generator) == 0:
        large = left_out[draw(len(left_out), generator)]
        rest = [one for one in rising if one is not large]
        small = [large, *_first_that_fit(rest, room - _tokens(kept) - large.grid.tokens)]
    return sorted([*kept, *small], key=lambda one: one.index)


def may_stay(steps: Sequence[Step], room: int) -> list[Step]:
    """A step of every scale that `short_enough` may keep, of two alike perhaps only one.

    With no room these are what must stay.
    """
    chosen = list({scale_of(step): step for step in steps}.values())
    if _tokens(chosen) <= room:
        return chosen
    kept, _, small, left_out = _choices(chosen, steps, room, torch.Generator())
    return [*kept, *small, *left_out]


class _Choices(NamedTuple):
    """The steps of a sequence that is too long.

    Attributes:
        kept: those that later steps look at.
        rising: the others that fit beside these one by one, or the smallest, from small to large.
        small: as many of those as fit together, or the smallest.
        left_out: the rest of those that fit beside the smaller half of `small`.
    """

    kept: list[Step]
    rising: list[Step]
    small: list[Step]
    left_out: list[Step]


def _choices(
    chosen: Sequence[Step], steps: Sequence[Step], room: int, generator: torch.Generator
) -> _Choices:
    """What `short_enough` chooses from; equals are in random order."""
    read = {scale_of(step) for step in steps if step.read_later}
    kept = [one for one in chosen if scale_of(one) in read]
    room -= _tokens(kept)
    others = [one for one in chosen if scale_of(one) not in read]
    order = torch.randperm(len(others), generator=generator).tolist()
    rising = sorted((others[n] for n in order), key=lambda one: one.grid.tokens)
    rising = [one for one in rising if one.grid.tokens <= room] or rising[:1]
    small = _first_that_fit(rising, room) or rising
    half = _tokens(small[: (len(small) + 1) // 2])
    left_out = [one for one in rising[len(small) :] if one.grid.tokens + half <= room]
    return _Choices(kept, rising, small, left_out)


def _first_that_fit(steps: Iterable[Step], room: int) -> list[Step]:
    """The longest beginning that has at most `room` tokens."""
    fitting = []
    for step in steps:
        room -= step.grid.tokens
        if room < 0:
            break
        fitting.append(step)
    return fitting


def _tokens(steps: Iterable[Step]) -> int:
    return sum(step.grid.tokens for step in steps)

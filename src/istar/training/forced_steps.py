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


def scale_of(step: Step) -> tuple[int, int]:
    """A step's clip and scale, which all its repetitions have in common."""
    return step.clip, step.scale


def teacher_forcing(
    latent: Tensor,
    steps: Sequence[Step],
    *,
    semantic_bits: int,
    most_flips: float,
    generator: torch.Generator,
) -> list[ForcedStep]:
    """Teacher forcing of one clip with bitwise self-correction.

    On every step but the last some bits flip on their way into the running sum, so that later
    steps' targets make up for them; a step's own targets are its true bits.

    Args:
        latent: `(1, C, T, H, W)`.
        steps: all steps of the clip.
        semantic_bits: bits of a token on semantic scales.
        most_flips: see `istar.training.sequences.SequenceConfig`.
        generator: of the flips.
    """

    def flip(step: Step, bits: Tensor) -> Tensor:
        if step.ends_clip or most_flips <= 0:
            return bits
        chance = draw(round(100 * most_flips) + 1, generator) / 100
        return bits ^ (torch.rand(bits.shape, generator=generator) < chance)

    result = []
    for part in residual_steps(latent, steps, semantic_bits=semantic_bits, flip=flip):
        # The network sees the sum with the flipped bits of earlier steps, as it will see its own
        # errors in generation, and predicts the true bits of what that sum lacks.
        inputs = Canvas(part.before).tokens(part.step)[0]
        result.append(ForcedStep(part.step, inputs, part.bits[0], part.residual[0].abs()))
    return result


def one_of_each_scale(
    latents: Sequence[Tensor],
    steps: Sequence[Step],
    *,
    semantic_bits: int,
    most_flips: float,
    generator: torch.Generator,
    choices: torch.Generator,
) -> list[ForcedStep]:
    """One repetition of every scale of every clip, drawn at random.

    Any may stand for a scale that later clips look at, too: in generation they see its last, but
    the others would otherwise be trained in no example with a later clip.

    Args:
        latents: `(C, T, H, W)` of every clip, before quantization.
        steps: the schedule of all clips.
        semantic_bits, most_flips, generator: see `teacher_forcing`.
        choices: of the repetitions.
    """
    chosen = []
    for number, latent in enumerate(latents):
        own = [step for step in steps if step.clip == number]
        forced_steps = teacher_forcing(
            latent.unsqueeze(0),
            own,
            semantic_bits=semantic_bits,
            most_flips=most_flips,
            generator=generator,
        )
        for scale in range(own[-1].scale + 1):
            repeated = [forced for forced in forced_steps if forced.step.scale == scale]
            chosen.append(repeated[draw(len(repeated), choices)])
    return chosen


def short_enough(
    chosen: Sequence[ForcedStep], steps: Sequence[Step], room: int, generator: torch.Generator
) -> list[ForcedStep]:
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
    read = {scale_of(step) for step in steps if step.read_later}
    kept = [forced for forced in chosen if scale_of(forced.step) in read]
    room -= _tokens(kept)
    others = [forced for forced in chosen if scale_of(forced.step) not in read]
    order = torch.randperm(len(others), generator=generator).tolist()
    rising = sorted((others[n] for n in order), key=lambda forced: forced.step.grid.tokens)
    rising = [forced for forced in rising if forced.step.grid.tokens <= room] or rising[:1]
    small = _first_that_fit(rising, room) or rising
    half = _tokens(small[: (len(small) + 1) // 2])
    left_out = [f for f in rising[len(small) :] if f.step.grid.tokens + half <= room]
    if left_out and draw(_LARGE_IN_ONE_OF, generator) == 0:
        large = left_out[draw(len(left_out), generator)]
        rest = [forced for forced in rising if forced is not large]
        small = [large, *_first_that_fit(rest, room - large.step.grid.tokens)]
    return sorted([*kept, *small], key=lambda forced: forced.step.index)


def _first_that_fit(forced_steps: Iterable[ForcedStep], room: int) -> list[ForcedStep]:
    """The longest beginning that has at most `room` tokens."""
    fitting = []
    for forced in forced_steps:
        room -= forced.step.grid.tokens
        if room < 0:
            break
        fitting.append(forced)
    return fitting


def _tokens(forced_steps: Iterable[ForcedStep]) -> int:
    return sum(forced.step.grid.tokens for forced in forced_steps)

"""Replaying a take: what its model would have drawn at every step, given the take's own bits.

Each step is predicted again from the take's earlier bits (teacher forcing), with the random numbers
that it was drawn with, and then takes the take's bits. So one difference does not make the next.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from istar.events import Event
from istar.generation.loop import Drawing, advance, commit, draw
from istar.generation.sampling import probabilities
from istar.generation.schedule import Step
from istar.generation.state import JobState, TakeWindow
from istar.job import Job
from istar.networks import Networks
from istar.opening import Opening
from istar.take import Take


@dataclass(frozen=True, kw_only=True)
class ReplayedStep:
    """A step that a take has drawn, and what is drawn again.

    Attributes:
        window: its number.
        step: the step.
        drawing: what is drawn now.
        bits: `(t·h·w, d)` booleans: the take's, on the CPU.
        drawn: `(t·h·w)` booleans: the tokens that were drawn, where others were kept.
    """

    window: int
    step: Step
    drawing: Drawing
    bits: Tensor
    drawn: Tensor | None


@dataclass(frozen=True, kw_only=True)
class StepCheck:
    """How far a step's bits are those that are drawn again.

    Attributes:
        window: its number.
        step: the step.
        bits: how many were drawn.
        changed: how many of them would be others.
        margin: of these the largest distance between the random number and the probability that
            the bit is set, which it was compared with; 0 if none of them would.
    """

    window: int
    step: Step
    bits: int
    changed: int
    margin: float


def replay(networks: Networks, take: Take) -> Iterator[ReplayedStep]:
    """Every step that was drawn, in order; those that were given take part and are left out.

    Args:
        networks: the model that made the take, in any type of number.
        take: begun or finished.

    Raises:
        StateError: another model or schedule made the take.
        DeviceError: memory ran out.
        GenerationError: the logits are not finite.
    """
    job = Job.rendering(networks, take)
    while not job.state.begun:
        job.advance()
    opening = Opening(networks=networks, request=job.request, inputs=job.inputs, plan=job.plan)
    # While the text encoder is there anyway, the texts of all windows.
    networks.read_texts(opening.texts_from(replace(job.state, known=())))
    for number in range(len(job.plan.windows)):
        # 1. The window as it was before its first step. What memory does not suffice for has not
        # happened, and is done again.
        while job.state.generation is None:
            job.attempt(partial(_opened, job, opening, take, number))
        # 2. Its steps, each drawn anew and then taken as it is.
        while (generation := job.state.generation) is not None and not generation.finished:
            drawings: list[Drawing] = []
            job.attempt(partial(_taken, job, take.windows[number], drawings))
            step = generation.next_step
            for drawing in drawings:
                yield ReplayedStep(
                    window=number,
                    step=step,
                    drawing=drawing,
                    bits=take.windows[number].bits[step.index],
                    drawn=take.windows[number].masks.get(step.index),
                )
        # 3. What the next window looks back at.
        if generation is not None:
            state = opening.continued(job.state, generation.latents)
            job.state = replace(state, generation=None)


def _opened(
    job: Job, opening: Opening, take: Take, number: int
) -> tuple[JobState, tuple[Event, ...]]:
    """The job at a window of which what was given is known, and nothing else."""
    window, before = take.windows[number], take.windows[:number]
    given = {index: window.bits[index] for index in window.given}
    bare = replace(window, bits=given, masks={}, seconds=())
    state, _ = opening.open(
        replace(job.state, generator=window.generator, known=(*before, bare), windows=before)
    )
    return state, ()


def _taken(
    job: Job, window: TakeWindow, drawings: list[Drawing]
) -> tuple[JobState, tuple[Event, ...]]:
    """The job after its next step; what is drawn, if the step was not given, joins a list."""
    generation, networks = job.state.generation, job.networks
    assert generation is not None
    index, together = generation.next_step.index, networks.plan.together
    sampling = job.plan.sampling(job.state.window, job.request)
    transformer = networks.transformer_as_it_is if generation.is_given else networks.transformer
    with torch.inference_mode():
        if index in generation.given:
            generation = advance(transformer, generation, sampling, together=together)
        else:
            drawing = draw(transformer, generation, sampling, together=together)
            bits = window.bits[index]
            generation = commit(generation, bits, drawing.contexts, drawing.generator)
            drawings.append(drawing)
    return replace(job.state, generation=generation), ()


def check(replayed: ReplayedStep) -> StepCheck:
    """Compare a step's bits with those that are drawn again."""
    drawing, bits = replayed.drawing, replayed.bits.to(replayed.drawing.numbers.device)
    changed = drawing.bits != bits
    count = bits.numel()
    if replayed.drawn is not None:
        changed &= replayed.drawn.to(changed.device).unsqueeze(1)
        count = int(replayed.drawn.sum()) * bits.shape[1]
    margins = (drawing.numbers - probabilities(drawing.logits)).abs()
    return StepCheck(
        window=replayed.window,
        step=replayed.step,
        bits=count,
        changed=int(changed.sum()),
        margin=float(torch.where(changed, margins, 0).max()),
    )


def verify(networks: Networks, take: Take) -> Iterator[StepCheck]:
    """Which of a take's bits these networks would not have drawn, step by step.

    Arguments and errors are those of `replay`.

    Example:
        >>> checks = list(verify(pipeline.networks, Take.load("waves.take")))
        >>> next((one for one in checks if one.changed), None)
    """
    return map(check, replay(networks, take))

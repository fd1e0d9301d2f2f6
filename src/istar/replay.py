"""Replaying a take: what its model would have drawn at every step, given the take's own bits.

Each step is predicted again from the take's earlier bits (teacher forcing), with the random numbers
that it was drawn with, and then takes the take's bits. So one difference does not make the next.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from istar.generation.loop import Drawing, commit, draw, predict
from istar.generation.sampling import probabilities
from istar.generation.schedule import Step
from istar.generation.state import JobState
from istar.networks import Networks
from istar.opening import Opening
from istar.placement import memory_failure
from istar.resume import resumed
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
            the bit is set, which it was compared with; 0 if there are none.
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
    request, inputs, plan, _ = resumed(take, networks, continues=False)
    plan = plan.until(*take.position)
    opening = Opening(networks=networks, request=request, inputs=inputs, plan=plan)
    # While the text encoder is there anyway, the texts of all windows.
    networks.read_texts(opening.texts_from(JobState(generator=take.generator)))
    state = JobState(generator=take.generator, tail=() if inputs.clip is None else (inputs.clip,))
    for number in range(len(plan.windows)):
        try:
            state = yield from _replay_window(opening, take, state, number)
        except Exception as error:
            if (failure := memory_failure(error, "replaying")) is None:
                raise
            raise failure from error


def _replay_window(
    opening: Opening, take: Take, state: JobState, number: int
) -> Generator[ReplayedStep, None, JobState]:
    """One window's steps; returns the state after it."""
    networks, window = opening.networks, take.windows[number]
    # 1. The window as it was before its first step: what was given is known, and nothing else.
    given = {index: window.bits[index] for index in window.given}
    bare = replace(window, bits=given, masks={}, seconds=())
    before = take.windows[:number]
    state = replace(
        state, generator=window.generator, known=(*before, bare), taken=0, windows=before
    )
    # Whatever other code has set, the networks compute in their own dtypes.
    own_dtypes = torch.autocast(networks.device.type, enabled=False)
    with own_dtypes:
        state, _ = opening.open(state)
    generation = state.generation
    assert generation is not None
    sampling = opening.plan.sampling(number, opening.request)
    together = networks.plan.together
    # 2. Its steps, each drawn anew and then taken as it is.
    while not generation.finished:
        step = generation.next_step
        bits = window.bits[step.index]
        is_given = step.index in window.given
        with torch.inference_mode(), own_dtypes:
            if is_given:
                transformer = (
                    networks.transformer_as_it_is if generation.is_given else networks.transformer
                )
                contexts = predict(transformer, generation, together=together).contexts
                generation = commit(generation, bits, contexts)
                continue
            drawing = draw(networks.transformer, generation, sampling, together=together)
            generation = commit(generation, bits, drawing.contexts, drawing.generator)
        yield ReplayedStep(
            window=number,
            step=step,
            drawing=drawing,
            bits=bits,
            drawn=window.masks.get(step.index),
        )
    # 3. What the next window looks back at.
    return opening.continued(state, generation.latents)


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

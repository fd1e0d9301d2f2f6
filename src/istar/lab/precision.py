"""Measure what a type of number costs: how far logits move, and how many drawn bits change.

One run is made in float32. Another is given the same bits step by step, so that both always look
back at the same, and what it would have drawn from the same random numbers is compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import groupby
from math import sqrt
from typing import Any, NamedTuple

import torch
from torch import Tensor

from istar.events import Event
from istar.generation.loop import commit, draw
from istar.generation.schedule import Step
from istar.generation.state import JobState
from istar.job import Job
from istar.model_spec import Precision
from istar.networks import Networks
from istar.request import GenerationRequest


class TracedStep(NamedTuple):
    """What a network predicted at a step.

    Attributes:
        step: the step.
        logits: of every branch `(L, d, 2)`, float32, on the CPU.
        bits: `(L, d)` booleans, drawn from them, on the CPU.
    """

    step: Step
    logits: tuple[Tensor, ...]
    bits: Tensor


@dataclass(frozen=True, kw_only=True)
class Deviation:
    """How far a run's predictions are from those in float32.

    Attributes:
        logits_error: the root of the squared differences of all logits, over that of the squared
            logits in float32; no guidance is in them.
        bits: how many were drawn.
        changed: how many of them are others than in float32.
    """

    logits_error: float
    bits: int
    changed: int

    @property
    def share(self) -> float:
        """The share of bits that are others."""
        return self.changed / self.bits

    def as_json(self) -> dict[str, float]:
        """Its values by name."""
        return {**asdict(self), "share": self.share}


class StepDeviation(NamedTuple):
    """Sums over the predictions of one step.

    Attributes:
        scale: of the step.
        squared_difference: of the logits to those in float32.
        squared: of the logits in float32.
        bits: how many were drawn.
        changed: how many of them are others than in float32.
    """

    scale: int
    squared_difference: float
    squared: float
    bits: int
    changed: int


@dataclass(frozen=True, kw_only=True)
class PrecisionReport:
    """What types of number cost, by scale and in all.

    Attributes:
        model: its name.
        device: where both computed.
        requests: what was made.
        steps: of every type, the deviations of all steps of all requests.
    """

    model: str
    device: str
    requests: tuple[GenerationRequest, ...]
    steps: dict[Precision, list[StepDeviation]]

    def as_json(self) -> dict[str, Any]:
        """The report as JSON values."""
        return {
            "model": self.model,
            "device": self.device,
            "prompts": [request.prompt for request in self.requests],
            "seeds": [request.seed for request in self.requests],
            "seconds": self.requests[0].seconds,
            "dtypes": {
                dtype: {
                    **deviation(steps).as_json(),
                    "scales": [one.as_json() for one in by_scale(steps)],
                }
                for dtype, steps in self.steps.items()
            },
        }

    def lines(self) -> Iterator[str]:
        """A table for a person to read."""
        yield f"{'':5} {'scale':>5} {'bits':>9} {'error of logits':>15} {'changed bits':>12}"
        for dtype, steps in self.steps.items():
            rows = [*enumerate(by_scale(steps)), ("all", deviation(steps))]
            for name, found in rows:
                yield (
                    f"{dtype:5} {name:>5} {found.bits:9} {found.logits_error:15.3%} "
                    f"{found.share:12.2%}"
                )


def traced(
    networks: Networks, request: GenerationRequest, forced: Sequence[Tensor] | None = None
) -> Iterator[TracedStep]:
    """The predictions of a video's steps, or a picture's.

    Args:
        networks: the loaded model.
        request: from text alone; of several windows the first is made.
        forced: bits of every step, in place of those that are drawn. None: those that are drawn.

    Yields:
        every step's, in order.
    """
    job = Job.begin(networks, request)
    while job.state.generation is None:
        job.advance()
    while (window := job.state.generation) is not None and not window.finished:
        found: list[TracedStep] = []
        while not found:  # after a failure for want of memory the step is taken again
            job.attempt(partial(_taken, job, forced, found))
        yield found[0]


def _taken(
    job: Job, forced: Sequence[Tensor] | None, found: list[TracedStep]
) -> tuple[JobState, tuple[Event, ...]]:
    """The job after its next step, whose prediction is put into a list."""
    window = job.state.generation
    assert window is not None
    step = window.next_step
    with torch.inference_mode():
        drawing = draw(job.networks.transformer, window, job.plan.sampling(0, job.request))
        bits = drawing.bits
        kept = bits if forced is None else forced[step.index].to(bits.device)
        window = commit(window, kept, drawing.contexts, drawing.generator)
    found.append(TracedStep(step, tuple(each.cpu() for each in drawing.branches), bits.cpu()))
    return replace(job.state, generation=window), ()


def deviations(
    exact: Sequence[TracedStep], networks: Networks, request: GenerationRequest
) -> Iterator[StepDeviation]:
    """How far networks are from a run in float32, step by step, on that run's bits.

    Args:
        exact: the run, as `traced` gives it for the same request.
        networks: the same model in another type of number.
        request: what is made.
    """
    forced = [one.bits for one in exact]
    for own, other in zip(exact, traced(networks, request, forced), strict=True):
        pairs = list(zip(own.logits, other.logits, strict=True))
        yield StepDeviation(
            scale=own.step.scale,
            squared_difference=sum(float((b - a).double().square().sum()) for a, b in pairs),
            squared=sum(float(a.double().square().sum()) for a, _ in pairs),
            bits=own.bits.numel(),
            changed=int((own.bits != other.bits).sum()),
        )


def deviation(steps: Iterable[StepDeviation]) -> Deviation:
    """Of several steps together."""
    _, differences, squares, bits, changed = zip(*steps, strict=True)
    return Deviation(
        logits_error=sqrt(sum(differences) / sum(squares)), bits=sum(bits), changed=sum(changed)
    )


def by_scale(steps: Iterable[StepDeviation]) -> list[Deviation]:
    """Of every scale, coarse to fine."""

    def scale(step: StepDeviation) -> int:
        return step.scale

    return [deviation(own) for _, own in groupby(sorted(steps, key=scale), key=scale)]

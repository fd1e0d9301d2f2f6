"""The cost of a generation, stage by stage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

StageKind = Literal["load", "encode", "text", "step", "decode", "write"]


class Stage(NamedTuple):
    """A part of a generation.

    Attributes:
        kind: `load` of the weights; `encode` of given pictures; `text`: everything else before the
            first step; `step`: all predictions of one scale of one clip; `decode` of a clip;
            `write` of the file.
        name: tells it from others of its kind.
    """

    kind: StageKind
    name: str


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What something took.

    Attributes:
        seconds: of wall time; None where it was not timed.
        peak_bytes: the most memory that tensors held at one time; None where it is not known.
        flop: floating-point operations of matrix products, convolutions and attention, two for a
            multiply-add.
        passes: rows that passed the transformer: one for each branch of guidance.
        moved_bytes: read and written by all other operations.
        memory: the peak by what held it, see `istar.bench.meter.Holder`.
    """

    seconds: float | None = None
    peak_bytes: int | None = None
    flop: int = 0
    passes: int = 0
    moved_bytes: int = 0
    memory: Mapping[str, int] = field(default_factory=dict)

    def __add__(self, other: Cost) -> Cost:
        """What one took after the other."""
        higher = max(
            self, other, key=lambda cost: -1 if cost.peak_bytes is None else cost.peak_bytes
        )
        timed = [cost.seconds for cost in (self, other) if cost.seconds is not None]
        return Cost(
            seconds=sum(timed) if timed else None,
            peak_bytes=higher.peak_bytes,
            flop=self.flop + other.flop,
            passes=self.passes + other.passes,
            moved_bytes=self.moved_bytes + other.moved_bytes,
            memory=higher.memory,
        )


class Gauge(Protocol):
    """Measures one stretch of time after another."""

    def restart(self) -> None:
        """Begin a stretch."""

    def read(self) -> Cost:
        """The cost of the stretch so far."""


class Costs:
    """Adds up what every stage costs. A stage inside another interrupts that one.

    Attributes:
        by_stage: in the order in which the stages began.
    """

    def __init__(self, gauge: Gauge) -> None:
        self.by_stage: dict[Stage, Cost] = {}
        self._gauge = gauge
        self._under_way: list[Stage] = []

    @contextmanager
    def stage(self, stage: Stage) -> Iterator[None]:
        """Count what is done inside as the stage's."""
        self._stop()
        self._under_way.append(stage)
        self.by_stage.setdefault(stage, Cost())
        self._gauge.restart()
        try:
            yield
        finally:
            self._stop()
            self._under_way.pop()
            self._gauge.restart()

    def _stop(self) -> None:
        if self._under_way:
            self.by_stage[self._under_way[-1]] += self._gauge.read()

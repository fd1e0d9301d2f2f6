"""What happens in a training run, as `istar.training.trainer` reports it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class StepDone:
    """An optimizer step.

    Attributes:
        step: how many were done, this one included.
        total: how many there will be.
        measures: the loss and what else the task measures.
        seconds: since the step before.
    """

    step: int
    total: int
    measures: dict[str, float]
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Validated:
    """The averaged weights were measured on held-out clips.

    Attributes:
        step: after which.
        measures: by name.
    """

    step: int
    measures: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Saved:
    """Something was written.

    Attributes:
        what: `checkpoint`, `model` or `samples`.
        path: where.
    """

    what: str
    path: Path


@dataclass(frozen=True, kw_only=True)
class Resumed:
    """The run continues from a checkpoint of this step."""

    step: int


@dataclass(frozen=True, kw_only=True)
class Remarked:
    """Something that a person should read: which clips cannot be read, why there are no samples.

    Attributes:
        notes: a sentence each.
    """

    notes: tuple[str, ...]


TrainingEvent = StepDone | Validated | Saved | Resumed | Remarked

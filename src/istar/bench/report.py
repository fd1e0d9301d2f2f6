"""The report of a bench: a generation's cost by stage, as JSON and as lines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import reduce
from operator import add
from statistics import median
from typing import Any, Literal

from istar.bench.cost import Cost, Stage, StageKind
from istar.byte_size import readable_size
from istar.memory_plan import PlanName
from istar.request import Mode

Weights = Literal["real", "random", "none"]


@dataclass(frozen=True, kw_only=True)
class BenchReport:
    """What a generation costs.

    Attributes:
        model: its name.
        mode: of the request.
        seconds: of the video, as it was asked for; None for the model's own.
        device: where it computes.
        dtype: of the transformer: `bf16`, `fp32`, `int8` or `fp8`.
        weights: `real`; `random`; or `none`: everything is counted and nothing computed.
        text_tokens: the assumed length of every text; None where real ones were read.
        peak_of: what the peaks are peaks of.
        memory: the memory plan.
        stages: the cost of each, in order.
    """

    model: str
    mode: Mode
    seconds: float | None
    device: str
    dtype: str
    weights: Weights
    text_tokens: int | None
    peak_of: str
    memory: PlanName
    stages: Mapping[Stage, Cost]

    @property
    def total(self) -> Cost:
        """Everything together."""
        return self.of()

    def of(self, *kinds: StageKind) -> Cost:
        """All stages of some kinds together; of all kinds without any."""
        chosen = (cost for stage, cost in self.stages.items() if not kinds or stage.kind in kinds)
        return reduce(add, chosen, Cost())

    @property
    def context_bytes(self) -> int:
        """The most that keys and values kept between steps held at a stage's peak."""
        return max((cost.memory.get("context", 0) for cost in self.stages.values()), default=0)

    def as_json(self) -> dict[str, Any]:
        """Everything, the totals in the keys of a stage."""
        described = {
            name: getattr(self, name)
            for name in ("model", "mode", "device", "dtype", "weights", "text_tokens", "peak_of")
        }
        return {
            **described,
            "video_seconds": self.seconds,
            "memory_plan": self.memory,
            **asdict(self.total),
            "context_bytes": self.context_bytes,
            "stages": [
                {"name": stage.name, "kind": stage.kind, **asdict(cost)}
                for stage, cost in self.stages.items()
            ],
        }

    def lines(self) -> Iterator[str]:
        """A table for a person."""
        how = {
            "real": "",
            "random": ", random weights",
            "none": ", counted on tensors without values",
        }[self.weights]
        yield f"{self.model}, {self.mode}, {self.dtype} on {self.device}, plan {self.memory}{how}"
        if self.text_tokens is not None:
            yield f"every text is assumed to have {self.text_tokens} tokens"
        rows: list[tuple[str, ...]] = [
            ("STAGE", "SECONDS", "PEAK", "TFLOP", "PASSES", "ELEMENT-WISE")
        ]
        rows += [_row(stage.name, cost) for stage, cost in self.stages.items()]
        rows.append(_row("all", self.total))
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        for row in rows:
            first, *others = (cell for cell in row)
            cells = [first.ljust(widths[0])]
            cells += [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
            yield "  ".join(cells).rstrip()
        held = self.total.memory
        parts = ", ".join(f"{name} {readable_size(size)}" for name, size in held.items() if size)
        yield f"peak: {self.peak_of}" + (f"; {parts}" if parts else "")


def _row(name: str, cost: Cost) -> tuple[str, ...]:
    return (
        name,
        "-" if cost.seconds is None else f"{cost.seconds:.3f}",
        "-" if cost.peak_bytes is None else readable_size(cost.peak_bytes),
        f"{cost.flop / 1e12:.3f}",
        str(cost.passes),
        readable_size(cost.moved_bytes),
    )


def joined(counted: Mapping[Stage, Cost], timed: list[Mapping[Stage, Cost]]) -> dict[Stage, Cost]:
    """Counts and measurements of the same stages as one.

    Args:
        counted: gives operations, and memory where the others do not.
        timed: of each repeat; gives seconds, their median, and the highest peak.
    """
    result = {}
    for stage in dict.fromkeys([*counted, *(stage for one in timed for stage in one)]):
        count = counted.get(stage, Cost())
        measured = [one[stage] for one in timed if stage in one]
        seconds = [cost.seconds for cost in measured if cost.seconds is not None]
        peaks = [cost.peak_bytes for cost in measured if cost.peak_bytes is not None]
        result[stage] = Cost(
            seconds=median(seconds) if seconds else count.seconds,
            peak_bytes=max(peaks) if peaks else count.peak_bytes,
            flop=count.flop,
            passes=count.passes,
            moved_bytes=count.moved_bytes,
            memory={} if peaks else count.memory,
        )
    return result

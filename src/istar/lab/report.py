"""The report of a test in the world of shapes: rates with intervals, differences, records."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from math import sqrt
from pathlib import Path
from statistics import fmean
from typing import Any

from istar.files import write_text
from istar.lab.score import Record, ShapesTest
from istar.lab.spread import Prompt, Spread, spreads
from istar.lab.trials import TRIALS, EvaluationMode

_Z = 1.959963984540054
"""95 % of a normal distribution lie within this many standard deviations."""


@dataclass(frozen=True, kw_only=True)
class Rate:
    """A number of hits in a number of tries.

    Attributes:
        hits: how often it happened.
        count: how often it could have.
    """

    hits: int
    count: int

    @classmethod
    def of(cls, outcomes: Iterable[bool]) -> Rate:
        """The rate of the true ones."""
        every = list(outcomes)
        return cls(hits=sum(every), count=len(every))

    @property
    def share(self) -> float:
        """Hits by tries; 0 without a try."""
        return self.hits / self.count if self.count else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """The Wilson score interval of 95 %; 0 to 1 without a try."""
        if not self.count:
            return 0.0, 1.0
        widening = _Z**2 / self.count
        middle = self.share + widening / 2
        spread = _Z * sqrt(self.share * (1 - self.share) / self.count + widening / self.count / 4)
        low, high = (middle - spread) / (1 + widening), (middle + spread) / (1 + widening)
        return max(low, 0.0), min(high, 1.0)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How much larger one rate is than another.

    Attributes:
        value: one share less the other.
        low: lower end of its interval of 95 %, by Newcombe's hybrid score.
        high: upper end.
    """

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, rate: Rate, other: Rate) -> Difference:
        """The difference of a rate from another."""
        value = rate.share - other.share
        (low, high), (other_low, other_high) = rate.interval, other.interval
        below = sqrt((rate.share - low) ** 2 + (other_high - other.share) ** 2)
        above = sqrt((high - rate.share) ** 2 + (other.share - other_low) ** 2)
        return cls(value=value, low=value - below, high=value + above)


@dataclass(frozen=True, kw_only=True)
class ShapesReport:
    """The result of a test.

    Attributes:
        model: the name of the model.
        device: where it computed.
        dtype: in which it did: `bf16`, `fp32`, `int8` or `fp8`.
        test: what was tested.
        records: the clips' verdicts, in order; fewer than the test has if it was stopped.
    """

    model: str
    device: str
    dtype: str
    test: ShapesTest
    records: tuple[Record, ...]

    @property
    def modes(self) -> tuple[EvaluationMode, ...]:
        """The test's modes of which there are records."""
        return tuple(mode for mode in self.test.modes if self._own(mode))

    @property
    def complete(self) -> bool:
        """Whether the test was run to its end."""
        return len(self.records) == self.test.clips

    def rates(self, mode: EvaluationMode) -> dict[str, Rate]:
        """The rate of right clips in one mode, by name."""
        own = self._own(mode)
        return {name: Rate.of(record.right[name] for record in own) for name in own[0].right}

    def rates_by_motion(self, mode: EvaluationMode) -> dict[str, Rate]:
        """The rate of right motions in one mode, by the wanted motion."""
        found: dict[str, list[bool]] = {}
        for record in self._own(mode):
            pairs = list(zip(record.verdict.wanted, record.verdict.measured, strict=True))
            # Of two prompts the second is judged.
            for wanted, own in pairs[-1:] if mode == "interact" else pairs:
                if wanted.motion:
                    found.setdefault(wanted.motion, []).append(own.motion == wanted.motion)
        return {motion: Rate.of(found[motion]) for motion in sorted(found)}

    def differences(self, mode: EvaluationMode) -> dict[str, Difference]:
        """How a mode's rates differ from those it is compared with, if those were tested."""
        base = TRIALS[mode].compared_with
        if base not in self.modes:
            return {}
        others = self.rates(base)
        return {name: Difference.of(rate, others[name]) for name, rate in self.rates(mode).items()}

    def quality(self) -> dict[str, float]:
        """The mean PSNR and SSIM of the tokenizer; empty where it was not tested."""
        verdicts = [record.verdict for record in self.records]
        psnrs = [verdict.psnr for verdict in verdicts if verdict.psnr is not None]
        ssims = [verdict.ssim for verdict in verdicts if verdict.ssim is not None]
        return {"psnr": fmean(psnrs), "ssim": fmean(ssims)} if psnrs else {}

    def spreads(self) -> dict[str, Spread]:
        """How much videos of one prompt differ; empty where that was not tested."""
        by_prompt: dict[tuple[str, ...], list[Record]] = {}
        for record in self._own("diversity"):
            by_prompt.setdefault(record.prompts, []).append(record)
        return spreads(
            [
                Prompt(
                    motion=own[0].verdict.wanted[0].motion or "",
                    made=tuple(record.verdict.measured[0] for record in own),
                    world=tuple(
                        record.verdict.world for record in own if record.verdict.world is not None
                    ),
                )
                for own in by_prompt.values()
            ]
        )

    def as_json(self) -> dict[str, Any]:
        """The report as JSON values."""
        return {
            "model": self.model,
            "device": self.device,
            "dtype": self.dtype,
            **asdict(self.test),
            "complete": self.complete,
            "results": {mode: self._result(mode) for mode in self.modes},
        }

    def lines(self) -> Iterator[str]:
        """The rates, for a person to read."""
        for mode in self.modes:
            for name, rate in self.rates(mode).items():
                yield _line(mode, name, rate)
                if name == "motion":
                    for motion, own in self.rates_by_motion(mode).items():
                        yield _line(mode, f"  {motion}", own)
            for name, difference in self.differences(mode).items():
                if name == "all":
                    yield (
                        f"{mode:10} {name:10} {100 * difference.value:+.1f} points from "
                        f"{TRIALS[mode].compared_with}  (95 %: {100 * difference.low:+.1f} to "
                        f"{100 * difference.high:+.1f})"
                    )
            if mode == "diversity":
                for name, spread in self.spreads().items():
                    yield (
                        f"{mode:10} {name:10} {spread.ratio:6.1%} of the world's spread  "
                        f"({spread.prompts} prompts; 95 %: {spread.low:.1%} to {spread.high:.1%})"
                    )
            if mode == "tokenizer":
                quality = self.quality()
                yield f"{mode:10} {'psnr':10} {quality['psnr']:.2f} dB"
                yield f"{mode:10} {'ssim':10} {quality['ssim']:.4f}"

    def write(self, target: Path, *, overwrite: bool) -> Path:
        """Write it as a JSON file; it appears under its name once it is whole.

        Returns:
            the file's name: `target`, or without `overwrite` a numbered one if that is taken.

        Raises:
            MediaError: writing failed.
        """
        text = json.dumps(self.as_json(), indent=2) + "\n"
        return write_text(target, text, overwrite=overwrite, numbered=True)

    def _own(self, mode: EvaluationMode) -> list[Record]:
        return [record for record in self.records if record.mode == mode]

    def _result(self, mode: EvaluationMode) -> dict[str, Any]:
        return {
            "rates": {name: _described(rate) for name, rate in self.rates(mode).items()},
            "motions": {name: _described(r) for name, r in self.rates_by_motion(mode).items()},
            "differences": {name: asdict(one) for name, one in self.differences(mode).items()},
            **(self.quality() if mode == "tokenizer" else {}),
            **({"spreads": self._described_spreads()} if mode == "diversity" else {}),
            "records": [
                {"seed": record.seed, "prompts": record.prompts, **asdict(record.verdict)}
                for record in self._own(mode)
            ],
        }

    def _described_spreads(self) -> dict[str, Any]:
        return {name: asdict(spread) for name, spread in self.spreads().items()}


def _line(mode: str, name: str, rate: Rate) -> str:
    """A rate, for a person to read."""
    low, high = rate.interval
    return (
        f"{mode:10} {name:10} {rate.share:6.1%}  ({rate.hits} of {rate.count}; "
        f"95 %: {low:.1%} to {high:.1%})"
    )


def _described(rate: Rate) -> dict[str, float]:
    low, high = rate.interval
    return {
        "hits": rate.hits,
        "count": rate.count,
        "rate": rate.share,
        "low": low,
        "high": high,
    }

"""The report of a test in the world of shapes: rates with intervals, records, a contact sheet."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from math import sqrt
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from istar.files import write_text
from istar.lab.score import EvaluationMode, Outcome, Record, ShapesTest

_Z = 1.959963984540054
"""95 % of a normal distribution lie within this many standard deviations."""

_COLUMNS = 4
_LINE = 2
_GAP = 6
_PAPER, _RIGHT, _WRONG = (240, 240, 240), (0, 150, 0), (200, 0, 0)


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
class ShapesReport:
    """The result of a test.

    Attributes:
        model: the name of the model.
        device: where it computed.
        dtype: `bf16` or `fp32`, in which it did.
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
        own = self._own(mode)
        return {
            motion: Rate.of(r.right["motion"] for r in own if r.wanted.motion == motion)
            for motion in sorted({record.wanted.motion for record in own})
        }

    def quality(self) -> dict[str, float]:
        """The mean PSNR and SSIM of the tokenizer; empty where it was not tested."""
        own = [record for record in self.records if record.psnr is not None]
        if not own:
            return {}
        return {
            "psnr": fmean(record.psnr for record in own if record.psnr is not None),
            "ssim": fmean(record.ssim for record in own if record.ssim is not None),
        }

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
                low, high = rate.interval
                yield (
                    f"{mode:9} {name:10} {rate.share:6.1%}  ({rate.hits} of {rate.count}; "
                    f"95 %: {low:.1%} to {high:.1%})"
                )
            if mode == "tokenizer":
                quality = self.quality()
                yield f"{mode:9} {'psnr':10} {quality['psnr']:.2f} dB"
                yield f"{mode:9} {'ssim':10} {quality['ssim']:.4f}"

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
            **(self.quality() if mode == "tokenizer" else {}),
            "records": [
                {key: value for key, value in asdict(record).items() if key != "mode"}
                for record in self._own(mode)
            ],
        }


def contact_sheet(found: Sequence[Outcome]) -> Tensor:
    """One picture `(H, W, 3)` uint8 of all clips, four in a row.

    Each clip is shown by its first, middle and last picture, framed in green where background,
    colour, shape and motion are right, else in red. Every mode begins a new row.

    Args:
        found: one or more, of one size.
    """
    modes = dict.fromkeys(outcome.record.mode for outcome in found)
    rows = []
    for mode in modes:
        cells = [_cell(outcome) for outcome in found if outcome.record.mode == mode]
        blank = _filled(cells[0].shape[0], cells[0].shape[1], _PAPER)
        cells += [blank] * (-len(cells) % _COLUMNS)
        rows += [
            torch.cat(cells[first : first + _COLUMNS], dim=1)
            for first in range(0, len(cells), _COLUMNS)
        ]
    return torch.cat(rows)


def _cell(outcome: Outcome) -> Tensor:
    """Three pictures side by side in a coloured frame with paper around it."""
    count, height, width, _ = outcome.pictures.shape
    colour = _RIGHT if outcome.record.right["all"] else _WRONG
    framed = _filled(height + 2 * _LINE, count * (width + _LINE) + _LINE, colour)
    for number, picture in enumerate(outcome.pictures):
        left = _LINE + number * (width + _LINE)
        framed[_LINE:-_LINE, left : left + width] = picture
    cell = _filled(framed.shape[0] + _GAP, framed.shape[1] + _GAP, _PAPER)
    inset = _GAP // 2
    cell[inset:-inset, inset:-inset] = framed
    return cell


def _filled(height: int, width: int, colour: tuple[int, int, int]) -> Tensor:
    return torch.tensor(colour, dtype=torch.uint8).repeat(height, width, 1)


def _described(rate: Rate) -> dict[str, float]:
    low, high = rate.interval
    return {
        "hits": rate.hits,
        "count": rate.count,
        "rate": rate.share,
        "low": low,
        "high": high,
    }

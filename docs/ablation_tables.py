"""The tables of `docs/ablations.md`: means over seeds, and differences between paired runs."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, stdev

Measures = Mapping[int, Mapping[str, float]]
"""By seed and name, what was measured after the runs of a variant."""

STUDENT = {3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571}
"""By number of seeds: 95 % of Student's t lie within this many standard errors."""

_OPEN = "not run yet"


@dataclass(frozen=True, kw_only=True)
class Column:
    """A measure in a table.

    Attributes:
        measure: its name.
        heading: of its column.
        form: of its values, as `format` takes it.
        factor: that values are shown times.
    """

    measure: str
    heading: str
    form: str
    factor: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A measure of one variant minus that of another, seed by seed.

    Attributes:
        values: of the seeds that both have.
    """

    values: tuple[float, ...]

    @classmethod
    def between(cls, one: Measures, other: Measures, measure: str) -> Difference:
        """The differences of a measure."""
        seeds = sorted({*one} & {*other})
        return cls(values=tuple(one[seed][measure] - other[seed][measure] for seed in seeds))

    @property
    def mean(self) -> float:
        """Over all seeds."""
        return fmean(self.values)

    @property
    def error(self) -> float:
        """The standard error of the mean, of two seeds or more."""
        return stdev(self.values) / sqrt(len(self.values))

    @property
    def is_effect(self) -> bool:
        """Whether three seeds or more show it: all of one sign, and 0 outside the 95 % interval."""
        if len(self.values) not in STUDENT:
            return False
        one_sign = all(value > 0 for value in self.values) or all(v < 0 for v in self.values)
        return one_sign and abs(self.mean) > STUDENT[len(self.values)] * self.error


def level_rows(columns: Sequence[Column], variants: Mapping[str, Measures]) -> Iterator[str]:
    """A table of means over seeds and, after ±, their standard deviations.

    A variant may lack measures that others have.
    """
    yield from _head(["run", "seeds", *(column.heading for column in columns)])
    for name, measures in variants.items():
        if not measures:
            yield _row([name, "0", _OPEN, *[""] * (len(columns) - 1)])
            continue
        cells = []
        for column in columns:
            values = [one[column.measure] for one in measures.values() if column.measure in one]
            cells.append(_mean_and_deviation(values, column))
        yield _row([name, str(len(measures)), *cells])


def difference_rows(
    columns: Sequence[Column],
    variants: Mapping[str, Measures],
    incomparable: Container[tuple[str, str]] = (),
) -> Iterator[str]:
    """A table of differences from the first variant, and, after ±, their standard errors.

    Effects are bold.

    Args:
        columns: the measures.
        variants: by name, the first of them the one that others are compared with.
        incomparable: names and measures that do not compare.
    """
    yield from _head(["run", "seeds", *(column.heading for column in columns)])
    (_, first), *others = variants.items()
    for name, measures in others:
        seeds = {*measures} & {*first}
        if not seeds:
            yield _row([name, "0", _OPEN, *[""] * (len(columns) - 1)])
            continue
        cells = []
        for column in columns:
            if (name, column.measure) in incomparable:
                cells.append("–")
                continue
            found = Difference.between(measures, first, column.measure)
            cell = f"{column.factor * found.mean:+{column.form}}"
            if len(found.values) > 1:
                cell += f" ± {column.factor * found.error:{column.form}}"
            cells.append(f"**{cell}**" if found.is_effect else cell)
        yield _row([name, str(len(seeds)), *cells])


def _mean_and_deviation(values: Sequence[float], column: Column) -> str:
    if not values:
        return "–"
    mean = f"{column.factor * fmean(values):{column.form}}"
    if len(values) == 1:
        return mean
    return f"{mean} ± {column.factor * stdev(values):{column.form}}"


def _head(cells: Sequence[str]) -> Iterator[str]:
    yield _row(cells)
    yield "|---" * len(cells) + "|"


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"

"""How often something happened, and how sure that is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import sqrt

_Z = 1.959963984540054
"""Within so many standard deviations lie 95 % of a normal distribution."""


@dataclass(frozen=True, kw_only=True)
class Rate:
    """So many hits in so many tries.

    Attributes:
        hits: how often it happened.
        count: how often it could have.
    """

    hits: int
    count: int

    def __post_init__(self) -> None:
        if not 0 <= self.hits <= self.count:
            raise ValueError(f"there cannot be {self.hits} hits in {self.count} tries")

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

"""How long work takes, learned from work that was done."""

from __future__ import annotations


class Pace:
    """Predicts how long a piece of work takes by its floating-point operations.

    Of pieces of one size half of what is known is the latest, a quarter the one before, and so on.
    """

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}
        self._line = (0.0, 0.0)

    @property
    def knows_nothing(self) -> bool:
        """No work was done yet."""
        return not self._seconds

    def add(self, flop: int, seconds: float) -> None:
        """Learn from a piece of work."""
        self._seconds[flop] = (self._seconds.get(flop, seconds) + seconds) / 2
        self._line = _fitted(self._seconds)

    def seconds(self, flop: int) -> float:
        """What a piece of work probably takes; 0 before anything is known.

        What pieces of its size took; of a new size, by the line of least squares through all: a
        time that every piece takes, and one for every operation.
        """
        every, each = self._line
        return self._seconds.get(flop, every + each * flop)

    def at_most(self, flop: int) -> float:
        """No less than a piece takes, as long as larger ones use the device no worse.

        A piece as large as the largest so far, or smaller, takes what the next larger one took; the
        time of a larger one grows with its operations. 0 before anything is known.
        """
        if not self._seconds:
            return 0.0
        larger = [size for size in self._seconds if size >= flop]
        if larger:
            return self._seconds[min(larger)]
        largest = max(self._seconds)
        return self._seconds[largest] * flop / largest


def _fitted(seconds: dict[int, float]) -> tuple[float, float]:
    """The line through times by size: what every piece takes, and what every operation does.

    Neither is negative.
    """
    count, squares = len(seconds), sum(size * size for size in seconds)
    mean_size, mean = sum(seconds) / count, sum(seconds.values()) / count
    products = sum(size * time for size, time in seconds.items())
    spread = squares - count * mean_size**2
    each = (products - count * mean_size * mean) / spread if count > 1 else products / squares
    each = max(each, 0.0)
    every = mean - each * mean_size
    return (every, each) if every >= 0 else (0.0, products / squares)

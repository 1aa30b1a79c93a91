"""A histogram in words that another process reads: a bucket for each bound, one above all, and the sum."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from dataclasses import dataclass
from typing import Final, Self

FETCH_BOUNDS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""For downloads: from a disk's to the longest attempts."""

DECODE_BOUNDS_S: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
"""For decodes: from a thumbnail's to a panorama's."""


def histogram_words(bounds: tuple[float, ...]) -> int:
    """Return how many words a histogram takes."""
    return len(bounds) + 2


class Histogram:
    """Counts durations in words that this process writes; cheap enough for each object."""

    __slots__ = ("_bounds", "_first", "_sum", "_words")

    def __init__(self, bounds: tuple[float, ...], words: memoryview | None = None, first: int = 0) -> None:
        """Count in ``words[first:]``; without words, in this process' own memory.

        Args:
            bounds: upper bounds of the buckets, seconds, ascending.
        """
        self._words = words or memoryview(array("Q", bytes(8 * histogram_words(bounds))))
        self._bounds, self._first, self._sum = bounds, first, first + len(bounds) + 1

    def __repr__(self) -> str:
        return f"Histogram({self.times!r})"

    def add(self, seconds: float) -> None:
        """Count one duration."""
        words = self._words
        words[self._first + bisect_left(self._bounds, seconds)] += 1
        words[self._sum] += int(seconds * 1e9)

    @property
    def times(self) -> Times:
        """Return what was counted."""
        return Times.of(self._bounds, self._words[self._first : self._sum + 1].tolist())


@dataclass(frozen=True, slots=True)
class Times:
    """What one or several histograms counted.

    Attributes:
        bounds: upper bounds, seconds; one bucket more is above the last.
        buckets: how many fell into each, not added up.
        total_ns: their sum.
    """

    bounds: tuple[float, ...]
    buckets: tuple[int, ...]
    total_ns: int = 0

    @classmethod
    def none(cls, bounds: tuple[float, ...]) -> Self:
        """Return a histogram without anything in it."""
        return cls(bounds, (0,) * (len(bounds) + 1))

    @classmethod
    def of(cls, bounds: tuple[float, ...], words: list[int]) -> Self:
        """Return what a histogram's words say."""
        return cls(bounds, tuple(words[:-1]), words[-1])

    @property
    def count(self) -> int:
        """Return how many durations were counted."""
        return sum(self.buckets)

    def __add__(self, other: Times) -> Times:
        """Return the histogram of both."""
        both = tuple(mine + theirs for mine, theirs in zip(self.buckets, other.buckets, strict=True))
        return Times(self.bounds, both, self.total_ns + other.total_ns)

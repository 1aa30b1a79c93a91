"""How long each epoch is: the catalog may grow while it is served, and new pairs come in with an epoch. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from ringfeed.shm.layout import MAX_UINT64


@dataclass(frozen=True, slots=True)
class Epochs:
    """The lengths of all epochs, in pairs.

    Attributes:
        spans: (first epoch, pairs in each epoch from there on), ascending, the first from epoch 0.

    Raises:
        ValueError: the spans are none.
    """

    spans: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        firsts = [first for first, _ in self.spans]
        if not firsts or firsts[0] != 0 or any(a >= b for a, b in pairwise(firsts)):
            raise ValueError(f"epochs must be given from 0 upwards, and are {firsts}")
        if any(length < 1 for _, length in self.spans):
            raise ValueError("an epoch has at least one pair")

    @classmethod
    def all(cls, length: int) -> Epochs:
        """Every epoch has ``length`` pairs."""
        return cls(((0, length),))

    def length(self, epoch: int) -> int:
        """Pairs in ``epoch``."""
        for first, length in reversed(self.spans):
            if epoch >= first:
                return length
        raise ValueError(f"there is no epoch {epoch}")

    def distance(self, start: tuple[int, int], end: tuple[int, int]) -> int:
        """Pairs from one (epoch, position) to another; negative where that lies before it."""
        if len(self.spans) == 1:
            return (end[0] - start[0]) * self.spans[0][1] + end[1] - start[1]
        return self._before(end) - self._before(start)

    def forward(self, start: tuple[int, int], pairs: int) -> tuple[int, int]:
        """The (epoch, position) that lies ``pairs``, at least 0, after another; never at an epoch's very end."""
        number = self._before(start) + pairs
        for (first, length), (following, _) in zip(self.spans, (*self.spans[1:], (MAX_UINT64, 0)), strict=True):
            within = (following - first) * length
            if number < within:
                epochs, position = divmod(number, length)
                return first + epochs, position
            number -= within
        raise ValueError(f"{pairs} pairs after {start} lies beyond all epochs")

    def change(self, epoch: int, length: int) -> Epochs:
        """The same up to ``epoch``; from there on every epoch has ``length`` pairs."""
        return Epochs((*(span for span in self.spans if span[0] < epoch), (epoch, length)))

    def since(self, epoch: int) -> Epochs:
        """What still matters to a reader that never looks at an epoch before ``epoch``: its span begins at 0 then."""
        first, *later = [span for i, span in enumerate(self.spans) if self._last(i) >= epoch]
        return Epochs(((0, first[1]), *later))

    def _last(self, number: int) -> int:
        return self.spans[number + 1][0] - 1 if number + 1 < len(self.spans) else MAX_UINT64

    def _before(self, at: tuple[int, int]) -> int:
        """Pairs of all epochs before, and of this one before the position."""
        epoch, number = at[0], at[1]
        for (first, length), (following, _) in zip(self.spans, (*self.spans[1:], (MAX_UINT64, 0)), strict=True):
            number += (min(epoch, following) - first) * length
            if epoch <= following:
                return number
        return number

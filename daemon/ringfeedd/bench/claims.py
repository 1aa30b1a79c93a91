"""Claims: one contender's runs over another's, round by round, against what is aimed at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import harmonic_mean

from ringfeedd.bench.results import FigureRow, Rate, Spread


class Measure(StrEnum):
    """What is divided."""

    RATE = "pairs/s"
    CPU = "CPU a pair"


@dataclass(frozen=True)
class Claim:
    """That one contender is so much better than the best of some others.

    Attributes:
        of: the contender's name.
        to: the others' names; in each round the best of them counts (the most pairs/s, or the least CPU).
        target: in words, e.g. ``">= 1.7"``.
        measure: what is divided; for CPU less is better.
        share: the others' number is taken times this, e.g. 4 for four groups.
        mixed: what is compared with is not the best of the others, but what they give where each of them has as many
            pairs to deliver: the harmonic mean of their rates.
    """

    of: str
    to: Sequence[str]
    target: str
    measure: Measure = Measure.RATE
    share: float = 1.0
    mixed: bool = False

    def figure(self, runs: Mapping[str, Sequence[Rate]]) -> FigureRow | None:
        """The quotient, a value for each round that both ran in; None where there is none.

        Rounds are run in turn, so both numbers of a quotient were taken within a minute.
        """
        others = [runs[name] for name in self.to if runs.get(name)]
        if not others or not runs.get(self.of):
            return None
        quotients = []
        for mine, *theirs in zip(runs[self.of], *others, strict=False):
            numbers = [self._number(one) for one in theirs]
            best = max(numbers) if self.measure is Measure.RATE else min(numbers)
            quotients.append(self._number(mine) / (harmonic_mean(numbers) if self.mixed else best * self.share))
        times = f"{self.share:g} x " if self.share != 1 else ""
        best_of = "equal parts of " if self.mixed else "the best of " if len(others) > 1 else ""
        present = [name for name in self.to if runs.get(name)]
        name = f"{self.measure}: {self.of} / {times}{best_of}{', '.join(present)}"
        return FigureRow(name, "x", Spread.of(quotients), self.target)

    def _number(self, rate: Rate) -> float:
        return rate.pairs_per_s if self.measure is Measure.RATE else rate.cpu_ms

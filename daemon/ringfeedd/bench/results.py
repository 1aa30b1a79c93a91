"""What is measured: numbers with their spread, as they are stored in JSON."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

import msgspec

from ringfeedd.bench.contender import Measured


class Spread(msgspec.Struct, frozen=True):
    """The median of some runs, and how far they lie apart."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Return the spread of at least one value."""
        kept = sorted(values)
        return cls(statistics.median(kept), kept[0], kept[-1])


class Rate(msgspec.Struct, frozen=True):
    """One run of one contender.

    Attributes:
        pairs_per_s: delivered to all consumers together.
        cpu_ms: of all processes of loader and trainers for each delivered pair; the same number as CPU-seconds for each
            1000 pairs.
        parts_ms: ``cpu_ms`` by the processes that used it.
    """

    pairs_per_s: float
    cpu_ms: float
    parts_ms: dict[str, float]


def combine(consumers: Sequence[Measured]) -> Rate:
    """The rate of consumers that ran side by side.

    They go in step (a ring holds them together, copies of a loader share the machine), so what a shared process used in
    one consumer's window served as many pairs of each of them.
    """
    count = len(consumers)
    parts: dict[str, float] = {"trainers": 0.0}
    for one in consumers:
        parts["trainers"] += 1000 * one.own_cpu_s / one.pairs / count
        for name, cpu_s in one.cpu_s.items():
            parts[name] = parts.get(name, 0.0) + 1000 * cpu_s / one.pairs / count / count
    return Rate(
        pairs_per_s=sum(one.pairs / one.seconds for one in consumers),
        cpu_ms=sum(parts.values()),
        parts_ms=parts,
    )


class RateRow(msgspec.Struct, frozen=True):
    """One contender's runs. ``ratio`` is its rate over that of the table's first row, by medians."""

    name: str
    pairs_per_s: Spread
    cpu_ms: Spread
    parts_ms: dict[str, float]
    ratio: float
    runs: int


class FigureRow(msgspec.Struct, frozen=True):
    """One figure other than a rate, with its unit, and what it is to be compared with."""

    name: str
    unit: str
    value: Spread
    target: str = ""


class Result(msgspec.Struct, frozen=True):
    """What one command measured.

    Attributes:
        command: its name.
        what: a sentence: what was measured, and how.
        rates, figures: its rows, either may be empty.
        notes: sentences about contenders that did not run, and the like.
    """

    command: str
    what: str
    rates: list[RateRow] = []
    figures: list[FigureRow] = []
    notes: list[str] = []


def rate_rows(runs: dict[str, list[Rate]]) -> list[RateRow]:
    """The rows of one table; contenders without a run are left out."""
    runs = {name: rates for name, rates in runs.items() if rates}
    rows: list[RateRow] = []
    for name, rates in runs.items():
        rate = Spread.of(one.pairs_per_s for one in rates)
        parts = {part: statistics.median(one.parts_ms[part] for one in rates) for part in rates[0].parts_ms}
        first = rows[0].pairs_per_s.median if rows else rate.median
        rows.append(RateRow(name, rate, Spread.of(one.cpu_ms for one in rates), parts, rate.median / first, len(rates)))
    return rows

"""What happened lately in one ring: which readers waited, for which, and how busy the workers were meanwhile. Pure.

The loop looks four times a second. Each look becomes a `Tick`; the sums of the latest ones are the words from which
`ringfeed.health.verdict` says what bounds the ring.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from ringfeed.shm.counters import Lately
from ringfeedd.system.work import Work

SPAN_S: Final = 10.0
"""Over which the sums are taken."""

MOST_TICK_S: Final = 2.0
"""A longer time between two looks was none in which anything was seen: the process stood still."""

LATE_BEHIND: Final = 16
"""Pairs that are there, but for an earlier one, before that one counts as late; in a small ring, half of its slots."""

STALLED_S: Final = 2.0
"""So long nothing was published before the pair that is waited for counts as late."""


@dataclass(frozen=True, slots=True)
class Look:
    """A ring and the workers at one moment; sums are since the start.

    Attributes:
        waited_s: by reader, how long it has waited in all.
        aside: readers that skip while others do not: they wait for those, which is their choice.
        holder, missing: 1 + the lane that others wait for, or whose group misses a rank; 0: none.
        held: whether a reader waits for slots that others keep.
        limit_per_s: requests a second that the store lets through; 0 while it does not limit the rate.
        full: whether no slot is free.
        work: what all workers have done, and do.
        pairs, others: decoded for this ring, and by name for the daemon's other rings.
    """

    waited_s: Mapping[tuple[int, int], float] = field(default_factory=dict)
    aside: frozenset[tuple[int, int]] = frozenset()
    holder: int = 0
    missing: int = 0
    held: bool = False
    limit_per_s: float = 0.0
    full: bool = False
    workers: int = 0
    work: Work = field(default_factory=Work)
    requests: int = 0
    retries: int = 0
    pairs: int = 0
    others: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Tick:
    """What happened between two looks; ``waited_s`` is the longest of all readers."""

    passed_s: float
    waited_s: float
    by_reader: Mapping[tuple[int, int], float]
    before: Look
    after: Look

    @property
    def weight(self) -> float:
        return self.waited_s / self.passed_s


class Recent:
    """The latest looks, as sums."""

    def __init__(self) -> None:
        """Begin with none."""
        self._ticks: deque[_Tick] = deque()
        self._span_s = 0.0
        self._last: tuple[float, Look] | None = None

    def __repr__(self) -> str:
        return f"Recent({len(self._ticks)} ticks, {self._span_s:.1f} s)"

    def add(self, now: float, look: Look) -> Mapping[tuple[int, int], float]:
        """Add a look at ``now``, seconds, monotonic; return how long each reader has waited since the last one.

        The sums begin with the first reader, and again with the next one after all have gone.
        """
        last, self._last = self._last, (now, look)
        if last is None:
            return {}
        began, before = last
        if not before.waited_s or not look.waited_s:
            self._ticks.clear()  # what was before a reader came says nothing about it
            self._span_s = 0.0
        passed_s = now - began
        waited = {
            reader: max(0.0, total_s - before.waited_s.get(reader, 0.0)) for reader, total_s in look.waited_s.items()
        }
        if not 0.0 < passed_s <= MOST_TICK_S or not before.waited_s:
            return waited
        longest_s = min(passed_s, max((waited[one] for one in waited.keys() - look.aside), default=0.0))
        self._ticks.append(_Tick(passed_s, longest_s, waited, before, look))
        self._span_s += passed_s
        while self._span_s - self._ticks[0].passed_s >= SPAN_S:
            self._span_s -= self._ticks.popleft().passed_s
        return waited

    def shares(self) -> dict[tuple[int, int], float]:
        """Return the part of the time that each reader waited since it came, 0 to 1."""
        there_s: dict[tuple[int, int], float] = {}
        waited_s: dict[tuple[int, int], float] = {}
        for tick in self._ticks:
            for reader, seconds in tick.by_reader.items():
                there_s[reader] = there_s.get(reader, 0.0) + tick.passed_s
                waited_s[reader] = waited_s.get(reader, 0.0) + min(tick.passed_s, seconds)
        return {reader: waited_s[reader] / seconds for reader, seconds in there_s.items()}

    def sums(self) -> tuple[Lately, str]:
        """Return the sums, and the other ring that got most; empty where there is none."""
        ticks = self._ticks
        if not ticks:
            return Lately(), ""
        span_s = self._span_s
        waited_s = sum(tick.waited_s for tick in ticks)
        first, last = ticks[0].before, ticks[-1].after
        fetched = last.work.fetched.count - first.work.fetched.count
        fetch_ns = max(0, last.work.fetched.total_ns - first.work.fetched.total_ns)
        others = {ring: pairs - first.others.get(ring, 0) for ring, pairs in last.others.items()}
        other = max(others, key=lambda ring: others[ring], default="")
        limits = [tick.after.limit_per_s for tick in ticks if tick.after.limit_per_s]
        worked_s = sum(tick.weight * tick.passed_s * tick.after.workers for tick in ticks)
        return Lately(
            span_ns=int(1e9 * span_s),
            waited_ns=int(1e9 * waited_s),
            held_ns=int(1e9 * sum(tick.waited_s for tick in ticks if tick.after.held)),
            limited_ns=int(1e9 * sum(tick.waited_s for tick in ticks if tick.after.limit_per_s)),
            limit_milli=_milli(sum(limits), len(limits)),
            full_ns=int(1e9 * sum(tick.passed_s for tick in ticks if tick.after.full)),
            busy_milli=_part(_grown(ticks, "busy_ns", weighted=True), worked_s),
            cpu_milli=_milli(_grown(ticks, "cpu_ns", weighted=True), worked_s),
            busy_always_milli=_part(
                _grown(ticks, "busy_ns", weighted=False), sum(tick.passed_s * tick.after.workers for tick in ticks)
            ),
            fetch_ns=fetch_ns // fetched if fetched > 0 else 0,
            requests_milli=_milli(last.requests - first.requests, span_s),
            retries_milli=_milli(last.retries - first.retries, span_s),
            under_way_milli=_milli(sum(tick.waited_s * tick.after.work.under_way for tick in ticks), waited_s),
            window_milli=_milli(sum(tick.waited_s * tick.after.work.window for tick in ticks), waited_s),
            pairs_milli=_milli(last.pairs - first.pairs, span_s),
            other_pairs_milli=_milli(others.get(other, 0), span_s),
            holder_lane=_mostly(tick.after.holder for tick in ticks if tick.after.held),
            missing_lane=_mostly(tick.after.missing for tick in ticks if tick.after.held),
        ), other


def _grown(ticks: deque[_Tick], what: str, *, weighted: bool) -> float:
    """Return by how many seconds a sum of the workers has grown; a worker that ended takes nothing away."""
    grown = 0.0
    for tick in ticks:
        growth: int = getattr(tick.after.work, what) - getattr(tick.before.work, what)
        grown += (tick.weight if weighted else 1.0) * max(0, growth)
    return grown / 1e9


def _milli(part: float, whole: float) -> int:
    return max(0, round(1000 * part / whole)) if whole > 0 else 0


def _part(part: float, whole: float) -> int:
    """Return thousandths, at most all: a worker tells of its time a moment later than it spends it."""
    return min(1000, _milli(part, whole))


def _mostly(numbers: Iterable[int]) -> int:
    ((number, _),) = Counter(numbers).most_common(1) or [(0, 0)]
    return number


class LatePair:
    """Since when the ring stands at a pair that workers have, while later ones are there."""

    def __init__(self) -> None:
        """Nothing was dispatched yet."""
        self._handed_out: deque[tuple[int, float]] = deque()  # (head, when it was seen), ascending
        self._published = -1
        self._since = 0.0

    def look(self, now: float, *, head: int, published: int, behind: int, room: int, in_flight: bool) -> float | None:
        """Return since when workers have the pair number ``published``; None where it is not late.

        Args:
            now: seconds, monotonic.
            head: number of the first pair that was not dispatched.
            published: number of the first pair that is not published.
            behind: pairs after it that are decoded.
            room: pairs from it on that may be decoded now.
            in_flight: a worker has it.
        """
        if not self._handed_out or self._handed_out[-1][0] < head:
            self._handed_out.append((head, now))
        while len(self._handed_out) > 1 and self._handed_out[0][0] <= published:
            self._handed_out.popleft()
        if published != self._published:
            self._published, self._since = published, now
        if not in_flight or now - self._since < STALLED_S or behind < max(1, min(LATE_BEHIND, room // 2)):
            return None
        return self.handed_out_at

    @property
    def handed_out_at(self) -> float:
        """When the pair number ``published`` was seen to be dispatched; seconds, monotonic."""
        return self._handed_out[0][1]

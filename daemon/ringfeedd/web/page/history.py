"""What a ring did in the last quarter of an hour: rates between two looks, and a bounded history of them. Pure.

The counts of `RingStatus` only grow, so every rate is a difference. A ring's history takes the same memory whatever
happens: `History.NBYTES`, and no more readers than `MOST_READERS` have a line of their own.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Final

import numpy as np
import numpy.typing as npt

from ringfeed.cli.report import LaneStatus, RingStatus
from ringfeed.shm.layout import GROUP_BYTES

POINT_S: Final = 5.0
"""Seconds between two points of the history."""

POINTS: Final = 180
"""Points that are kept: 15 minutes."""

LEAST_SHOWN: Final = 24
"""A young history is drawn over this many points: two minutes."""

MOST_READERS: Final = 32
"""Readers of a ring whose waiting is kept; of more, those that were seen last."""

CAUSES: Final = ("timeout", "connection", "body", "429", "5xx", "other")
"""Causes of retries, as in `RingStatus.retries_by_cause`."""

SHORTEST_S: Final = 0.9
"""Two looks that are closer together say nothing of a rate."""

LONGEST_S: Final = 2 * POINT_S
"""Rates of now are taken over no longer time, where there is an earlier look at all."""

Reader = tuple[str, int]
"""A group, and a rank in it."""


@dataclass(frozen=True, slots=True)
class Rates:
    """What happened between two looks at a ring; all by second.

    Attributes:
        delivered: pairs that readers took, once for each group.
        decoded: pairs.
        megabytes: 10^6 compressed bytes.
        requests: of the store, for all rings of the daemon.
        retries: by cause.
        batches: that each lane's reader took.
        waiting: part of the time that each lane's reader waited for batches, 0 to 1.
    """

    delivered: float
    decoded: float
    megabytes: float
    requests: float
    retries: dict[str, float]
    batches: dict[int, float]
    waiting: dict[int, float]

    @property
    def mean_waiting(self) -> float | None:
        """Part of their time that the readers waited, on the mean; None without a reader."""
        return sum(self.waiting.values()) / len(self.waiting) if self.waiting else None


def rates(before: RingStatus, now: RingStatus) -> Rates | None:
    """Return the rates between two looks at a ring; None where they are of two daemons, or of the same moment."""
    seconds = now.uptime_s - before.uptime_s
    if seconds <= 0 or now.daemon_pid != before.daemon_pid or now.decoded_pairs < before.decoded_pairs:
        return None
    former = {(lane.lane, lane.pid, lane.group, lane.rank): lane for lane in before.consumers}
    batches, waiting = {}, {}
    for lane in now.consumers:
        known = former.get((lane.lane, lane.pid, lane.group, lane.rank))
        if known is not None and known.batches > lane.batches:
            known = None  # it has left and attached again meanwhile
        taken = lane.batches - (known.batches if known else 0)
        waited = lane.waited_s - (known.waited_s if known else 0.0)
        batches[lane.lane] = taken / seconds
        waiting[lane.lane] = min(1.0, max(0.0, waited / seconds))
    retries = {
        cause: max(0, count - before.retries_by_cause.get(cause, 0)) / seconds
        for cause, count in now.retries_by_cause.items()
    }
    return Rates(
        delivered=max(0, now.delivered_pairs - before.delivered_pairs) / seconds,
        decoded=(now.decoded_pairs - before.decoded_pairs) / seconds,
        megabytes=max(0, now.downloaded_bytes - before.downloaded_bytes) / seconds / 1e6,
        requests=max(0, now.store.requests - before.store.requests) / seconds,
        retries=retries,
        batches=batches,
        waiting=waiting,
    )


_Line = npt.NDArray[np.float32]


def _line() -> _Line:
    return np.full(POINTS, np.nan, np.float32)


class History:
    """One ring's points, the oldest first; NaN where nothing was measured.

    Attributes:
        times: of the points, seconds since 1970.
        lines: by name: ``delivered``, ``decoded``, ``megabytes``, ``requests``, ``filled``, and the `CAUSES`.
        waiting: by reader: part of its time that it waited.
        number: how many points were taken since the start.
    """

    NAMES: Final = ("delivered", "decoded", "megabytes", "requests", "filled", *CAUSES)
    NBYTES: Final = 8 * POINTS + 4 * POINTS * (len(NAMES) + MOST_READERS) + MOST_READERS * GROUP_BYTES
    """What a ring's points and the names of its readers take."""

    def __init__(self) -> None:
        """Begin without a point."""
        self.times: npt.NDArray[np.float64] = np.full(POINTS, np.nan)
        self.lines: dict[str, _Line] = {name: _line() for name in self.NAMES}
        self.waiting: OrderedDict[Reader, _Line] = OrderedDict()  # those that were seen last at the end
        self.number = 0

    def shown(self) -> slice:
        """The points that there are, though at least `LEAST_SHOWN`."""
        return slice(-min(max(self.number, LEAST_SHOWN), POINTS), None)

    def add(self, unix_s: float, status: RingStatus | None, found: Rates | None) -> None:
        """Take a point.

        Args:
            unix_s: the wall clock, which is shown and nothing more.
            status: None where the ring could not be read.
            found: the rates since the last point; None where there are none.
        """
        self.number += 1
        _push(self.times, unix_s)
        values = {"filled": float(status.filled_slots)} if status else {}
        if found is not None:
            values |= {"delivered": found.delivered, "decoded": found.decoded, "megabytes": found.megabytes}
            values |= {"requests": found.requests, **found.retries}
        for name, line in self.lines.items():
            _push(line, values.get(name, math.nan))
        for line in self.waiting.values():
            _push(line, math.nan)
        if status is not None and found is not None:
            for lane in islice(status.consumers, MOST_READERS):
                line = self._line_of(reader_of(lane))
                line[-1] = np.fmax(line[-1], found.waiting.get(lane.lane, math.nan))
        for reader in [one for one, line in self.waiting.items() if np.isnan(line).all()]:
            del self.waiting[reader]

    def _line_of(self, reader: Reader) -> _Line:
        line = self.waiting.pop(reader, None)
        if line is None:
            while len(self.waiting) >= MOST_READERS:
                self.waiting.popitem(last=False)
            line = _line()
        self.waiting[reader] = line
        return line


def _push(line: npt.NDArray[np.floating], value: float) -> None:
    line[:-1] = line[1:]
    line[-1] = value


class Recorder:
    """Keeps the history of each ring, and the latest looks from which the rates of now come."""

    def __init__(self) -> None:
        """Begin without a ring."""
        self._histories: dict[str, History] = {}
        self._looks: dict[str, deque[RingStatus]] = {}
        self._pointed: dict[str, RingStatus] = {}

    def look(self, statuses: Mapping[str, RingStatus | None]) -> None:
        """Take note of how the rings are now, for the rates of now."""
        for ring, status in statuses.items():
            looks = self._looks.setdefault(ring, deque(maxlen=32))
            if status is None:
                looks.clear()
            elif not looks or status.uptime_s - looks[-1].uptime_s >= SHORTEST_S / 4 or _is_another(looks[-1], status):
                looks.append(status)
        self._forget(statuses)

    def point(self, unix_s: float, statuses: Mapping[str, RingStatus | None]) -> None:
        """Take a point of each ring's history; every `POINT_S`."""
        self.look(statuses)
        for ring, status in statuses.items():
            former = self._pointed.pop(ring, None)
            found = rates(former, status) if former is not None and status is not None else None
            self._histories.setdefault(ring, History()).add(unix_s, status, found)
            if status is not None:
                self._pointed[ring] = status

    def _forget(self, statuses: Mapping[str, object]) -> None:
        for kept in (self._histories, self._looks, self._pointed):
            for ring in [ring for ring in kept if ring not in statuses]:
                del kept[ring]

    def history(self, ring: str) -> History:
        """The ring's history; an empty one where there is none."""
        return self._histories.get(ring) or History()

    def rates(self, ring: str, now: RingStatus) -> Rates | None:
        """The rates of now: since the latest look that is `SHORTEST_S` old; None where there is none."""
        for before in reversed(self._looks.get(ring, ())):
            if now.uptime_s - before.uptime_s >= SHORTEST_S:
                return rates(before, now) if now.uptime_s - before.uptime_s <= LONGEST_S else None
        return None


def _is_another(before: RingStatus, now: RingStatus) -> bool:
    return now.daemon_pid != before.daemon_pid or now.uptime_s < before.uptime_s


def reader_of(lane: LaneStatus) -> Reader:
    """The reader on a lane, as its line of the history is named."""
    return lane.group, lane.rank

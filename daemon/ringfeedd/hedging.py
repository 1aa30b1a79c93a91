"""When a read takes unusually long: whether a second one of the same object may try its luck. Pure."""

from __future__ import annotations

from collections import deque
from typing import Final

SHARE: Final = 0.05
"""Hedges for each request, at most."""

QUANTILE: Final = 0.95
WINDOW_READS: Final = 256
LEAST_READS: Final = 32
"""Reads from which a quantile is worth something; it is taken anew after as many more."""

BURST_HEDGES: Final = 4.0
QUIET_S: Final = 60.0
"""After the store asked for fewer requests, no more of them than needed for this long."""


class Hedging:
    """The times of recent reads, and how many hedges they allow.

    The time is that of the whole read. Images and labels count together: with few large objects among many small
    ones, it is those that are hedged, and the share bounds what that costs.
    """

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=WINDOW_READS)
        self._since_quantile = 0
        self._delay_s: float | None = None
        self._tokens = 0.0
        self._quiet_until = float("-inf")

    def __repr__(self) -> str:
        after = "never" if self._delay_s is None else f"after {1e3 * self._delay_s:.0f} ms"
        return f"Hedging({after}, {self._tokens:.1f} allowed)"

    @property
    def delay_s(self) -> float | None:
        """Seconds after which a read takes unusually long; None while that is not known."""
        return self._delay_s

    def read(self, seconds: float) -> None:
        """A read was answered."""
        self._tokens = min(BURST_HEDGES, self._tokens + SHARE)
        self._seconds.append(seconds)
        self._since_quantile += 1
        if self._since_quantile >= LEAST_READS:
            self._since_quantile = 0
            ordered = sorted(self._seconds)
            self._delay_s = ordered[int(QUANTILE * len(ordered))]

    def rate_limited(self, now: float) -> None:
        """The store answered 429."""
        self._quiet_until = now + QUIET_S

    def allow(self, now: float, free_connections: int) -> bool:
        """Whether a hedge may go out now; it counts as sent."""
        if self._tokens < 1.0 or now < self._quiet_until or free_connections < 2:
            return False
        self._tokens -= 1.0
        return True

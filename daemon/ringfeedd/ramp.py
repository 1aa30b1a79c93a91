"""How many requests a second: begin where the store expects it, and grow no faster than it can follow. Pure.

Google Cloud Storage serves a new bucket, or a new prefix, some 5,000 reads a second, and moves data apart while the
load grows; it asks clients to double no faster than every 20 minutes (https://cloud.google.com/storage/docs/request-rate).
"""

from __future__ import annotations

from typing import Final

START_REQUESTS_PER_S: Final = 5000.0
PERIOD_S: Final = 1200.0
"""After each of these the rate doubles where it was used, and halves where it was not."""

BURST_S: Final = 0.1
"""Requests of so many seconds may go at once: an even spacing would only cost time."""


class Ramp:
    """The rate at which one process may send requests."""

    def __init__(self, start_per_s: float) -> None:
        """Begin.

        Args:
            start_per_s: requests a second at first, and at least; 0 for no limit.
        """
        self.rate_per_s = self._start_per_s = start_per_s
        self._next_at = float("-inf")
        self._period_began: float | None = None
        self._taken = 0

    def __repr__(self) -> str:
        return f"Ramp({self.rate_per_s:g} requests/s)"

    def is_free(self, now: float) -> bool:
        """Whether one more request need not wait."""
        return not self._start_per_s or self._next_at - BURST_S <= now

    def take(self, now: float) -> float:
        """Take the place of one request; seconds that it has to wait, mostly 0."""
        if not self._start_per_s:
            return 0.0
        self._grow(now)
        self._taken += 1
        place = max(self._next_at, now)
        self._next_at = place + 1.0 / self.rate_per_s
        return max(0.0, place - BURST_S - now)

    def _grow(self, now: float) -> None:
        if self._period_began is None:
            self._period_began = now
        periods = int((now - self._period_began) / PERIOD_S)
        if not periods:
            return
        used_per_s = self._taken / (now - self._period_began)
        if used_per_s >= self.rate_per_s / 2:
            self.rate_per_s *= 2
        else:  # a load that went away is forgotten by the store, too
            self.rate_per_s = max(self._start_per_s, self.rate_per_s / 2 ** min(periods, 60))
        self._period_began, self._taken = now, 0

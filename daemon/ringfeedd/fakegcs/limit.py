"""A limit of the rate, as stores have: a bucket of tokens that fills with time."""

from __future__ import annotations

from typing import Final

BURST_S: Final = 0.2
"""A bucket holds the tokens of so many seconds."""


class RateLimit:
    """Lets so many requests a second through."""

    def __init__(self, per_s: float) -> None:
        """Start full."""
        self.per_s = per_s
        self.passed = self.refused = 0
        self._most = max(1.0, per_s * BURST_S)
        self._tokens = self._most
        self._at: float | None = None

    def __repr__(self) -> str:
        return f"RateLimit({self.per_s:g} requests/s, {self.passed} passed, {self.refused} refused)"

    def allows(self, now: float) -> bool:
        """Return True for a request that may pass, and count it. `now` in seconds, monotonic."""
        passed_s = 0.0 if self._at is None else now - self._at
        self._at = now
        self._tokens = min(self._most, self._tokens + passed_s * self.per_s)
        if self._tokens < 1.0:
            self.refused += 1
            return False
        self._tokens -= 1.0
        self.passed += 1
        return True

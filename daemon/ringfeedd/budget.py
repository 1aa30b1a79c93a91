"""How much may be tried again: a budget that successes earn, so that a sick store is not asked ever more. Pure."""

from __future__ import annotations

from typing import Final

BURST_RETRIES: Final = 50.0
"""Retries that can be saved up, and that a fresh budget holds."""

LEAST_RETRIES_PER_S: Final = 5.0
"""Earned by time alone: with a budget of successes only, a store that fails for long would never be asked again."""

LEAST_WAIT_S: Final = 0.01


class RetryBudget:
    """A bucket of retries.

    With `per_success` = 0.5 a store of which many reads fail gets at most half as many retries as reads succeed,
    whatever `max_attempts` says; where nothing is left, retries wait. It binds where more than a third of all requests
    fail: with much less, a store that is only a little sick would bring the ring to a stand.
    """

    def __init__(self, per_success: float, *, burst: float = BURST_RETRIES) -> None:
        """Start full.

        Args:
            per_success: retries that one successful read earns.
            burst: retries that can be saved up.
        """
        self._per_success, self._burst = per_success, burst
        self._level = burst
        self._at: float | None = None

    def __repr__(self) -> str:
        return f"RetryBudget({self._level:.1f}/{self._burst:g} retries)"

    def earn(self) -> None:
        """A read has succeeded."""
        self._level = min(self._burst, self._level + self._per_success)

    def spend(self, now: float) -> bool:
        """Take one retry; False where there is none."""
        if self._at is not None:
            self._level = min(self._burst, self._level + (now - self._at) * LEAST_RETRIES_PER_S)
        self._at = now
        if self._level < 1.0:
            return False
        self._level -= 1.0
        return True

    def wait_s(self) -> float:
        """Seconds after which, at the latest, there is one more; right after `spend` said no."""
        return max(LEAST_WAIT_S, (1.0 - self._level) / LEAST_RETRIES_PER_S)

"""The daemon's clock: seconds in which it turned its loop."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

LONGEST_TURN_S: Final = 1.0
"""What lies beyond it between two looks was a stop (SIGSTOP, Ctrl-Z, a debugger), and does not count."""


class TurnClock:
    """A monotonic clock that stands while the daemon is stopped.

    No process is given up for what it could not report meanwhile: a rank that came back into its place, a worker that
    was stopped together with the daemon. It is to be read at every turn of the loop.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Start where the other one stands.

        Args:
            monotonic: seconds that also pass while the process is stopped.
        """
        self._monotonic = monotonic
        self._read = self._seconds = monotonic()

    def __call__(self) -> float:
        """Seconds, at most `LONGEST_TURN_S` more than at the last call."""
        now = self._monotonic()
        self._seconds += min(now - self._read, LONGEST_TURN_S)
        self._read = now
        return self._seconds

"""When requests that are under way and bring nothing count as a store that does not answer. Pure."""

from __future__ import annotations

from typing import Final

SILENT_S: Final = 5.0
SILENT_MEDIANS: Final = 8.0
"""A store from which nothing comes for so many times what an object usually takes, at least `SILENT_S`, is silent."""

MOST_DOUBLINGS: Final = 10


class Silence:
    """Says whether the store is silent.

    Attributes:
        since: the latest moment at which something came from the store.
        count: silences so far.
    """

    def __init__(self, now: float) -> None:
        """Begin with a store that has just answered, at a time in seconds."""
        self.since = now
        self.count = 0
        self._received = 0

    def __repr__(self) -> str:
        return f"Silence(since {self.since:.1f}, {self.count} so far)"

    def broken(self, now: float) -> None:
        """Take note that a request has ended, or that this process could not see whether one has."""
        self.since = now

    def after_s(self, usual_s: float | None, read_timeout_s: float) -> float:
        """Return after how many seconds without anything the store is silent.

        Args:
            usual_s: what an object takes; None for a store that has not answered yet, which may be a slow one.
            read_timeout_s: at most, for such a store.
        """
        if usual_s is None:
            return min(read_timeout_s, SILENT_S * 2.0 ** min(self.count, MOST_DOUBLINGS))
        return max(SILENT_S, SILENT_MEDIANS * usual_s)

    def lasts(self, now: float, after_s: float, received: int) -> bool:
        """Return whether the store has been silent for so long.

        Args:
            received: bytes that the requests under way have brought; the silence is broken where they have changed.
        """
        if now - self.since < after_s:
            return False
        if received != self._received:
            self._received, self.since = received, now
            return False
        return True

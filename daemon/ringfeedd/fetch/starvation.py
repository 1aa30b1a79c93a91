"""How long a decoder waited for the store. Pure; time comes in as an argument."""

from __future__ import annotations


class StarvationTimer:
    """How long a decoder had nothing to do, though there was room, and all of the window was under way."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._starved_s = 0.0

    def begin(self, now: float) -> None:
        """It has nothing to do, and no more can be asked for; `now` in monotonic seconds."""
        self._since = now

    def end(self, now: float) -> None:
        """It has something to do again."""
        if self._since is not None:
            self._starved_s += now - self._since
            self._since = None

    def look(self, now: float) -> float:
        """Return how long that was since the last look, seconds."""
        if self._since is not None:
            self.end(now)
            self.begin(now)
        starved_s, self._starved_s = self._starved_s, 0.0
        return starved_s

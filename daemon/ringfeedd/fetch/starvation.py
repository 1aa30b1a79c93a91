"""How long a decoder waited for the store. Pure; time comes in as an argument."""

from __future__ import annotations


class StarvationTimer:
    """How long a decoder had nothing to do, though there was room, and all of the window was under way."""

    def __init__(self, now: float) -> None:
        """Begin to count; seconds, monotonic."""
        self._looked = now
        self._since: float | None = None
        self._dry_s = 0.0

    def begin(self, now: float) -> None:
        """It has nothing to do, and no more can be asked for."""
        self._since = now

    def end(self, now: float) -> None:
        """It has something to do again."""
        if self._since is not None:
            self._dry_s += now - self._since
            self._since = None

    def look(self, now: float) -> tuple[float, float]:
        """Seconds since the last look, and the part of them that was dry."""
        if self._since is not None:
            self.end(now)
            self.begin(now)
        passed, dry_s = now - self._looked, self._dry_s
        self._looked, self._dry_s = now, 0.0
        return passed, dry_s / passed if passed else 0.0

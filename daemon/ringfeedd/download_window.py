"""How many pairs a worker downloads at a time: as many more as it takes to hide how far away the store is. Pure.

Pairs on their way hide the store's latency, whatever it is: a worker that decodes 450 pairs a second from a store that
is 100 ms away needs 45 of them, and 180 from one in another continent. So the window grows while the decoder waits for
downloads and every place in the window is taken; and it stays larger only where that brought more pairs: a network that
is full is not helped by more connections.
"""

from __future__ import annotations

from typing import Final

STARVED: Final = 0.1
"""A decoder that waits for more than this part of the time wants a larger window."""

GROWTH: Final = 2
WORTH: Final = 1.1
"""A window that is twice as large must bring at least so many times the pairs."""

HOLD_S: Final = 300.0
"""After growing did not help, until it is tried again: what filled the network may be gone by then."""


class DownloadWindow:
    """One worker's window.

    Attributes:
        size: pairs that may be under way at a time.
    """

    def __init__(self, size: int, most: int) -> None:
        """Begin with ``size`` pairs; never more than ``most`` of them, nor fewer than at the beginning."""
        self.size = size
        self._most = most
        self._before: tuple[int, float] | None = None
        self._settling = False
        self._held_until = float("-inf")

    def __repr__(self) -> str:
        return f"DownloadWindow({self.size} pairs, at most {self._most})"

    def look(self, now: float, *, pairs: float, starved: float) -> None:
        """Decide on the size for the next while; to be called every half second or so.

        Args:
            now: seconds, monotonic.
            pairs: that came since the last look, a second.
            starved: the part of that time that was drought.
        """
        if self._settling:  # what came in this while was asked for with the smaller window
            self._settling = False
            return
        if self._before is not None:
            size, rate = self._before
            self._before = None
            if starved > STARVED and pairs < WORTH * rate:  # else it helped, or less was wanted
                self.size, self._held_until = size, now + HOLD_S
                return
        # Where nothing comes at all, the store is down and not far away.
        if starved > STARVED and pairs and self.size < self._most and now >= self._held_until:
            self._before = self.size, pairs
            self._settling = True
            self.size = min(self._most, GROWTH * self.size)


class Drought:
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

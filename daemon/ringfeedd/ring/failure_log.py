"""Which failed pairs get a line in the log: the first few; the others are counted in a line a minute. Pure."""

from __future__ import annotations

from collections import Counter
from typing import Final

from ringfeed.text import count

LINES: Final = 10
"""Failed pairs of a ring that get a line of their own."""

SUMMARY_S: Final = 60.0
"""Between two summaries."""


class FailureLog:
    """Decides what is said of one ring's failed pairs; moments are seconds of one monotonic clock."""

    def __init__(self, ring: str) -> None:
        """Begin with none."""
        self._ring = ring
        self._lines = 0
        self._causes: Counter[str] = Counter()
        self._since = 0.0

    def __repr__(self) -> str:
        return f"FailureLog({self._lines} lines, {self._causes.total()} counted)"

    def failed(self, pair_id: str, reason: str, cause: str, now: float) -> str | None:
        """Return the line for a pair that failed; None where it is only counted."""
        if self._lines < LINES:
            self._lines += 1
            return f"pair {pair_id!r} failed to load: {reason}"
        if not self._causes:
            self._since = now
        self._causes[cause] += 1
        return None

    def summary(self, now: float, *, end: bool = False) -> str | None:
        """Return a line on the pairs that were only counted, if it is time for one.

        Args:
            end: the ring stops, so it is.
        """
        if not self._causes or not (end or now - self._since >= SUMMARY_S):
            return None
        causes = ", ".join(f"{number:,} {cause}" for cause, number in self._causes.most_common())
        total = count(self._causes.total(), "more pair")
        self._causes.clear()
        return (
            f"{total} failed to load in {now - self._since:.0f} s ({causes}); `ringfeed errors {self._ring}` lists them"
        )

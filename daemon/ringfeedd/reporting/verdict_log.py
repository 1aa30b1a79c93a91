"""When the log says what bounds a ring: when that changes, and a reader has waited for long because of it. Pure."""

from __future__ import annotations

from typing import Final

from ringfeed.health.evidence import Bound, Verdict

WAITED_S: Final = 10.0
"""A reader waits so long, in all, before the log says for what."""

AGAIN_AFTER_S: Final = 300.0
"""Between two lines, at least, of a ring that goes from one cause to the other and back."""


class VerdictLog:
    """The verdicts that are logged of one ring."""

    def __init__(self) -> None:
        """Nothing was said yet."""
        self._by = Bound.STARTING
        self._waited_before = 0.0
        self._told: dict[Bound, float] = {}
        self._last_told: Bound | None = None
        self._since = 0.0

    def look(self, verdict: Verdict, now: float, waited_s: float) -> str | None:
        """Return what to say now, if anything.

        Args:
            now: seconds, monotonic.
            waited_s: seconds that the reader which has waited longest has waited since it attached; less than before
                where that one has gone.
        """
        if verdict.by is not self._by:
            self._by, self._waited_before, self._since = verdict.by, waited_s, now
        self._waited_before = min(self._waited_before, waited_s)
        if verdict.by is Bound.NOTHING and self._last_told is not None and now - self._since >= WAITED_S:
            self._last_told = None
            return verdict.sentence
        if verdict.well or verdict.by is self._last_told:
            return None
        if (
            waited_s - self._waited_before < WAITED_S
            or now - self._told.get(verdict.by, -AGAIN_AFTER_S) < AGAIN_AFTER_S
        ):
            return None
        self.told(verdict, now)
        return verdict.sentence

    def told(self, verdict: Verdict, now: float) -> None:
        """Take note that the log has just named a cause."""
        self._told[verdict.by], self._last_told = now, verdict.by

"""When to say in the log that a reader holds the ring up: after a while, then seldom, and once more when it is over."""

from __future__ import annotations

from typing import Final

from ringfeed.health.stalls import Stall

FIRST_AFTER_S: Final = 10.0
"""A step, a validation or a checkpoint may take that long, and needs no line."""

SOONER_AFTER_S: Final = 5.0
"""What waiting does not fix: ranks that do not read together, a consumer that never says that it reads."""

AGAIN_AFTER_S: Final = 300.0


class HoldUpWatch:
    """Decides whether a hold-up is worth a line. Pure; time is an argument."""

    def __init__(self) -> None:
        """Nothing was said yet."""
        self._said_at: float | None = None
        self._since = 0.0

    def look(self, found: Stall | None, now: float) -> str | None:
        """What to say now, if anything.

        Args:
            found: the reader that stalls the ring at this moment.
            now: seconds, monotonic.
        """
        if found is None or found.waited_s < (FIRST_AFTER_S if found.may_end else SOONER_AFTER_S):
            if self._said_at is None:
                return None
            self._said_at = None
            return f"the ring goes on; it was held up for {now - self._since:.0f} s"
        if self._said_at is None:
            self._since = now - found.waited_s
        elif now - self._said_at < AGAIN_AFTER_S:
            return None
        self._said_at = now
        return found.sentence()

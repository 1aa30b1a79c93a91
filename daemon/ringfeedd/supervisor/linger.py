"""Whether a process needs a daemon whose starter is gone: a reader, or one that keeps it (`ringfeed.daemon.keep`)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from ringfeed.shm import segment
from ringfeed.shm.layout import KEEP_LOCK_BYTE
from ringfeedd.shm.memory import RingMemory

LINGER_S: Final = 3.0
"""For which the daemon goes on without a reader: one that is just about to attach, or to attach again, finds it."""


class Need:
    """Asked again and again from the moment when the starter is gone."""

    def __init__(self) -> None:
        self._seen: float | None = None

    def __repr__(self) -> str:
        return f"Need(last seen at {self._seen})"

    def ended(self, rings: Iterable[RingMemory], now: float) -> bool:
        """Whether no process needs these rings any more. Once that is so, none can come to.

        Args:
            now: seconds, monotonic.
        """
        rings = list(rings)
        if self._seen is None or any(ring.any_lane_lives() for ring in rings):
            self._seen = now
        if now - self._seen < LINGER_S:
            return False
        kept = [ring for ring in rings if not segment.try_lock(ring.lock_fd, KEEP_LOCK_BYTE)]
        if kept:
            for ring in rings:
                segment.unlock(ring.lock_fd, KEEP_LOCK_BYTE)
        return not kept

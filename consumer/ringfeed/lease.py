"""Leases: a consumer's right to read consecutive slots, for as long as an array over them lives."""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any, Final


class Lease:
    """One batch's slots. It ends when every array that holds it is gone, or by `release`, whichever comes first."""

    __slots__ = ("_leases", "_references", "ended", "seq")

    def __init__(self, leases: Leases, seq: int) -> None:
        self.seq = seq
        self.ended = False
        self._leases = leases
        self._references: list[weakref.ref[Any]] = []

    def hold(self, *arrays: Any) -> None:  # noqa: ANN401  # anything that can be referenced weakly
        """Let the lease last for as long as any of ``arrays``; views, slices and tensors made of it keep it alive."""
        _HELD.add(self)
        self._references = [weakref.ref(array, self._drop) for array in arrays]

    def _drop(self, _gone: weakref.ref[Any]) -> None:
        for reference in self._references:
            if reference() is not None:
                return
        self.release()

    def release(self) -> None:
        """End the lease now. What its arrays show may change from here on."""
        if not self.ended:
            self.ended = True
            self._references = []  # they refer to this lease: no cycle is left for the collector
            _HELD.discard(self)
            self._leases.settle()


_HELD: Final[set[Lease]] = set()
"""The leases of living arrays: nothing else need keep them, not even a reader."""


class Leases:
    """All leases of one reader, in the order in which they were taken.

    An array may die in any thread, and in the middle of any line of Python, this file's included: so the end of a lease
    only sets its flag, and whoever gets the lock settles for all.
    """

    def __init__(self, released: Callable[[int], None], *, seq: int) -> None:
        """Start with none.

        Args:
            released: told the number of the first pair that is still leased or not yet taken, whenever it changes.
            seq: that number now.
        """
        self._released = released
        self._open: deque[Lease] = deque()
        self._next_seq = seq
        self._told = seq
        self._lock = threading.Lock()
        self._pid = os.getpid()

    def __repr__(self) -> str:
        return f"Leases({self.count} held, from {self.oldest})"

    @property
    def count(self) -> int:
        """Batches held at this moment."""
        return sum(not lease.ended for lease in list(self._open))

    @property
    def oldest(self) -> int:
        """Number of the first pair that is still leased, or of the next block if none is."""
        return self._told

    def take(self, seq: int, following: int) -> Lease:
        """Lease the block that begins at ``seq``; this reader's next one begins at ``following``."""
        lease = Lease(self, seq)
        self._open.append(lease)
        self._next_seq = following
        return lease

    def skip(self, following: int) -> None:
        """Pass over blocks without reading them; this reader's next one begins at ``following``."""
        self._next_seq = following
        self.settle()

    def close(self) -> None:
        """Tell nothing any more; whoever is telling at this moment finishes first."""
        with self._lock:
            self._released = lambda _seq: None

    def settle(self) -> None:
        """Tell how far everything is released."""
        if os.getpid() != self._pid:
            return  # a forked child's copies of the arrays are not the parent's lease
        while self._lock.acquire(blocking=False):
            try:
                while self._open and self._open[0].ended:
                    self._open.popleft()
                seq = self._open[0].seq if self._open else self._next_seq
                if seq != self._told:
                    self._told = seq
                    self._released(seq)
            finally:
                self._lock.release()
            if not self._unsettled():  # nor has been since, by who did not get the lock
                return

    def _unsettled(self) -> bool:
        try:
            first = self._open[0]
        except IndexError:
            return self._told != self._next_seq
        return first.ended

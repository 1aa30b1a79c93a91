"""Leases: a consumer's right to read consecutive slots, for as long as an array over them lives."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any, Final


class Lease:
    """One batch's slots. It ends when every array that holds it is gone, or by `release`, whichever comes first.

    Attributes:
        ended: the slots are given back.
    """

    __slots__ = ("_before_move", "_leases", "_references", "ended", "seq")

    def __init__(self, leases: Leases, seq: int) -> None:
        self.seq = seq
        self.ended = False
        self._leases = leases
        self._references: list[weakref.ref[Any]] = []
        self._before_move: Callable[[], None] | None = None

    def hold(self, *arrays: Any, before_move: Callable[[], None] | None = None) -> None:  # noqa: ANN401  # weakly referenced
        """Let the lease last for as long as any of ``arrays``; views, slices and tensors made of it keep it alive.

        Args:
            before_move: called before the slots are given back under living arrays.
        """
        _HELD.add(self)
        self._before_move = before_move
        self._references = [weakref.ref(array, self._drop) for array in arrays]

    @property
    def oldest(self) -> int:
        """Number of the first pair that its reader still leases."""
        return self._leases.oldest

    @property
    def held(self) -> bool:
        """Whether arrays hold it. Not yet, while they are being made."""
        return bool(self._references)

    def arrays(self) -> list[Any]:
        """Return the arrays that hold it, None for each that is gone, in the order of `hold`."""
        return [reference() for reference in self._references]

    def move(self) -> None:
        """End the lease though arrays live: they are copies by now, of all pages under them."""
        if not self.ended:
            if self._before_move is not None:
                self._before_move()
            self._end()

    def release(self) -> None:
        """End the lease now. What its arrays show may change from here on."""
        if not self.ended:
            if any(reference() is not None for reference in self._references):
                self._leases.loosen()
            self._end()

    def _drop(self, _gone: weakref.ref[Any]) -> None:
        for reference in self._references:
            if reference() is not None:
                return
        if not self.ended:
            self._end()

    def _end(self) -> None:
        self.ended = True
        self._references = []  # they refer to this lease: no cycle is left for the collector
        self._before_move = None
        _HELD.discard(self)
        self._leases.settle()


_HELD: Final[set[Lease]] = set()
"""The leases of living arrays: nothing else need keep them, not even a reader."""

_TURN_S: Final = 0.0005
"""Between two looks at whether a thread has finished telling."""


def _tell_nothing(_seq: int) -> None:
    """Stand in for what is told of a closed reader's leases."""


class Leases:
    """All leases of one reader, in the order in which they were taken.

    An array may die in any thread, and in the middle of any line of Python, this file's included: so the end of a lease
    only sets its flag, and the thread that gets the lock settles for all.

    Attributes:
        oldest: number of the first pair that is still leased, or of the next block if none is, as it was told.
    """

    def __init__(self, released: Callable[[int], None], *, seq: int, loosen: Callable[[], None] = lambda: None) -> None:
        """Start with none.

        Args:
            released: told the number of the first pair that is still leased or not yet taken, whenever it changes.
            seq: that number now.
            loosen: called before a lease ends whose arrays live and are not copies.
        """
        self._released = released
        self.loosen = loosen
        self._open: deque[Lease] = deque()
        self._next_seq = seq
        self._kept: int | None = None
        self.oldest = seq
        self._turn = [None]  # to tell: empty while a thread has it
        self._teller: int | None = None
        self._pid = os.getpid()

    def __repr__(self) -> str:
        return f"Leases({self.count} held, from {self.oldest})"

    @property
    def count(self) -> int:
        """Batches held at this moment."""
        return sum(not lease.ended for lease in list(self._open))

    def held(self) -> list[Lease]:
        """Return the leases that arrays hold, the oldest first."""
        return [lease for lease in list(self._open) if lease.held]

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

    def keep(self, seq: int | None) -> None:
        """Release nothing from ``seq`` on, though no lease is open; None: no longer."""
        self._kept = seq
        self.settle()

    def close(self, *, blocking: bool = True) -> bool:
        """Tell nothing any more; a thread that is telling at this moment finishes first.

        Args:
            blocking: wait for that. Else return False while a thread is telling, and continue to tell.
        """
        released, self._released = self._released, _tell_nothing
        while not self._turn and self._teller != threading.get_ident():  # else this is a handler in the midst of it
            if not blocking:
                self._released = released
                return False
            time.sleep(_TURN_S)
        return True

    def settle(self) -> None:
        """Tell how far everything is released.

        A signal's handler may raise wherever Python calls or loops. Therefore the turn is taken by a statement after
        which no signal is handled before the `try` that returns it: a turn that was lost would end all telling.
        """
        if os.getpid() != self._pid:
            return  # a forked child's copies of the arrays are not the parent's lease
        while True:
            try:
                del self._turn[0]
            except IndexError:
                return  # the thread that has it looks again afterwards
            try:
                self._teller = threading.get_ident()
                while self._open and self._open[0].ended:
                    self._open.popleft()
                seq, kept = self._open[0].seq if self._open else self._next_seq, self._kept
                if kept is not None and kept < seq:
                    seq = kept
                if seq != self.oldest:
                    self._released(seq)
                    self.oldest = seq  # only now: what was interrupted is told again
            finally:
                self._turn.append(None)
            if not self._unsettled():  # nor has been since, by a thread that did not get the turn
                return

    def _unsettled(self) -> bool:
        try:
            return self._open[0].ended
        except IndexError:
            seq, kept = self._next_seq, self._kept
            return self.oldest != (seq if kept is None or kept > seq else kept)

"""Pairs of several rings that wait for one thing in a worker: one of each ring in turn, in order within a ring."""

from __future__ import annotations

from collections import defaultdict, deque
from typing import Generic, Protocol, TypeVar


class _OfRing(Protocol):
    @property
    def ring(self) -> int: ...


_Item = TypeVar("_Item", bound=_OfRing)


class PairTurns(Generic[_Item]):
    """A queue in which no ring waits for the pairs of another one that came before.

    Without it the first pair of a ring would wait for some hundred pairs of a busier one.
    """

    def __init__(self) -> None:
        self._queues: defaultdict[int, deque[_Item]] = defaultdict(deque)
        self._turns: deque[deque[_Item]] = deque()  # the queues that are not empty

    def __repr__(self) -> str:
        return f"PairTurns({', '.join(f'ring {ring}: {len(queue)}' for ring, queue in self._queues.items())})"

    def __bool__(self) -> bool:
        return len(self._turns) > 0

    def __getitem__(self, index: int) -> _Item:
        """Return the next item; ``index`` is 0. Raises: IndexError: there is none."""
        return self._turns[0][index]

    def of(self, ring: int) -> deque[_Item]:
        """Return the items of a ring, in order; they may be changed, but not their number."""
        return self._queues[ring]

    def append(self, item: _Item) -> None:
        """Add an item behind the others of its ring."""
        queue = self._queues[item.ring]
        if not queue:
            self._turns.append(queue)
        queue.append(item)

    def popleft(self) -> _Item:
        """Take the next item. Raises: IndexError: there is none."""
        turns = self._turns
        queue = turns[0]
        item = queue.popleft()
        if not queue:
            turns.popleft()
        elif turns[-1] is not queue:
            turns.rotate(-1)
        return item

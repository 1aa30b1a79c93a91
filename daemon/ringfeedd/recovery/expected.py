"""The readers of earlier daemons that are still to come: kept while any of them lives, handed over, forgotten."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Final

from ringfeed.shm.descriptor import Descriptor
from ringfeedd.recovery.fdstore import drop, hand_over
from ringfeedd.recovery.predecessor import Predecessor
from ringfeedd.ring.group import PredecessorPlace
from ringfeedd.system.systemd import Notifier

_LOG: Final = logging.getLogger("ringfeedd.ring")


class ExpectedReaders:
    """The readers of one ring that are expected back after a restart."""

    def __init__(self, ring: str, notifier: Notifier) -> None:
        """Begin with none.

        Args:
            notifier: keeps, over a restart, where readers stand that live through it.
        """
        self._ring, self._notifier = ring, notifier
        self._predecessors: list[Predecessor] = []

    def __repr__(self) -> str:
        return f"ExpectedReaders({self._ring!r}, of {len(self)} earlier daemons)"

    def __len__(self) -> int:
        """Return how many earlier daemons have readers that are still to come."""
        return len(self._predecessors)

    def expect(self, predecessors: Iterable[Predecessor], descriptor: Descriptor) -> list[PredecessorPlace]:
        """Return the places that are kept: those of readers for which this ring is the same as theirs.

        The files of the others are removed, so they get an error.
        """
        for one in predecessors:
            if one.serves_the_same(descriptor):
                self._predecessors.append(one)
            else:
                _LOG.warning(
                    "ring %s: %d readers of an earlier daemon read another catalog, seed or order; they get an error",
                    *(self._ring, len(one.places)),
                )
                self._let_go(one)
        return [place for one in self._predecessors for place in one.places]

    def forget_gone(self) -> None:
        """Remove the files of earlier daemons whose readers have all come or gone."""
        for one in [one for one in self._predecessors if not one.lives]:
            self._let_go(one)
            self._predecessors.remove(one)

    def _let_go(self, predecessor: Predecessor) -> None:
        predecessor.forget()
        drop(predecessor.descriptor, self._notifier)

    def hand_over(self) -> None:
        """Let the service manager keep what tells where they stand, for the next daemon."""
        for one in self._predecessors:
            hand_over(one.descriptor, one.control.lock_fd, self._notifier)

    def forget(self) -> None:
        """Remove the files of all earlier daemons."""
        for one in self._predecessors:
            one.forget()

"""One ring's way from a listing to the next: carries out what `Revisions` decides, and tells what became of it."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Final

from ringfeedd.ring.groups import Groups
from ringfeedd.ring.revisions import Revision, Revisions
from ringfeedd.ring.ring import Ring
from ringfeedd.shm.memory import RingMemory

_LOG: Final = logging.getLogger("ringfeedd.ring")


class RingRefresh:
    """The refresh of one ring; `step` lets new pairs come in as soon as they can."""

    def __init__(self, ring: Ring, groups: Groups, revisions: Revisions, memory: RingMemory) -> None:
        self._ring, self._groups, self._revisions, self._memory = ring, groups, revisions, memory
        self._outcome = self._told = ""
        self._listed = False

    def __repr__(self) -> str:
        return f"RingRefresh({self._revisions!r}, {self._outcome!r})"

    def offer(self, revision: Revision) -> bool:
        """Take a new listing; its pairs come in with the first epoch that no group has begun. False: it is refused."""
        try:
            self._outcome = self._revisions.offer(revision, self._groups)
        except ValueError as error:
            self.refuse(str(error))
            return False
        self._listed = True
        return True

    def begin_later(self, epoch: int, revision: Revision) -> None:
        """Let ``revision`` begin with ``epoch``, as an earlier daemon had promised; before the ring is announced."""
        self._revisions.offer(revision, self._groups)
        self._memory.descriptor = replace(self._memory.descriptor, catalogs=self._revisions.after(epoch))
        self._revisions.begin(epoch)

    def refuse(self, reason: str) -> None:
        """Say that a refresh came to nothing."""
        _LOG.error("ring %s: refresh: %s", self._ring.name, reason)
        self._memory.end_refresh(reason, taken=False)

    def step(self) -> bool:
        """Change what is served, if that can be done now; return True if pairs that workers have are not wanted."""
        settled = False
        try:
            settled = self._change()
        except OSError as error:  # nothing has changed yet, and the next turn tries again
            self._outcome = f"the descriptor in /dev/shm could not be written: {error.strerror}; tried again"
        if self._listed or self._outcome != self._told:
            self._tell()
        return settled

    def _change(self) -> bool:
        revisions, memory = self._revisions, self._memory
        if (epoch := revisions.due(self._groups)) is not None:
            memory.announce_catalogs(revisions.after(epoch), self._ring.base)
            self._outcome = revisions.begin(epoch)
            self._groups.change(self._ring)
        if self._groups or len(memory.descriptor.catalogs) == 1:
            return False
        memory.announce_catalogs((revisions.newest.served(0),), self._ring.base)
        self._outcome += "; no group reads, so from the beginning"
        revisions.settle()
        return True

    def _tell(self) -> None:
        _LOG.info("ring %s: refresh: %s", self._ring.name, self._outcome)
        self._told = self._outcome
        if self._listed:
            self._listed = False
            self._memory.end_refresh(self._outcome, taken=True)
        else:
            self._memory.tell_refresh(self._outcome)

    def end_past_change(self) -> bool:
        """Tell readers that a change is over, if it is; to be called before the ring goes to another place.

        That place may lie before the change, from when there is nothing left: a reader that insists on a state of that
        time finds that it cannot have it.

        Returns:
            False if it could not be told.
        """
        if len(self._memory.descriptor.catalogs) == 1 or self._revisions.changing:
            return True
        try:
            self._memory.announce_catalogs((self._revisions.newest.served(0),), self._ring.base)
        except OSError as error:
            name = self._ring.name
            _LOG.error("ring %s: the descriptor in /dev/shm could not be written: %s", name, error.strerror)
            return False
        return True

"""What a reader holds of the ring: leased slots, which move out of the ring where they are in the way.

Arrays in a loop's variables, in a kept traceback or in a list must keep their pixels, and must not keep others from
getting theirs. So a reader that would wait for slots which its own process holds copies these slots, puts the copies
under the living arrays, and gives the slots back; see docs/adr/0007-held-batches.md.
"""

from __future__ import annotations

import contextlib
import os
import weakref

from ringfeed.reader.attachment import Attachment
from ringfeed.reader.lease import Leases
from ringfeed.shm.layout import Leaving


class Holding:
    """The leases of one attachment.

    Attributes:
        leases: in the order in which they were taken.
        moved: batches that have moved out of the ring.
    """

    def __init__(self, attachment: Attachment, *, seq: int) -> None:
        """Begin with no leases.

        Args:
            seq: number of the first pair that will be read.
        """
        self._attachment = attachment
        self._pid = os.getpid()
        self.leases = Leases(attachment.tell_released, seq=seq, loosen=attachment.data.loosen)
        self.moved = 0
        _HOLDINGS.add(self)

    def move_out(self, *, alone: bool) -> None:
        """Give the slots of all batches that arrays hold back; the arrays keep their bytes.

        Args:
            alone: no other thread takes batches of this attachment meanwhile.

        Raises:
            OSError: there is no memory for them.
        """
        held = self.leases.held()
        if held and self._pid == os.getpid():
            self._attachment.data.move_out(held, alone=alone)
            self.moved += len(held)

    def end(self, leaving: Leaving) -> None:
        """Give everything back, the lane too; arrays keep their bytes. No thread may be waiting on the lane.

        Raises:
            OSError: there is no memory for what is held. All the same, everything is given back, so arrays may show
                other pixels from now on.
        """
        try:
            self.move_out(alone=True)
        finally:
            self.leases.close()
            self._attachment.detach(leaving)

    def forget(self) -> None:
        """As `end`, for a reader that nothing refers to any more. May be called in the middle of any line of Python.

        Where there is no memory for what is held, the slots and the lane are given back when the last array is gone.
        """
        if self._pid != os.getpid():
            return
        with contextlib.suppress(OSError):
            self.move_out(alone=True)
            if self.leases.close(blocking=False):
                self._attachment.detach(Leaving.LEAVE)


_HOLDINGS: weakref.WeakSet[Holding] = weakref.WeakSet()


def _before_fork() -> None:
    # A child's arrays hold no slots, so they must not lie in the ring; copies are the child's as well.
    for holding in list(_HOLDINGS):
        with contextlib.suppress(OSError):
            holding.move_out(alone=False)


os.register_at_fork(before=_before_fork)

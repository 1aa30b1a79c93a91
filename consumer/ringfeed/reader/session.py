"""A session: one attachment of a reader, with the words that it writes on its lane and what it holds of the ring."""

from __future__ import annotations

import time
import weakref
from typing import Final, Protocol

from ringfeed.errors import DaemonGoneError, RingHeldError
from ringfeed.health.stalls import ONE_RANK_ALONE, Stall, hold_up
from ringfeed.log import TELL_AFTER_S, warn
from ringfeed.plan import Block
from ringfeed.reader.attachment import Attachment
from ringfeed.reader.holding import Holding
from ringfeed.shm.control import Control
from ringfeed.shm.lane import Request
from ringfeed.shm.layout import Lane, Leaving, State

WARN_AFTER_S: Final = 10.0
"""A reader that has waited this long says in its log what it waits for; and again after as long."""


class Wait:
    """One wait.

    What waiting does not fix, ranks of a group that do not read together, is said after `TELL_AFTER_S`.
    """

    def __init__(self, began_ns: int) -> None:
        """Begin it at a time by CLOCK_MONOTONIC."""
        self._began_ns = began_ns
        self._looks_ns = began_ns + int(TELL_AFTER_S * 1e9)
        self._waited_s = 0.0

    def is_due(self, now_ns: int) -> bool:
        """Return whether it is time to look for the reason."""
        if now_ns < self._looks_ns:
            return False
        self._waited_s = (now_ns - self._began_ns) / 1e9
        after_s = WARN_AFTER_S - self._waited_s if self._waited_s < WARN_AFTER_S else WARN_AFTER_S
        self._looks_ns = now_ns + int(after_s * 1e9)
        return True

    def explain(self, reader: object, block: Block, control: Control) -> str:
        """Return why a block is not there; empty where that is not worth a line yet."""
        found = find_stall(control)
        if self._waited_s < WARN_AFTER_S and (found is None or not found.out_of_step):
            return ""
        waited = f"{reader!r} has waited {self._waited_s:.0f} s for pair {block.seq}"
        if found is not None:
            return f"{waited}: {found.sentence()}."
        return (
            f"{waited}; the ring has published up to {control.published}. `ringfeed status {control.descriptor.ring}` "
            f"shows which reader or rank holds it up, or that the source is slow."
        )


def find_stall(control: Control) -> Stall | None:
    """Return who holds a ring up at this moment; None where no reader waits for another."""
    floor, published = control.word(State.FLOOR), control.published
    return hold_up(control.standings(), floor=floor, published=published, slots=control.geometry.slots)


class WaitingReader(Protocol):
    """The reader of a session, while it waits."""

    def before_slice(self, block: Block) -> None:
        """Make way for the block, as far as it is up to this process; called before the first slice and idle ones."""

    def after_slice(self) -> None:
        """Raise an error if the block is no longer wanted."""

    @property
    def may_complain(self) -> bool:
        """Whether a long wait is worth a line in the trainer's log."""


class Session:
    """One attachment of a reader.

    Attributes:
        attachment: to one generation of the ring.
        page: of the lane.
        holding, leases: of this attachment.
        waited_ns: for batches, by all sessions of the reader.
    """

    def __init__(self, attachment: Attachment, reader: object, *, seq: int, waited_ns: int) -> None:
        """Begin with no leases.

        Args:
            reader: when it is gone, its slots and its lane are given back.
            seq: number of the first pair that will be read.
            waited_ns: by earlier sessions of the reader.
        """
        self.attachment = attachment
        self.page = attachment.page
        self.page[Lane.TAKEN] = self.page[Lane.RELEASED] = seq
        self.holding = Holding(attachment, seq=seq)
        self.leases = self.holding.leases
        self.waited_ns = waited_ns
        # A reader that is simply forgotten reads no more, so what is left of its batches must stall no reader.
        self._forget = weakref.finalize(reader, self.holding.forget)
        self._forget.atexit = False

    def __repr__(self) -> str:
        return f"Session({self.attachment.descriptor.ring!r}, lane {self.attachment.lane}, {self.leases!r})"

    @property
    def floor(self) -> int:
        """Number of the first pair that some group may still read."""
        return self.attachment.control.word(State.FLOOR)

    def is_in_the_way(self, end: int) -> bool:
        """Return whether pairs below ``end`` cannot be published, because of what is held here."""
        return end - self.leases.oldest > self.attachment.geometry.slots

    def pass_to(self, seq: int) -> None:
        """Say that the next block begins at ``seq``, though none was taken."""
        self.page[Lane.TAKEN] = seq
        self.leases.skip(seq)

    def wait_for(self, block: Block, reader: WaitingReader) -> DaemonGoneError | None:
        """Wait until the block is published. Return why it never will be, if its daemon is gone.

        Raises:
            RingHeldError: there is no memory for batches that are held, and the block needs their slots.
        """
        control, bell = self.attachment.control, self.attachment.bell
        if block.next.seq - self.leases.oldest > self.attachment.geometry.slots:
            self._move_out()  # else this round, also another rank's part of it, can never be published
        if control.published >= block.end:
            bell.take()  # one token a batch: on arm64 only a successful wait orders the reads that follow it
            return None
        if self.leases.oldest != block.seq:
            self.leases.settle()  # an interrupt may have come between the end of a lease and telling it
        wait: Wait | None = None
        self.page[Lane.WAITING_SINCE_NS] = began = time.monotonic_ns()
        try:
            reader.before_slice(block)  # not at each token, of which a batch may bring as many as it has pairs
            while True:
                took = bell.wait()
                reader.after_slice()  # another thread, or a signal's handler, may have closed it meanwhile
                if control.published >= block.end:
                    return None
                if took and not bell.flooded:
                    continue
                if (gone := control.gone()) and control.published < block.end:
                    return gone
                wait = wait or Wait(began)
                if (
                    reader.may_complain
                    and wait.is_due(time.monotonic_ns())
                    and (why := wait.explain(reader, block, control))
                ):
                    warn("%s", why)
                reader.before_slice(block)
        finally:
            self.waited_ns += time.monotonic_ns() - began
            self.page[Lane.WAITED_NS] = self.waited_ns
            self.page[Lane.WAITING_SINCE_NS] = 0

    def _move_out(self) -> None:
        """Give the slots of all batches that are held back; their arrays keep their bytes.

        Raises:
            RingHeldError: there is no memory for them.
        """
        try:
            self.holding.move_out(alone=True)
        except OSError as error:
            raise RingHeldError(
                f"This reader holds {self.leases.count} batches (from pair {self.leases.oldest} on) of the "
                f"{self.attachment.geometry.slots} slots of ring {self.attachment.descriptor.ring!r}, so the next one "
                f"can never be published, and they could not be moved out of the ring: {error.strerror}. Drop batches."
            ) from error

    def tell_of_unread_shares(self, request: Request, epoch: int) -> None:
        """Warn at an epoch's end where a rank of the group never came, so that its share was not read."""
        absence, workers = self.page.read_absence(time.monotonic_ns()), request.kin.workers
        ranks = request.world_size // workers if workers else request.world_size
        if absence is None or absence.came or (absence.rank - request.rank) % max(1, ranks) == 0:
            return  # another worker of this rank may come when this one is done
        warn(
            "%s: this process has read its share of epoch %d, 1/%d of it; that rank's share is not read unless it "
            "comes. %s.",
            *(absence.sentence(request.group, request.world_size, workers), epoch, request.world_size, ONE_RANK_ALONE),
        )

    def end(self, leaving: Leaving) -> None:
        """Give the lane back, and all slots; held arrays keep their bytes."""
        self._forget.detach()
        held = self.leases.count
        try:
            self.holding.end(leaving)
        except OSError as error:
            warn(
                "%d batches that are held of ring %r could not be moved out of it, so they may show other pairs from "
                "now on: %s",
                *(held, self.attachment.descriptor.ring, error.strerror),
            )

"""The delivery: what one reader gets of a ring, past refreshes, lost pairs and restarts of the daemon."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Protocol

from ringfeed.errors import DaemonGoneError, SlotOverwrittenError, SupersededError
from ringfeed.log import warn
from ringfeed.plan import Block, Place
from ringfeed.reader.attachment import Attachment
from ringfeed.reader.batch import Batch, read_batch
from ringfeed.reader.place.cursor import Cursor
from ringfeed.reader.place.iteration import superseded
from ringfeed.reader.reconnect import attach_again, attach_elsewhere
from ringfeed.reader.session import Session, WaitingReader
from ringfeed.reader.state import ResumeState, Standing, state_at
from ringfeed.shm.lane import Request
from ringfeed.shm.layout import Lane, Leaving, Start


class Recipient(WaitingReader, Protocol):
    """The reader that gets the batches."""

    def only_looks(self) -> bool:
        """Return whether the iteration whose first batch was taken is a look, though its next batch is requested."""

    def check_open(self) -> None:
        """Raise an error if the reader is closed."""

    def close(self) -> None:
        """Detach."""


class Delivery:
    """What one reader gets of a ring.

    It moves the cursor, writes the words of the present lane, and attaches again where that is needed. It knows neither
    threads nor forks: the reader calls it with its lock held, and is given to the calls that may wait. It is not kept
    here, so that a reader that is forgotten is collected at once.

    Attributes:
        request: what the reader asks the daemon for; the start is that of the first attachment.
        may_miss: pairs may be overwritten before they are read.
        attachment, session: the present ones.
        cursor: where the reader stands.
        batches: delivered so far.
        missed: pairs so far.
    """

    def __init__(self, ring: str, request: Request, *, copy: bool, restart_s: float, state: ResumeState | None) -> None:
        """Attach; the arguments are those of the reader.

        Raises:
            RingfeedError: what `Attachment` raises.
        """
        self.request = request
        self.may_miss = request.may_miss
        self.batches = self.missed = 0
        self._missed_before = self._moved_before = 0
        self._copy = copy or self.may_miss  # what may be overwritten at any moment cannot be lent
        self._restart_s = restart_s
        attachment = Attachment(ring, request, state=state)
        self.cursor = Cursor(attachment.plan, attachment.place, may_join_midway=request.start is not Start.AT)
        self._attach(attachment, waited_ns=0)

    def _attach(self, attachment: Attachment, *, waited_ns: int) -> None:
        self.attachment = attachment
        self.cursor.stand(attachment.plan, attachment.place)
        self.session = Session(attachment, self, seq=self.cursor.block.seq, waited_ns=waited_ns)

    def __repr__(self) -> str:
        return f"Delivery({self.cursor!r}, {self.session!r})"

    @property
    def moved(self) -> int:
        """Batches that have moved out of the ring."""
        return self._moved_before + self.session.holding.moved

    # Batch by batch.

    def take(self, iteration: int, epoch: int, reader: Recipient) -> Batch | None:
        """Return the next batch of ``epoch``; None at its end.

        Raises:
            SupersededError: a later iteration has begun.
            DaemonGoneError: the daemon stopped or died, and none came in time.
            RingHeldError: there is no memory for batches that are held, and the next one needs their slots.
        """
        cursor = self.cursor
        while True:
            if iteration != cursor.iteration:
                raise SupersededError(superseded(self.attachment.descriptor.ring))
            if cursor.look is not None and not reader.only_looks():
                self.forget_look()
            block = cursor.block
            if block.epoch != epoch:
                self.session.tell_of_unread_shares(self.request, epoch)
                return None
            if (gone := self.session.wait_for(block, reader)) is not None:
                self._follow(gone, reader)
            elif self.attachment.outdated and self._refreshed(reader):
                continue  # the epoch may be longer than it was when its first block was planned
            elif self.may_miss and self._lost(block):
                self._miss(reader)
            elif (batch := self._take(block)) is not None:
                return batch

    def _take(self, block: Block) -> Batch | None:
        """Return the batch of a block that is published. None where it was overwritten while it was copied."""
        cursor, session = self.cursor, self.session
        first = cursor.take() and not self.request.skips
        if first:
            session.leases.keep(block.seq)
        following = cursor.block.seq
        lease = session.leases.take(block.seq, following)
        session.page[Lane.TAKEN] = following
        batch: Batch | None = None
        try:
            batch = read_batch(self.attachment, block, lease, copy=self._copy)
        except SlotOverwrittenError:
            if not self.may_miss:
                raise
        except BaseException:  # Ctrl-C, say: no caller has got this batch, so it is the next one still
            cursor.undo()
            session.leases.skip(block.seq)
            lease.release()
            raise
        if first:
            cursor.begin_look()
        # before the lease ends: from then on the loss may be our own doing
        lost = batch is None or (self.may_miss and self._lost(block))
        if self._copy:
            lease.release()
        if batch is None or lost:
            cursor.lose()
            session.leases.keep(None)
            self._note_missed(block.pairs)
            return None
        self.batches += 1
        session.page[Lane.BATCHES] = self.batches
        if self.missed != self._missed_before:
            batch.missed, self._missed_before = self.missed - self._missed_before, self.missed
        return batch

    def _refreshed(self, reader: Recipient) -> bool:
        """Whether the catalog has changed, and the plan with it; to be asked before anything of a block is used."""
        try:
            changes = self.attachment.new_catalogs()
        except DaemonGoneError as gone:
            self._follow(gone, reader)
            return True
        if changes:
            self.cursor.change(self.attachment.plan)
        if changes > 1:
            # Only a reader that no other waits for can have slept over a whole change: where it stood is not known.
            before = self.cursor.place.seq
            self._attach_elsewhere(replace(self.request, start=Start.NOW, at=(0, 0)), reader)
            self._note_missed((self.cursor.place.seq - before) // self.request.world_size)
        return changes > 0

    # Pairs that are missed.

    def _lost(self, block: Block) -> bool:
        """Whether the block's slots may be overwritten by now; to be asked of a reader that may miss pairs."""
        return self.session.floor > block.seq

    def _miss(self, reader: Recipient) -> None:
        """Pass over what is lost."""
        floor = self.session.floor
        if self._refreshed(reader):
            return  # the floor may lie in epochs of which only the new plan knows the length
        missed = self.cursor.pass_over(floor) // self.request.world_size
        self.session.pass_to(self.cursor.block.seq)
        self._note_missed(missed)
        if self.request.yields:
            warn(
                "%r paused for so long that others went on without it: it missed %d pairs, and goes on here.",
                *(reader, missed),
            )

    def _note_missed(self, pairs: int) -> None:
        self.missed += pairs
        self.session.page[Lane.MISSED_PAIRS] = self.missed

    # Where the next iteration begins.

    def begin(self, reader: Recipient) -> tuple[int, int]:
        """Begin an iteration; return its number and its epoch."""
        self.take_back()
        if (following := self.cursor.rest_to_skip) is not None:
            self._skip(following)
        if self.may_miss and self._lost(self.cursor.block):
            self._miss(reader)  # so the iteration is one of pairs that are still there
        return self.cursor.begin()

    def take_back(self) -> None:
        """Let the only batch of an iteration that has been left be the next one again."""
        if self.cursor.take_back():
            self.session.pass_to(self.cursor.block.seq)
            self.attachment.data.loosen()  # the same slots are read again, and its arrays may live and be written into
            self.session.leases.keep(None)

    def forget_look(self) -> None:
        """Let the first batch of the latest iteration be read for good."""
        self.cursor.look = None
        self.session.leases.keep(None)

    def go_to(
        self,
        at: tuple[int, int],
        reader: Recipient,
        state: ResumeState | None = None,
        *,
        strict: bool = True,
    ) -> None:
        """Stand at (epoch, position), which a state may tell the catalog of.

        Args:
            strict: where there is none, insist on the order that was read so far.

        Raises:
            AttachRefusedError: other groups have gone beyond it; the reader is closed.
            DaemonGoneError, DaemonNotRunningError: it is gone, and none came in time; also closed.
        """
        self.take_back()
        if (place := self.cursor.leave_for(at)) is not None:
            self._skip(place)
        else:
            # Where a later epoch begins only the daemon knows: a refresh may be changing the epochs before it.
            self._attach_elsewhere(replace(self.request, start=Start.AT, at=at), reader, state, strict=strict)

    def _skip(self, place: Place) -> None:
        self.cursor.skip(place)
        self.session.pass_to(self.cursor.block.seq)

    def state_of(self, place: Place) -> ResumeState:
        """Return the state of the reader's group at a place."""
        return state_at(
            self.attachment.descriptor,
            epoch=place.epoch,
            position=place.position,
            shape=(self.request.world_size, self.request.batch_size, self.request.drop_last),
        )

    # Attachments that follow each other.

    def _follow(self, gone: DaemonGoneError, reader: Recipient) -> None:
        """Go on at exactly the next pair once a new daemon serves the ring. Batches that are held stay readable.

        Raises:
            DaemonGoneError: none came in time, or the ring was stopped for a reason that a restart does not fix.
            StateMismatchError: the new one serves another order, or other pixels.
        """
        attachment = attach_again(
            *(self.attachment, gone, self.request, Standing.of(self.state_of(self.cursor.place))),
            restart_s=self._restart_s,
            still_wanted=reader.check_open,
        )
        # Until here its lane with the earlier daemon said where it stands, to this one and the next.
        self.end(Leaving.LEAVE)
        self._attach(attachment, waited_ns=self.session.waited_ns)
        warn("%r goes on with the new daemon.", reader)

    def _attach_elsewhere(
        self, request: Request, reader: Recipient, state: ResumeState | None = None, *, strict: bool = True
    ) -> None:
        earlier, here = self.attachment, Standing.of(self.state_of(self.cursor.place))
        self.end(Leaving.LEAVE)
        self.cursor.broken_off = False
        try:
            attachment = attach_elsewhere(
                *(earlier, request, state),
                order_of=here if strict and state is None else None,  # a place of the order that was read so far
                restart_s=self._restart_s,
                still_wanted=reader.check_open,
            )
        except BaseException:
            reader.close()  # its lane is given back, and may be another consumer's by now
            raise
        self._attach(attachment, waited_ns=self.session.waited_ns)

    def come_back(self, reader: Recipient) -> None:
        """Attach again where the others are, after the lane was given back.

        Raises:
            DaemonGoneError, DaemonNotRunningError: the daemon is gone, and none came in time.
            AttachRefusedError: the daemon refuses.
        """
        cursor, start = self.cursor, self.request.start
        before, broken_off = cursor.place, cursor.broken_off
        begins = start if start in (Start.EPOCH, Start.NOW) else Start.AUTO
        request = replace(self.request, start=Start.NOW if self.may_miss else begins, at=(0, 0))
        self._attach_elsewhere(request, reader)
        cursor.join(broken_off=broken_off and cursor.place.epoch == before.epoch)
        if self.may_miss:
            self._note_missed(max(0, cursor.place.seq - before.seq) // self.request.world_size)

    def move_out_for(self, end: int) -> bool:
        """Move what is held out of the ring if it keeps pairs below ``end`` from being published.

        Returns:
            Whether the reader keeps them from it even so, by where it stands.
        """
        if self.request.skips or not self.session.is_in_the_way(end):
            return False
        if self.cursor.look is not None:
            self.forget_look()
        with contextlib.suppress(OSError):
            self.session.holding.move_out(alone=False)
        return self.session.is_in_the_way(end)

    def end(self, leaving: Leaving) -> None:
        """Give the lane back, and all slots; held arrays keep their bytes."""
        self.cursor.look = None
        holding = self.session.holding
        self.session.end(leaving)
        self._moved_before, holding.moved = self._moved_before + holding.moved, 0

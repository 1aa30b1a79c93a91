"""The reader: one consumer's pass over a ring, batch by batch."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, NoReturn, Self

from ringfeed.errors import (
    DaemonGoneError,
    ReaderClosedError,
    SlotOverwrittenError,
    SupersededError,
)
from ringfeed.log import warn
from ringfeed.plan import Block, Place
from ringfeed.reader.attachment import Attachment
from ringfeed.reader.batch import Batch
from ringfeed.reader.place.cursor import Cursor, Turn
from ringfeed.reader.place.iteration import EpochIterator, LoaderIteration, superseded
from ringfeed.reader.reconnect import RESTART_S, attach_again, attach_elsewhere
from ringfeed.reader.registry import let_make_way, register, unregister
from ringfeed.reader.rows import read_batch
from ringfeed.reader.session import Session
from ringfeed.reader.state import ResumeState, Standing, state_at
from ringfeed.shm.descriptor import Descriptor
from ringfeed.shm.lane import Request
from ringfeed.shm.layout import Lane, Leaving, Start


class Reader:
    """Reads its share of a ring in place. Made by `ringfeed.attach`.

    Iterating over it gives one epoch's batches; the next iteration gives the next epoch. Threads may share a reader:
    each batch of an iterator that they share goes to one of them, and `close` ends their waits. A forked child cannot
    use its parent's reader.

    Attributes:
        ring, group, rank, world_size, batch_size: as attached.
        joined_at: (epoch, position) at which the group's round stood when this reader joined it.
    """

    def __init__(
        self,
        ring: str,
        request: Request,
        *,
        copy: bool,
        restart_s: float = RESTART_S,
        state: ResumeState | None = None,
    ) -> None:
        self.ring = ring
        self.group = request.group
        self.rank = request.rank
        self.world_size = request.world_size
        self.batch_size = request.batch_size
        self._request = request
        self._restart_s = restart_s
        self._may_miss = request.may_miss
        self._copy = copy or self._may_miss  # what may be overwritten at any moment cannot be lent
        self._missed = self._missed_before = self._moved_before = 0
        attachment = Attachment(ring, request, state=state)
        self._cursor = Cursor(attachment.plan, attachment.place, may_join_midway=request.start is not Start.AT)
        self._attach(attachment, waited_ns=0)
        place = self._cursor.place
        self.joined_at = (place.epoch, place.position)
        self._batches = 0
        self._read_ahead_for: LoaderIteration | None = None
        self._lock = threading.RLock()  # a signal's handler may want the state in the middle of a wait
        self._pid = os.getpid()
        self._closed = False
        self._stood_in_the_way = False
        self._thread = threading.get_ident()
        register(self)

    def _attach(self, attachment: Attachment, *, waited_ns: int) -> None:
        self._attachment = attachment
        self._cursor.stand(attachment.plan, attachment.place)
        self._session = Session(attachment, self, seq=self._cursor.block.seq, waited_ns=waited_ns)
        self._leases = self._session.leases

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"epoch {self.epoch}, position {self._cursor.place.position}"
        return (
            f"Reader({self.ring!r}, group {self.group!r}, rank {self.rank}/{self.world_size}, "
            f"batch size {self.batch_size}, {state}, {self._leases.count} batches held)"
        )

    def __reduce__(self) -> NoReturn:
        """Refuse to be copied.

        Raises:
            TypeError: always.
        """
        raise TypeError(
            f"A reader, or an iteration over it, can be neither copied nor sent to another process: this one reads "
            f"ring {self.ring!r} in process {self._pid}. Attach there, or send a RingDataset, which does so by itself."
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def descriptor(self) -> Descriptor:
        """What the ring says of itself."""
        return self._attachment.descriptor

    @property
    def epoch(self) -> int:
        """The epoch of the next batch."""
        return self._cursor.epoch

    def __len__(self) -> int:
        """Batches in the whole of the next batch's epoch; another number once a refresh has brought new pairs.

        Of the epoch that it joined in the middle, those from there on.
        """
        return self._cursor.steps

    @property
    def joined_midway(self) -> bool:
        """Whether its first epoch is a part of one, since others were reading."""
        return self._cursor.joined is not None

    def __iter__(self) -> Iterator[Batch]:
        """One epoch; after an iteration that was broken off, the next one.

        An iteration that is left after its first batch was a look at it: the next one begins with the same batch.

        Raises:
            DaemonGoneError: the daemon stopped or died.
            RingHeldError: there is no memory for batches that are held, and the next one needs their slots.
            ReaderClosedError: the reader is closed, or another process's.
            SupersededError: a later iteration has begun, or the reader was sent elsewhere, before this one's end.
        """
        with self._lock:
            self._come_back()
            self._check_open()
            self._take_back()
            if (following := self._cursor.rest_to_skip) is not None:
                self._skip(following)
            if self._may_miss and self._lost(self._cursor.block):
                self._miss()  # so the iteration is one of pairs that are still there
            iteration, epoch = self._cursor.begin()
        return EpochIterator(self, iteration, epoch)

    def _take_back(self) -> None:
        """Let the only batch of an iteration that has been left be the next one again."""
        if self._cursor.take_back():
            self._session.pass_to(self._cursor.block.seq)
            self._attachment.data.loosen()  # the same slots are read again, and its arrays may live and be written into
            self._leases.keep(None)

    def read_ahead_for(self, iteration: LoaderIteration | None) -> None:
        """Read for a loader's iteration, of which the loader knows how far it has come."""
        self._read_ahead_for = iteration

    def _only_looks(self) -> bool:
        """Whether the iteration whose first batch was taken is a look, though its next batch is asked for."""
        return self._read_ahead_for is not None and self._read_ahead_for.is_look()

    def _forget_look(self) -> None:
        self._cursor.look = None
        self._leases.keep(None)

    def take(self, iteration: int, epoch: int) -> Batch | None:
        """The next batch of ``epoch``; None at its end.

        Raises:
            SupersededError: a later iteration has begun.
        """
        cursor = self._cursor
        with self._lock:
            if self._may_miss:
                self._come_back()
            self._check_open()
            self._thread = threading.get_ident()
            while True:
                if iteration != cursor.iteration:
                    raise SupersededError(superseded(self.ring))
                if cursor.look is not None and not self._only_looks():
                    self._forget_look()
                block = cursor.block
                if block.epoch != epoch:
                    self._session.tell_of_unread_shares(self._request, epoch)
                    return None
                if (gone := self._session.wait_for(block, self)) is not None:
                    self._attach_to_the_next_daemon(gone)
                elif self._refreshed():
                    continue  # the epoch may be longer than it was when its first block was planned
                elif self._may_miss and self._lost(block):
                    self._miss()
                elif (batch := self._take(block)) is not None:
                    return batch

    def _take(self, block: Block) -> Batch | None:
        """The batch of a block that is published. None where it was overwritten while it was copied."""
        cursor = self._cursor
        before = cursor.take()
        first = before.first and not self._request.skips
        if first:
            self._leases.keep(block.seq)
        lease = self._leases.take(block.seq, cursor.block.seq)
        self._session.page[Lane.TAKEN] = cursor.block.seq
        batch: Batch | None = None
        try:
            batch = read_batch(self._attachment, block, lease, copy=self._copy)
        except SlotOverwrittenError:
            if not self._may_miss:
                raise
        except BaseException:  # Ctrl-C, say: no caller has got this batch, so it is the next one still
            cursor.undo(before)
            self._leases.skip(block.seq)
            lease.release()
            raise
        if first:
            cursor.look = before.place
        # before the lease ends: from then on the loss may be our own doing
        lost = batch is None or (self._may_miss and self._lost(block))
        if self._copy:
            lease.release()
        if batch is None or lost:
            cursor.lose(before)
            self._leases.keep(None)
            self._note_missed(block.count)
            return None
        self._batches += 1
        self._session.page[Lane.BATCHES] = self._batches
        batch.missed, self._missed_before = self._missed - self._missed_before, self._missed
        return batch

    def _refreshed(self) -> bool:
        """Whether the catalog has changed, and the plan with it; to be asked before anything of a block is believed."""
        try:
            changes = self._attachment.new_catalogs()
        except DaemonGoneError as gone:
            self._attach_to_the_next_daemon(gone)
            return True
        if changes:
            self._cursor.change(self._attachment.plan)
        if changes > 1:
            # Only a reader that no other waits for can have slept over a whole change: where it stood is not known.
            before = self._cursor.place.seq
            self._reattach(replace(self._request, start=Start.NOW, at=(0, 0)))
            self._note_missed((self._cursor.place.seq - before) // self.world_size)
        return changes > 0

    def _lost(self, block: Block) -> bool:
        """Whether the block's slots may be overwritten by now; to be asked of a reader that may miss pairs."""
        return self._session.floor > block.seq

    def _miss(self) -> None:
        """Pass over what is lost."""
        floor = self._session.floor
        if self._refreshed():
            return  # the floor may lie in epochs of which only the new plan knows the length
        missed = self._cursor.pass_over(floor) // self.world_size
        self._session.pass_to(self._cursor.block.seq)
        self._note_missed(missed)
        if self._request.yields:
            warn(
                "%r paused for so long that others went on without it: it missed %d pairs, and goes on here.",
                *(self, missed),
            )

    def _note_missed(self, pairs: int) -> None:
        self._missed += pairs
        self._session.page[Lane.MISSED_PAIRS] = self._missed

    def _skip(self, place: Place) -> None:
        self._cursor.skip(place)
        self._session.pass_to(self._cursor.block.seq)

    def before_slice(self, block: Block) -> None:
        """Make way for a block that is waited for."""
        let_make_way(self, block.end)

    def after_slice(self) -> None:
        """Go on waiting only if that is wanted, and keep what the iteration began with only as long as it is a look.

        Raises:
            ReaderClosedError: another thread, or a signal's handler, has closed it.
            SupersededError: the loader's iteration has ended.
        """
        self._check_open()
        if (iteration := self._read_ahead_for) is None:
            return
        if iteration.has_ended():
            raise SupersededError(superseded(self.ring))
        if self._cursor.look is not None and not iteration.is_look():
            self._forget_look()

    @property
    def may_complain(self) -> bool:
        """Whether a long wait is worth a line: one for the slots of a look is the trainer's pause."""
        return self._cursor.look is None

    # What it holds.

    def make_way(self, end: int) -> bool:
        """Do not keep pairs below ``end`` from being published: another reader of this process waits for them.

        What this one holds moves out of the ring. If it stands in the way itself, and the thread that waits is the one
        that reads from it, or that thread is gone, it would never read on, so it is closed until its next iteration
        begins, or, if it may miss pairs, until its next batch is asked for. Returns whether it is.
        """
        if self._request.skips or not self._session.is_in_the_way(end):
            return False
        if self._cursor.look is not None:
            self._forget_look()
        with contextlib.suppress(OSError):
            self._session.holding.move_out(alone=False)
        alive = {thread.ident for thread in threading.enumerate()} - {threading.get_ident()}
        if not self._session.is_in_the_way(end) or self._thread in alive or not self._lock.acquire(blocking=False):
            return False
        try:
            self.close()
            self._stood_in_the_way = True
        finally:
            self._lock.release()
        return True

    def _come_back(self) -> None:
        """Attach again if it was closed to make way for another reader of its thread.

        Raises:
            DaemonGoneError, DaemonNotRunningError: the daemon is gone, and none came within ``restart_s``.
            AttachRefusedError: the daemon refuses.
        """
        if not self._stood_in_the_way or os.getpid() != self._pid:
            return
        self._closed = self._stood_in_the_way = False
        before, broken_off, request = self._cursor.place, self._cursor.broken_off, self._request
        begins = request.start if request.start in (Start.EPOCH, Start.NOW) else Start.AUTO
        self._reattach(replace(request, start=Start.NOW if self._may_miss else begins, at=(0, 0)))
        register(self)
        self._cursor.join(broken_off=broken_off and self._cursor.place.epoch == before.epoch)
        if self._may_miss:
            self._note_missed(max(0, self._cursor.place.seq - before.seq) // self.world_size)
        warn("%r attached again, where the others are: it had made way for another reader of its thread.", self)

    @property
    def pass_of(self) -> tuple[str, str]:
        """The generation of its ring, and its group."""
        return self.descriptor.generation, self.group

    def renew_lock(self) -> None:
        """Forget that a thread is in it: this is a forked child, which has only one thread."""
        self._lock = threading.RLock()

    def _attach_to_the_next_daemon(self, gone: DaemonGoneError) -> None:
        """Go on at exactly the next pair once a new daemon serves the ring. Batches that are held stay readable.

        Raises:
            DaemonGoneError: none came in time, or the ring was stopped for a reason that a restart does not fix.
            StateMismatchError: the new one serves another order, or other pixels.
        """
        standing = Standing.of(self._state())
        attachment = attach_again(
            *(self._attachment, gone, self._request, standing),
            restart_s=self._restart_s,
            still_wanted=self._check_open,
        )
        # Until here its lane with the earlier daemon said where it stands, to this one and the next.
        self._give_back(Leaving.LEAVE)
        self._attach(attachment, waited_ns=self._session.waited_ns)
        warn("%r goes on with the new daemon.", self)

    # Where it stands.

    def _state(self) -> ResumeState:
        return self._state_of(self._cursor.place)

    def _state_of(self, place: Place) -> ResumeState:
        request = self._request
        return state_at(
            self.descriptor,
            epoch=place.epoch,
            position=place.position,
            shape=(request.world_size, request.batch_size, request.drop_last),
        )

    def state_dict(self) -> dict[str, Any]:
        """Where the group stands once all of its ranks have taken what this one has; see `ringfeed.reader.state`.

        Counts the batches that were delivered, not what the daemon has prefetched. The same on every rank that has
        taken as many steps.
        """
        with self._lock:
            return self._state_of(self._cursor.state_place).to_dict()

    def looked_at(self) -> dict[str, Any] | None:
        """Return where the next iteration begins if the last one was a look at its first batch; else None."""
        with self._lock:
            look = self._cursor.look
            return None if look is None else self._state_of(look).to_dict()

    def with_states(self, turn: range, world_size: int) -> Iterator[tuple[Batch, dict[str, Any]]]:
        """One epoch, each batch with the state once all ranks of its turn, and before, have taken theirs of the round.

        For ranks that take turns, as a DataLoader's workers do: what their batches, put in turn, have used up of the
        order is a run of it, also in the middle of a round. A turn in which no rank has a pair of its own is left out.

        Args:
            turn: the ranks whose turn it is together with this one.
            world_size: for the state; the ranks that do not take turns.
        """
        shared = Turn(self._cursor.plan, turn)
        shape = (world_size, self.batch_size, self._request.drop_last)
        batches = iter(self)
        while True:
            before = self._cursor.place
            batch = next(batches, None)
            if batch is None:
                return
            if (place := shared.stands_after(before)) is not None:
                state = state_at(self.descriptor, epoch=place.epoch, position=place.position, shape=shape)
                yield batch, state.to_dict()
            del batch

    def load_state_dict(self, state: Mapping[str, Any], *, strict: bool = True) -> None:
        """Go on where a state stands; the next iteration is the rest of that epoch.

        Every rank of the group has to load the same state.

        Raises:
            StateMismatchError: the state is of another catalog, seed or order, and ``strict``.
            AttachRefusedError: other groups have gone beyond it; the reader is closed.
            DaemonGoneError, DaemonNotRunningError: it is gone, and none came within ``restart_s``; also closed.
        """
        with self._lock:
            self._come_back()
            self._check_open()
            loaded = ResumeState.from_dict(state)
            self._go_to(loaded.place(self.descriptor, strict=strict), loaded if strict else None, strict=strict)

    def set_epoch(self, epoch: int) -> None:
        """Let the next iteration be ``epoch``, as a DistributedSampler does; what it is anyhow needs no call.

        Does nothing in the middle of an epoch that a state was loaded for. Where less than a round is left of that
        epoch and is dropped, the next iteration gives nothing.

        Raises:
            AttachRefusedError: other groups have gone beyond it; the reader is closed.
            DaemonGoneError, DaemonNotRunningError: it is gone, and none came within ``restart_s``; also closed.
        """
        with self._lock:
            self._come_back()
            self._check_open()
            self._take_back()
            if (at := self._cursor.choose(epoch)) is not None:
                self._go_to(at)

    def _go_to(self, at: tuple[int, int], state: ResumeState | None = None, *, strict: bool = True) -> None:
        """Stand at (epoch, position), which a state may tell the catalog of.

        Args:
            strict: where there is none, insist on the order that was read so far.
        """
        self._take_back()
        if (place := self._cursor.leave_for(at)) is not None:
            self._skip(place)
        else:
            # Where a later epoch begins only the daemon knows: a refresh may be changing the epochs before it.
            self._reattach(replace(self._request, start=Start.AT, at=at), state, strict=strict)

    def _reattach(self, request: Request, state: ResumeState | None = None, *, strict: bool = True) -> None:
        earlier, here = self._attachment, Standing.of(self._state())
        self._give_back(Leaving.LEAVE)
        self._cursor.broken_off = False
        try:
            attachment = attach_elsewhere(
                *(earlier, request, state),
                order_of=here if strict and state is None else None,  # a place of the order that was read so far
                restart_s=self._restart_s,
                still_wanted=self._check_open,
            )
        except BaseException:
            self.close()  # its lane is given back, and may be another consumer's by now
            raise
        self._attach(attachment, waited_ns=self._session.waited_ns)

    def statistics(self) -> dict[str, Any]:
        """Return the batches taken, held now and moved out of the ring, the seconds waited and the pairs missed."""
        return {
            "batches": self._batches,
            "waited_s": self._session.waited_ns / 1e9,
            "held_batches": self._leases.count,
            "moved_batches": self._moved_before + self._session.holding.moved,
            "missed_pairs": self._missed,
        }

    @property
    def closed(self) -> bool:
        """Whether it is closed; a forked child finds what was so at the fork."""
        return self._closed and not (self._stood_in_the_way and self._may_miss)

    def close(self, *, keep_place: bool = False, take_back: bool = False) -> None:
        """Detach. Batches that are still held stay readable, as copies.

        Args:
            keep_place: the group's place is kept for a while, for a reader of this process that comes back as the same
                group and rank, for this rank while others of its group are there, and for a state.
            take_back: the place is the one where the iteration began, if it is a look.
        """
        unregister(self)
        self._stood_in_the_way = False
        if self._closed or os.getpid() != self._pid:
            return
        self._closed = True  # a thread that waits for a batch sees it within a slice, and lets the lock go
        with self._lock:
            if take_back:
                self._take_back()
            self._give_back(Leaving.KEEP_PLACE if keep_place else Leaving.LEAVE)

    def _give_back(self, leaving: Leaving) -> None:
        """Give the lane back, and all slots; held arrays keep their bytes."""
        self._cursor.look = None
        holding = self._session.holding
        self._session.end(leaving)
        self._moved_before, holding.moved = self._moved_before + holding.moved, 0

    def _check_open(self) -> None:
        if os.getpid() != self._pid:
            raise ReaderClosedError(
                f"This reader of ring {self.ring!r} was opened by process {self._pid}, and this is its fork "
                f"{os.getpid()}; attach in the process that reads (a RingDataset does so by itself)."
            )
        if self._closed:
            if self._stood_in_the_way:
                raise ReaderClosedError(
                    f"This reader of ring {self.ring!r} was closed, because another reader in the same thread had to "
                    f"wait for it. Begin a new iteration, and let the readers of a thread take turns."
                )
            raise ReaderClosedError(f"This reader of ring {self.ring!r} is closed; attach again.")

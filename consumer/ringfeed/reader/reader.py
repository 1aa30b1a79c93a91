"""The reader: one consumer's pass over a ring, batch by batch."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NoReturn, Protocol, Self

from ringfeed.errors import (
    DaemonGoneError,
    DaemonNotRunningError,
    OtherVersionError,
    ReaderClosedError,
    RingHeldError,
    SlotOverwrittenError,
    SupersededError,
)
from ringfeed.health.stalls import ONE_RANK_ALONE
from ringfeed.log import warn
from ringfeed.plan import Block, Place
from ringfeed.reader.attachment import Attachment
from ringfeed.reader.batch import Batch
from ringfeed.reader.holding import Holding
from ringfeed.reader.reconnect import RESTART_S, attach_to_the_next
from ringfeed.reader.rows import read_batch
from ringfeed.reader.state import ResumeState, Standing, state_at
from ringfeed.reader.waits import Wait
from ringfeed.shm.descriptor import Descriptor, read_descriptor
from ringfeed.shm.lane import Request
from ringfeed.shm.layout import Lane, Leaving, RingState, Start, State


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
        self._take_attachment(Attachment(ring, request, state=state))
        self.joined_at = (self._place.epoch, self._place.position)
        midway = request.start is not Start.AT and self._plan.block(self._place).position >= self._plan.round_pairs
        self._joined_midway = self._place if midway else None
        self._batches = 0
        self._waited_ns = 0
        self._iteration = 0
        self._broken_off = False
        self._next_epoch_chosen = False
        self._ended_epoch: int | None = None
        self._first = False  # the next batch is an iteration's first
        self._look: Place | None = None  # where that one's round began, as long as the iteration is a look
        self._read_ahead_for: LoaderIteration | None = None
        self._lock = threading.RLock()  # a signal's handler may want the state in the middle of a wait
        self._pid = os.getpid()
        self._closed = False
        self._stood_in_the_way = False
        self._thread = threading.get_ident()
        _OPEN.add(self)

    def _take_attachment(self, attachment: Attachment) -> None:
        self._attachment = attachment
        self._control = attachment.control
        self._page = attachment.page
        self._plan = attachment.plan
        self._place: Place = attachment.place
        block = self._plan.block(self._place)
        self._laid_out = (self._plan, self._place, block)
        first = block.seq
        self._page[Lane.TAKEN] = self._page[Lane.RELEASED] = first
        self._holding = Holding(attachment, seq=first)
        self._leases = self._holding.leases
        # A reader that is simply forgotten reads no more, so what is left of its batches must hold nobody up.
        self._forget = weakref.finalize(self, self._holding.forget)
        self._forget.atexit = False

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"epoch {self.epoch}, position {self._place.position}"
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
        return self._plan.block(self._place).epoch

    def __len__(self) -> int:
        """Batches in the whole of the next batch's epoch; another number once a refresh has brought new pairs.

        Of the epoch that it joined in the middle, those from there on.
        """
        epoch, joined = self.epoch, self._joined_midway
        return self._plan.steps_left(epoch, joined.position if joined and joined.epoch == epoch else 0)

    @property
    def joined_midway(self) -> bool:
        """Whether its first epoch is a part of one, since others were reading."""
        return self._joined_midway is not None

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
            self._check_open()
            self._take_back()
            if self._broken_off:
                self._skip(self._plan.epoch_start(self._place))
            if self._may_miss and self._lost(self._block(self._place)):
                self._miss()  # so the iteration is one of pairs that are still there
            self._iteration += 1
            ended, self._ended_epoch = self._ended_epoch, None
            iteration, epoch, self._first = self._iteration, self.epoch if ended is None else ended, True
        return _EpochIterator(self, iteration, epoch)

    def _take_back(self) -> None:
        """Let the only batch of an iteration that has been left be the next one again."""
        if self._look is not None:
            self._place, self._broken_off = self._look, False
            self._page[Lane.TAKEN] = seq = self._plan.block(self._place).seq
            self._leases.skip(seq)
            self._attachment.data.loosen()  # the same slots are read again, and its arrays may live and be written into
            self._forget_look()

    def read_ahead_for(self, iteration: LoaderIteration | None) -> None:
        """Read for a loader's iteration, of which the loader knows how far it has come."""
        self._read_ahead_for = iteration

    def _only_looks(self) -> bool:
        """Whether the iteration whose first batch was taken is a look, though its next batch is asked for."""
        return self._read_ahead_for is not None and self._read_ahead_for.is_look()

    def _forget_look(self) -> None:
        self._look = None
        self._leases.keep(None)

    def take(self, iteration: int, epoch: int) -> Batch | None:
        """The next batch of ``epoch``; None at its end.

        Raises:
            SupersededError: a later iteration has begun.
        """
        with self._lock:
            self._check_open()
            self._thread = threading.get_ident()
            while True:
                if iteration != self._iteration:
                    raise SupersededError(superseded(self.ring))
                if self._look is not None and not self._only_looks():
                    self._forget_look()
                block = self._block(self._place)
                if block.epoch != epoch:
                    self._tell_of_unread_shares(epoch)
                    return None
                if (gone := self._wait_for(block)) is not None:
                    self._attach_to_the_next_daemon(gone)
                elif self._refreshed():
                    continue  # the epoch may be longer than it was when its first block was laid out
                elif self._may_miss and self._lost(block):
                    self._miss()
                elif (batch := self._take(block)) is not None:
                    return batch

    def _block(self, place: Place) -> Block:
        """`Plan.block`. What follows one batch is the next one, so it is mostly known already."""
        plan, known, block = self._laid_out
        if plan is not self._plan or known is not place:
            block = self._plan.block(place)
            self._laid_out = (self._plan, place, block)
        return block

    def _take(self, block: Block) -> Batch | None:
        """The batch of a block that is published. None where it was overwritten while it was copied."""
        before, broken_off = self._place, self._broken_off
        self._place, self._next_epoch_chosen = block.next, False
        following = self._block(block.next)
        self._broken_off = following.epoch == block.epoch
        first, self._first = self._first and not self._request.skips, False
        if first:
            self._leases.keep(block.seq)
        lease = self._leases.take(block.seq, following.seq)
        self._page[Lane.TAKEN] = following.seq
        batch: Batch | None = None
        try:
            batch = read_batch(self._attachment, block, lease, copy=self._copy)
        except SlotOverwrittenError:
            if not self._may_miss:
                raise
        except BaseException:  # Ctrl-C, say: nobody has got this batch, so it is the next one still
            self._place, self._broken_off, self._first = before, broken_off, first
            self._leases.skip(block.seq)
            lease.release()
            raise
        if first:
            self._look = before
        # before the lease ends: from then on the loss may be our own doing
        lost = batch is None or (self._may_miss and self._lost(block))
        if self._copy:
            lease.release()
        if batch is None or lost:
            self._first = first
            self._forget_look()
            self._note_missed(block.count)
            return None
        self._batches += 1
        self._page[Lane.BATCHES] = self._batches
        batch.missed, self._missed_before = self._missed - self._missed_before, self._missed
        return batch

    def _refreshed(self) -> bool:
        """Whether the catalog has changed, and the plan with it; to be asked before anything of a block is believed."""
        try:
            changes = self._attachment.new_catalogs()
        except DaemonGoneError as gone:
            self._attach_to_the_next_daemon(gone)
            return True
        self._plan = self._attachment.plan
        if changes > 1:
            # Only a reader that nobody waits for can have slept over a whole change: where it stood is not known.
            before = self._place.seq
            self._reattach(replace(self._request, start=Start.NOW, at=(0, 0)))
            self._note_missed((self._place.seq - before) // self.world_size)
        return changes > 0

    def _lost(self, block: Block) -> bool:
        """Whether the block's slots may be overwritten by now; to be asked of a reader that may miss pairs."""
        return self._control.word(State.FLOOR) > block.seq

    def _miss(self) -> None:
        """Pass over what is lost."""
        before, broken_off, floor = self._place, self._broken_off, self._control.word(State.FLOOR)
        if self._refreshed():
            return  # the floor may lie in epochs of which only the new plan knows the length
        self._skip(self._plan.skip_to(before, floor))
        # an iteration goes on within its epoch; one that ends here is not broken off by its user
        self._broken_off = broken_off and self._place.epoch == before.epoch
        missed = (self._place.seq - before.seq) // self.world_size
        self._note_missed(missed)
        if self._request.yields:
            warn(
                "%r paused for so long that others went on without it: it missed %d pairs, and goes on here.",
                *(self, missed),
            )

    def _note_missed(self, pairs: int) -> None:
        self._missed += pairs
        self._page[Lane.MISSED_PAIRS] = self._missed

    def _skip(self, place: Place) -> None:
        self._place = place
        self._broken_off = self._next_epoch_chosen = False
        seq = self._plan.block(place).seq
        self._page[Lane.TAKEN] = seq
        self._leases.skip(seq)

    def _wait_for(self, block: Block) -> DaemonGoneError | None:
        """Wait until the block is published. Returns why it never will be, if its daemon is gone."""
        control, bell = self._control, self._attachment.bell
        if block.next.seq - self._leases.oldest > self._attachment.geometry.slots:
            self._move_out()  # else this round, also another rank's part of it, can never be published
        if control.published >= block.end:
            bell.take()  # one token a batch: on arm64 only a successful wait orders the reads that follow it
            return None
        self._leases.settle()  # an interrupt may have come between the end of a lease and telling it
        wait = Wait(began := time.monotonic_ns())
        self._page[Lane.WAITING_SINCE_NS] = began
        try:
            while True:
                self._let_make_way(block)
                took = bell.wait()
                self._check_open()  # another thread, or a signal's handler, may have closed it meanwhile
                if self._read_ahead_for is not None:
                    self._follow(self._read_ahead_for)
                if control.published >= block.end:
                    return None
                if took and not bell.flooded:
                    continue
                if (gone := control.gone()) and control.published < block.end:
                    return gone
                if (
                    self._look is None
                    and wait.is_due(time.monotonic_ns())
                    and (why := wait.explain(self, block, control))
                ):
                    warn("%s", why)
        finally:
            self._waited_ns += time.monotonic_ns() - began
            self._page[Lane.WAITED_NS] = self._waited_ns
            self._page[Lane.WAITING_SINCE_NS] = 0

    def _follow(self, iteration: LoaderIteration) -> None:
        """Stop with the loader's iteration, and stop keeping what it began with once it is more than a look.

        Raises:
            SupersededError: it has ended.
        """
        if iteration.has_ended():
            raise SupersededError(superseded(self.ring))
        if self._look is not None and not iteration.is_look():
            self._forget_look()

    def _tell_of_unread_shares(self, epoch: int) -> None:
        """Warn at an epoch's end where a rank of the group never came, so that nobody read its share."""
        absence, workers = self._page.read_absence(time.monotonic_ns()), self._request.kin.workers
        ranks = self.world_size // workers if workers else self.world_size
        if absence is None or absence.came or (absence.rank - self.rank) % max(1, ranks) == 0:
            return  # another worker of this rank may come when this one is done
        warn(
            "%s: this process has read its share of epoch %d, 1/%d of it, and nobody that one's. %s.",
            *(absence.sentence(self.group, self.world_size, workers), epoch, self.world_size, ONE_RANK_ALONE),
        )

    # What it holds.

    def _move_out(self) -> None:
        """Give the slots of all batches that are held back; their arrays keep their bytes.

        Raises:
            RingHeldError: there is no memory for them.
        """
        try:
            self._holding.move_out(alone=True)
        except OSError as error:
            raise RingHeldError(
                f"This reader holds {self._leases.count} batches (from pair {self._leases.oldest} on) of the "
                f"{self._attachment.geometry.slots} slots of ring {self.ring!r}, so the next one can never be "
                f"published, and they could not be moved out of the ring: {error.strerror}. Drop batches."
            ) from error

    def make_way(self, end: int) -> bool:
        """Do not keep pairs below ``end`` from being published: another reader of this process waits for them.

        What this one holds moves out of the ring. If it stands in the way itself, and the thread that waits is the one
        that reads from it, or that thread is gone, it would never read on, so it is closed. Returns whether it is.
        """
        slots = self._attachment.geometry.slots
        if self._request.skips or end - self._leases.oldest <= slots:
            return False
        if self._look is not None:
            self._forget_look()
        with contextlib.suppress(OSError):
            self._holding.move_out(alone=False)
        alive = {thread.ident for thread in threading.enumerate()} - {threading.get_ident()}
        if end - self._leases.oldest <= slots or self._thread in alive or not self._lock.acquire(blocking=False):
            return False
        try:
            self._stood_in_the_way = True
            self.close()
        finally:
            self._lock.release()
        return True

    def _let_make_way(self, block: Block) -> None:
        """Have the other readers of this process not stand in the way of a block."""
        for reader in list(_OPEN):
            if (
                reader.group != self.group
                and reader.descriptor.generation == self.descriptor.generation
                and reader.make_way(block.end)
            ):
                warn("%r was closed: %r waited for it in the same thread.", reader, self)

    def _attach_to_the_next_daemon(self, gone: DaemonGoneError) -> None:
        """Go on at exactly the next pair once a new daemon serves the ring. Batches that are held stay readable.

        Raises:
            DaemonGoneError: none came in time, or the ring was stopped for a reason that a restart does not mend.
            StateMismatchError: the new one serves another order, or other pixels.
        """
        state = Standing.of(self._state())

        def ask(descriptor: Descriptor) -> Request:
            return replace(self._request, start=Start.AT, at=state.place(descriptor, strict=True), resuming=True)

        attachment = self._next_attachment(gone, ask, state)
        # Until here its lane with the former daemon said where it stands, to this one and the next.
        self._give_back(Leaving.LEAVE)
        self._take_attachment(attachment)
        warn("%r goes on with the new daemon.", self)

    def _next_attachment(
        self, gone: Exception, ask: Callable[[Descriptor], Request], state: ResumeState | None
    ) -> Attachment:
        if self._control.word(State.STATE) == RingState.FAILED or not self._restart_s:
            raise gone
        # As text: a handler that keeps its records would keep the error, its frames, and the batches in those.
        warn("%s This reader waits up to %.0f s for the next one.", str(gone), self._restart_s)
        return attach_to_the_next(
            self.descriptor, gone, ask, state, restart_s=self._restart_s, still_wanted=self._check_open
        )

    # Where it stands.

    def _state(self) -> ResumeState:
        return self._state_of(self._place)

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

        Counts the batches that were handed out, not what the daemon has prefetched. The same on every rank that has
        taken as many steps.
        """
        with self._lock:
            place = self._plan.epoch_start(self._place) if self._next_epoch_chosen else self._place
            return self._state_of(place).to_dict()

    def looked_at(self) -> dict[str, Any] | None:
        """Return where the next iteration begins if the last one was a look at its first batch; else None."""
        with self._lock:
            return None if self._look is None else self._state_of(self._look).to_dict()

    def with_states(self, turn: range, world_size: int) -> Iterator[tuple[Batch, dict[str, Any]]]:
        """One epoch, each batch with the state once all ranks of its turn, and before, have taken theirs of the round.

        For ranks that take turns, as a DataLoader's workers do: what their batches, put in turn, have used up of the
        order is a run of it, also in the middle of a round. A turn in which no rank has a pair of its own is left out.

        Args:
            turn: the ranks whose turn it is together with this one.
            world_size: for the state; the ranks that do not take turns.
        """
        first, last = (replace(self._plan, rank=rank) for rank in (turn[0], turn[-1]))
        batches = iter(self)
        while True:
            before = self._place
            batch = next(batches, None)
            if batch is None:
                return
            if first.block(before).repeated:
                del batch
                continue
            block = last.block(before)
            place = block.next
            if last.rank < last.world_size - 1 and not block.repeated and block.end < place.seq:
                place = Place(block.end, block.epoch, block.position + block.count)
            shape = (world_size, last.batch_size, last.drop_last)
            yield batch, state_at(self.descriptor, epoch=place.epoch, position=place.position, shape=shape).to_dict()
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
            self._check_open()
            self._take_back()
            self._ended_epoch = None
            following = self._plan.epoch_start(self._place) if self._broken_off else self._place
            if following.epoch == epoch and following.position and self._plan.at_epoch_end(following):
                self._iteration += 1
                self._ended_epoch = epoch
            elif self._plan.block(following).epoch != epoch:
                self._go_to((epoch, 0))
            else:
                self._next_epoch_chosen = self._broken_off  # so that the state says where the next iteration begins

    def _go_to(self, at: tuple[int, int], state: ResumeState | None = None, *, strict: bool = True) -> None:
        """Stand at (epoch, position), which a state may tell the catalog of.

        Args:
            strict: where there is none, insist on the order that was read so far.
        """
        self._take_back()
        here = self._place
        self._joined_midway = None
        self._iteration += 1
        self._ended_epoch = None
        self._next_epoch_chosen = False
        if at == (here.epoch, here.position):
            self._broken_off = False
        elif at == (here.epoch + 1, 0):
            self._skip(self._plan.epoch_start(here))
        else:
            # Where a later epoch begins only the daemon knows: a refresh may be changing the epochs before it.
            self._reattach(replace(self._request, start=Start.AT, at=at), state, strict=strict)

    def _reattach(self, request: Request, state: ResumeState | None = None, *, strict: bool = True) -> None:
        former, here = self.descriptor, Standing.of(self._state())
        self._give_back(Leaving.LEAVE)
        self._broken_off = False

        def ask(descriptor: Descriptor) -> Request:
            if strict and state is None:
                here.place(descriptor, strict=True)  # what is asked for is a place of the order that was read so far
            return request

        try:
            try:
                if read_descriptor(self.ring).generation != former.generation:
                    raise DaemonGoneError(f"The daemon of ring {self.ring!r} was restarted; attach anew.")
                attachment = Attachment(self.ring, request, state=state, still_wanted=self._check_open)
            except (DaemonNotRunningError, DaemonGoneError, OtherVersionError) as gone:
                attachment = self._next_attachment(gone, ask, state)
        except BaseException:
            self.close()  # its lane is given back, and may be another consumer's by now
            raise
        self._take_attachment(attachment)

    def statistics(self) -> dict[str, Any]:
        """Return the batches taken, held now and moved out of the ring, the seconds waited and the pairs missed."""
        return {
            "batches": self._batches,
            "waited_s": self._waited_ns / 1e9,
            "held_batches": self._leases.count,
            "moved_batches": self._moved_before + self._holding.moved,
            "missed_pairs": self._missed,
        }

    @property
    def closed(self) -> bool:
        """Whether it is closed; a forked child finds what was so at the fork."""
        return self._closed

    def close(self, *, keep_place: bool = False, take_back: bool = False) -> None:
        """Detach. Batches that are still held stay readable, as copies.

        Args:
            keep_place: the group's place is kept for a while, for a reader of this process that comes back as the same
                group and rank, for this rank while others of its group are there, and for a state.
            take_back: the place is the one where the iteration began, if it is a look.
        """
        _OPEN.discard(self)
        if self._closed or os.getpid() != self._pid:
            return
        self._closed = True  # a thread that waits for a batch sees it within a slice, and lets the lock go
        with self._lock:
            if take_back:
                self._take_back()
            self._give_back(Leaving.KEEP_PLACE if keep_place else Leaving.LEAVE)

    def _give_back(self, leaving: Leaving) -> None:
        """Give the lane back, and all slots; held arrays keep their bytes."""
        self._look = None
        self._forget.detach()
        held = self._leases.count
        try:
            self._holding.end(leaving)
        except OSError as error:
            warn(
                "%d batches that are held of ring %r could not be moved out of it, so they may show other pairs from "
                "now on: %s",
                *(held, self.ring, error.strerror),
            )
        self._moved_before += self._holding.moved

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


class LoaderIteration(Protocol):
    """An iteration over a loader, as the readers of its workers see it."""

    def is_look(self) -> bool:
        """Whether no more than its first batch was asked for."""

    def has_ended(self) -> bool:
        """Whether nobody asks for its next batch."""


class _EpochIterator(Iterator[Batch]):
    """One epoch of a reader. Keeps no batch, so that a batch's slots are free as soon as the trainer drops it."""

    def __init__(self, reader: Reader, iteration: int, epoch: int) -> None:
        self._reader = reader
        self._iteration = iteration
        self._epoch = epoch
        self._ended = False

    def __next__(self) -> Batch:
        if self._ended:  # an iterator that has ended stays so, whatever began since
            raise StopIteration
        batch = self._reader.take(self._iteration, self._epoch)
        if batch is None:
            self._ended = True
            raise StopIteration
        return batch


def superseded(ring: str) -> str:
    """Return the sentence of an iteration that a later one has superseded."""
    return (
        f"This iteration over ring {ring!r} was superseded: a later one has begun, or set_epoch() or load_state_dict() "
        f"went elsewhere. A group makes one pass at a time: leave one loop before the next begins. To read two passes "
        f"in step (zip), make a RingDataset, or attach a reader, for each."
    )


_OPEN: weakref.WeakSet[Reader] = weakref.WeakSet()


def close_open_readers() -> None:
    """Detach every reader of this process, at its end."""
    # A trainer that ends by an exception is likely to be started again: its place is kept, as if it had been killed.
    failed = getattr(sys, "last_value", None) is not None
    for reader in list(_OPEN):
        reader.close(keep_place=failed)


def _renew_locks() -> None:
    # The thread that held one at the fork is not in the child, whose calls are to end in an error, not in a hang.
    for reader in list(_OPEN):
        reader._lock = threading.RLock()  # noqa: SLF001  # of this very file
    _OPEN.clear()  # they are the parent's, which a child's reader must not ask to make way


atexit.register(close_open_readers)
os.register_at_fork(after_in_child=_renew_locks)

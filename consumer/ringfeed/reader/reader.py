"""The reader: one consumer's pass over a ring, batch by batch."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn, Self

from ringfeed.errors import ReaderClosedError, SupersededError
from ringfeed.log import warn
from ringfeed.plan import Block
from ringfeed.reader.batch import Batch
from ringfeed.reader.delivery import Delivery
from ringfeed.reader.place.cursor import Turn
from ringfeed.reader.place.iteration import EpochIterator, LoaderIteration, superseded
from ringfeed.reader.reconnect import RESTART_S
from ringfeed.reader.registry import let_make_way, register, unregister
from ringfeed.reader.state import ResumeState, state_at
from ringfeed.shm.descriptor import Descriptor
from ringfeed.shm.lane import Request
from ringfeed.shm.layout import Leaving


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
        self._delivery = Delivery(ring, request, copy=copy, restart_s=restart_s, state=state)
        self._cursor = self._delivery.cursor
        place = self._cursor.place
        self.joined_at = (place.epoch, place.position)
        self._read_ahead_for: LoaderIteration | None = None
        self._lock = threading.RLock()  # a signal's handler may want the state in the middle of a wait
        self._pid = os.getpid()
        self._closed = False
        self._stood_in_the_way = False
        self._latest: weakref.ref[EpochIterator] | None = None
        self._thread = threading.get_ident()
        register(self)

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"epoch {self.epoch}, position {self._cursor.place.position}"
        return (
            f"Reader({self.ring!r}, group {self.group!r}, rank {self.rank}/{self.world_size}, "
            f"batch size {self.batch_size}, {state}, {self._delivery.session.leases.count} batches held)"
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
        return self._delivery.attachment.descriptor

    @property
    def epoch(self) -> int:
        """The epoch of the next batch."""
        return self._cursor.epoch

    def __len__(self) -> int:
        """Batches in the whole of the next batch's epoch; another number once a refresh has brought new pairs.

        Of the epoch that it joined in the middle, those from there on. Once an iteration was broken off, and dropped,
        those of the epoch after it, which the next iteration gives.
        """
        return self._cursor.steps if self._is_iterated else self._cursor.next_steps

    @property
    def _is_iterated(self) -> bool:
        """Whether the latest iteration may be asked for its next batch."""
        return self._latest is not None and self._latest() is not None

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
            self.check_open()
            iteration, epoch = self._delivery.begin(self)
            latest = EpochIterator(self, iteration, epoch)
            self._latest = weakref.ref(latest)
        return latest

    def read_ahead_for(self, iteration: LoaderIteration | None) -> None:
        """Read for a loader's iteration, of which the loader knows how far it has come."""
        self._read_ahead_for = iteration

    def only_looks(self) -> bool:
        """Return whether the iteration whose first batch was taken is a look, though its next batch is requested."""
        return self._read_ahead_for is not None and self._read_ahead_for.is_look()

    def take(self, iteration: int, epoch: int) -> Batch | None:
        """Return the next batch of ``epoch``; None at its end.

        Raises:
            SupersededError: a later iteration has begun.
        """
        with self._lock:
            if self._stood_in_the_way and self._delivery.may_miss:
                self._come_back()
            if self._closed or os.getpid() != self._pid:
                self.check_open()
            self._thread = threading.get_ident()
            return self._delivery.take(iteration, epoch, self)

    def before_slice(self, block: Block) -> None:
        """Make way for a block that is waited for."""
        let_make_way(self, block.end)

    def after_slice(self) -> None:
        """Go on waiting only if that is wanted, and keep what the iteration began with only as long as it is a look.

        Raises:
            ReaderClosedError: another thread, or a signal's handler, has closed it.
            SupersededError: the loader's iteration has ended.
        """
        self.check_open()
        if (iteration := self._read_ahead_for) is None:
            return
        if iteration.has_ended():
            raise SupersededError(superseded(self.ring))
        if self._cursor.look is not None and not iteration.is_look():
            self._delivery.forget_look()

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
        if not self._delivery.move_out_for(end):
            return False
        alive = {thread.ident for thread in threading.enumerate()} - {threading.get_ident()}
        if self._thread in alive or not self._lock.acquire(blocking=False):
            return False
        try:
            self.close()
            self._stood_in_the_way = True
        finally:
            self._lock.release()
        return True

    def make_way_for_workers(self) -> bool:
        """Do not keep a whole epoch from being published, if no iteration is under way; else its loop may go on."""
        return not self._is_iterated and self.make_way(self._cursor.next_end)

    def _come_back(self) -> None:
        """Attach again if it was closed to make way for another reader of its thread.

        Raises:
            DaemonGoneError, DaemonNotRunningError: the daemon is gone, and none came within ``restart_s``.
            AttachRefusedError: the daemon refuses.
        """
        if not self._stood_in_the_way or os.getpid() != self._pid:
            return
        self._closed = self._stood_in_the_way = False
        self._delivery.come_back(self)
        register(self)
        warn("%r attached again, where the others are: it had made way for another reader of its thread.", self)

    @property
    def reads_from(self) -> tuple[int, int]:
        """The (epoch, position) up to which it has given everything back; at least that."""
        place = self._cursor.place
        held = place.seq - self._delivery.session.leases.oldest
        return (place.epoch, place.position - held) if held <= place.position else (place.epoch - 1, 0)

    @property
    def may_miss(self) -> bool:
        """Whether no other reader waits for this one."""
        return self._delivery.may_miss

    @property
    def reads_in_this_thread(self) -> bool:
        """Whether the thread that calls is the one that read from it last, or attached it."""
        return self._thread == threading.get_ident()

    @property
    def pass_of(self) -> tuple[str, str]:
        """The generation of its ring, and its group."""
        return self.descriptor.generation, self.group

    def renew_lock(self) -> None:
        """Forget that a thread is in it: this is a forked child, which has only one thread."""
        self._lock = threading.RLock()

    # Where it stands.

    def state_dict(self) -> dict[str, Any]:
        """Where the group stands once all of its ranks have taken what this one has; see `ringfeed.reader.state`.

        Counts the batches that were delivered, not what the daemon has prefetched. The same on every rank that has
        taken as many steps.
        """
        with self._lock:
            return self._delivery.state_of(self._cursor.state_place).to_dict()

    def looked_at(self) -> dict[str, Any] | None:
        """Return where the next iteration begins if the last one was a look at its first batch; else None."""
        with self._lock:
            look = self._cursor.look
            return None if look is None else self._delivery.state_of(look).to_dict()

    def with_states(self, turn: range, world_size: int) -> Iterator[tuple[Batch, dict[str, Any]]]:
        """One epoch, each batch with the state once all ranks of its turn, and before, have taken theirs of the round.

        For ranks that take turns, as a DataLoader's workers do: what their batches, put in turn, have used up of the
        order is a run of it, also in the middle of a round. A turn in which no rank has a pair of its own is left out.

        Args:
            turn: the ranks whose turn it is together with this one.
            world_size: for the state; the ranks that do not take turns.
        """
        shared = Turn(self._cursor.plan, turn)
        shape = (world_size, self.batch_size, self._delivery.request.drop_last)
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
            self.check_open()
            loaded = ResumeState.from_dict(state)
            at = loaded.place(self.descriptor, strict=strict)
            self._delivery.go_to(at, self, loaded if strict else None, strict=strict)

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
            self.check_open()
            self._delivery.take_back()
            if (at := self._cursor.choose(epoch)) is not None:
                self._delivery.go_to(at, self)

    def statistics(self) -> dict[str, Any]:
        """Return the batches taken, held now and moved out of the ring, the seconds waited and the pairs missed."""
        return {
            "batches": self._delivery.batches,
            "waited_s": self._delivery.session.waited_ns / 1e9,
            "held_batches": self._delivery.session.leases.count,
            "moved_batches": self._delivery.moved,
            "missed_pairs": self._delivery.missed,
        }

    @property
    def closed(self) -> bool:
        """Whether it is closed; a forked child finds what was so at the fork."""
        return self._closed and not (self._stood_in_the_way and self._delivery.may_miss)

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
                self._delivery.take_back()
            self._delivery.end(Leaving.KEEP_PLACE if keep_place else Leaving.LEAVE)

    def check_open(self) -> None:
        """Raise an error if this process cannot read from it.

        Raises:
            ReaderClosedError: it is closed, or another process's.
        """
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

"""The reader: one consumer's pass over a ring, batch by batch."""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from ringfeed.attachment import Attachment
from ringfeed.batch import Batch, Pixels
from ringfeed.descriptor import Descriptor
from ringfeed.errors import ReaderClosedError, RingfeedError, RingHeldError
from ringfeed.lane import Request
from ringfeed.layout import SLOT_VALID, Field, Lane, Leaving, SlotRecord
from ringfeed.lease import Lease, Leases
from ringfeed.plan import Block, Place

WARN_AFTER_S: Final = 10.0
"""A reader that has waited this long says on its log whom it waits for; and again after as long."""

_IMAGE_SIZE: Final = slice(SlotRecord.IMAGE_HEIGHT, SlotRecord.IMAGE_WIDTH + 1)
_LABEL_SIZE: Final = slice(SlotRecord.LABEL_HEIGHT, SlotRecord.LABEL_WIDTH + 1)

_LOG: Final = logging.getLogger("ringfeed")


class Reader:
    """Reads its share of a ring in place. Made by `ringfeed.attach`.

    Iterating over it gives one epoch's batches; the next iteration gives the next epoch. Threads may share a reader:
    each batch goes to one of them. A forked child cannot use its parent's reader.

    Attributes:
        ring, group, rank, world_size, batch_size: as attached.
        joined_at: (epoch, position) at which the group's round stood when this reader joined it.
    """

    def __init__(self, ring: str, request: Request, *, copy: bool) -> None:
        self.ring = ring
        self.group = request.group
        self.rank = request.rank
        self.world_size = request.world_size
        self.batch_size = request.batch_size
        self._attachment = Attachment(ring, request)
        self._control = self._attachment.control
        self._page = self._attachment.page
        self._plan = self._attachment.plan
        self._place: Place = self._attachment.place
        self.joined_at = (self._place.epoch, self._place.position)
        self._copy = copy
        self._native = self.descriptor.fit == "native"
        first = self._plan.block(self._place).seq
        self._page[Lane.TAKEN] = self._page[Lane.RELEASED] = first
        # Not a method of this reader's: leases outlive a reader that is forgotten, and keep the attachment alive.
        self._leases = Leases(self._attachment.tell_released, seq=first)
        self._batches = 0
        self._waited_ns = 0
        self._iteration = 0
        self._broken_off = False
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._closed = False
        _OPEN.add(self)

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"epoch {self.epoch}, position {self._place.position}"
        return (
            f"Reader({self.ring!r}, group {self.group!r}, rank {self.rank}/{self.world_size}, "
            f"batch size {self.batch_size}, {state}, {self._leases.count} batches held)"
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
        """Batches in a whole epoch."""
        return self._plan.steps_left(0)

    def __iter__(self) -> Iterator[Batch]:
        """One epoch; after an iteration that was broken off, the next one.

        Raises:
            DaemonGoneError: the daemon stopped or died.
            RingHeldError: this consumer holds so many batches that the next one cannot be published.
            ReaderClosedError: the reader is closed, or another process's.
        """
        with self._lock:
            self._check_open()
            if self._broken_off:
                self._skip(self._plan.epoch_start(self._place))
            self._iteration += 1
            iteration, epoch = self._iteration, self.epoch
        return _EpochIterator(self, iteration, epoch)

    def take(self, iteration: int, epoch: int) -> Batch | None:
        """The next batch of ``epoch``; None at its end, or when a later iteration has begun."""
        with self._lock:
            self._check_open()
            block = self._plan.block(self._place)
            if block.epoch != epoch or iteration != self._iteration:
                return None
            self._wait_for(block)
            self._place = block.next
            following = self._plan.block(block.next)
            self._broken_off = following.epoch == epoch
            lease = self._leases.take(block.seq, following.seq)
            self._batches += 1
            self._page[Lane.BATCHES] = self._batches
            self._page[Lane.TAKEN] = following.seq
            batch = self._read(block, lease)
        if self._copy:
            lease.release()
        return batch

    def _skip(self, place: Place) -> None:
        self._place = place
        self._broken_off = False
        seq = self._plan.block(place).seq
        self._page[Lane.TAKEN] = seq
        self._leases.skip(seq)

    def _read(self, block: Block, lease: Lease) -> Batch:
        slots = np.arange(block.seq, block.end, dtype=np.uint64) % np.uint64(self._attachment.geometry.slots)
        records = self._control.slot_table[slots]
        if records[0, SlotRecord.SEQ] != block.seq or records[-1, SlotRecord.SEQ] != block.end - 1:
            raise RingfeedError(
                f"Slot {slots[0]} of ring {self.ring!r} holds pair {records[0, SlotRecord.SEQ]} where pair {block.seq} "
                f"was promised: a defect of ringfeed, please report it; a restart of the trainer helps."
            )
        valid = (records[:, SlotRecord.FLAGS] & np.uint64(SLOT_VALID)).astype(np.bool_)
        if block.repeated:
            valid[:] = False
        geometry = self._attachment.geometry
        image, label = (self._field(field, block, lease) for field in (geometry.image, geometry.label))
        control = self._control
        return Batch(
            image=_crop(image, records[:, _IMAGE_SIZE]) if self._native else image,
            label=_crop(label, records[:, _LABEL_SIZE]) if self._native else label,
            valid=valid,
            seq=block.seq,
            epoch=block.epoch,
            position=block.position,
            read_ids=lambda: [control.slot_id(int(slot)) for slot in slots],
            lease=None if self._copy else lease,
        )

    def _field(self, field: Field, block: Block, lease: Lease) -> Pixels:
        geometry = self._attachment.geometry
        first = block.seq % geometry.slots
        buffer = self._attachment.fields[field.name]
        shape = (block.count, *field.row_shape)
        wraps = first + block.count > geometry.slots
        if wraps and not geometry.mirrored:
            ring: Pixels = np.ndarray((geometry.slots, *field.row_shape), field.dtype, buffer=buffer)
            array = np.concatenate((ring[first:], ring[: first + block.count - geometry.slots]))
            array.setflags(write=self._copy)
        else:
            array = np.ndarray(shape, field.dtype, buffer=buffer, offset=first * field.row_bytes)
            if self._copy:
                array = array.copy()
        lease.hold(field.name, array)
        return array

    def _wait_for(self, block: Block) -> None:
        control, bell = self._control, self._attachment.bell
        if control.published >= block.end:
            bell.take()  # one token a batch: on arm64 only a successful wait orders the reads that follow it
            return
        held_from = self._leases.oldest
        if block.end - held_from > self._attachment.geometry.slots:
            raise RingHeldError(
                f"This reader holds {self._leases.count} batches (from pair {held_from} on), and the ring "
                f"{self.ring!r} has {self._attachment.geometry.slots} slots: pair {block.end - 1} can never be "
                f"published. Drop or release() batches, attach with copy=True, or give the daemon more slots."
            )
        began = warned = time.monotonic_ns()
        self._page[Lane.WAITING_SINCE_NS] = began
        try:
            while True:
                took = bell.wait()
                if control.published >= block.end:
                    return
                if took:
                    continue
                if (gone := control.gone()) and control.published < block.end:
                    raise gone
                if time.monotonic_ns() - warned > WARN_AFTER_S * 1e9:
                    warned = time.monotonic_ns()
                    _LOG.warning(
                        "%r has waited %.0f s for pair %d; the ring has published up to %d. `ringfeed status %s` shows "
                        "which reader or rank holds it up, or that the source is slow.",
                        *(self, (warned - began) / 1e9, block.seq, control.published, self.ring),
                    )
        finally:
            self._waited_ns += time.monotonic_ns() - began
            self._page[Lane.WAITED_NS] = self._waited_ns
            self._page[Lane.WAITING_SINCE_NS] = 0

    def skip_rest_of_epoch(self) -> None:
        """Go to the next epoch's start, unless at one already."""
        with self._lock:
            self._check_open()
            if self._place.position:
                self._skip(self._plan.epoch_start(self._place))

    def statistics(self) -> dict[str, Any]:
        """Batches taken, seconds waited for them, batches held now."""
        return {
            "batches": self._batches,
            "waited_s": self._waited_ns / 1e9,
            "held_batches": self._leases.count,
        }

    def close(self, *, keep_place: bool = False) -> None:
        """Detach. Batches that are still held stay readable, but the daemon may reuse their slots.

        Args:
            keep_place: the group's place is kept for a while, for a reader that comes back as the same group and rank.
        """
        with self._lock:
            _OPEN.discard(self)
            if self._closed or os.getpid() != self._pid:
                return
            self._closed = True
            self._leases.close()
            self._attachment.detach(Leaving.KEEP_PLACE if keep_place else Leaving.LEAVE)

    def _check_open(self) -> None:
        if os.getpid() != self._pid:
            raise ReaderClosedError(
                f"This reader of ring {self.ring!r} was opened by process {self._pid}, and this is its fork "
                f"{os.getpid()}; attach in the process that reads (a RingDataset does so by itself)."
            )
        if self._closed:
            raise ReaderClosedError(f"This reader of ring {self.ring!r} is closed; attach again.")


class _EpochIterator(Iterator[Batch]):
    """One epoch of a reader. Keeps no batch, so that a batch's slots are free as soon as the trainer drops it."""

    def __init__(self, reader: Reader, iteration: int, epoch: int) -> None:
        self._reader = reader
        self._iteration = iteration
        self._epoch = epoch

    def __next__(self) -> Batch:
        batch = self._reader.take(self._iteration, self._epoch)
        if batch is None:
            raise StopIteration
        return batch


def _crop(rows: Pixels, sizes: npt.NDArray[np.uint64]) -> list[Pixels]:
    """The pairs of a native batch at their own sizes; each lies densely at its row's start."""
    views = []
    for row, (height, width) in zip(rows, sizes.tolist(), strict=True):
        channels = row.shape[2:]
        views.append(row.reshape(-1)[: height * width * int(np.prod(channels))].reshape(height, width, *channels))
    return views


_OPEN: weakref.WeakSet[Reader] = weakref.WeakSet()


def _close_at_exit() -> None:
    # A trainer that ends by an exception is likely to be started again: its place is kept, as if it had been killed.
    failed = getattr(sys, "last_value", None) is not None
    for reader in list(_OPEN):
        reader.close(keep_place=failed)


atexit.register(_close_at_exit)

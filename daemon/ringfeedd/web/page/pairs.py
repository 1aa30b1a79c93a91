"""The newest pairs of a ring, copied from the slots in which they lie.

The page is not a consumer, so the ring waits for it as little as for a reader that skips: a copy is looked at only
where the pair's slot could not have been given to a worker before the copy was complete (shm_layout.md, *Skip*).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ringfeed.errors import RingfeedError
from ringfeed.plan import Place
from ringfeed.shm import segment
from ringfeed.shm.control import Control
from ringfeed.shm.descriptor import Descriptor
from ringfeed.shm.layout import SLOT_VALID, Field, SlotRecord
from ringfeedd.ring.ring import Ring

NEWEST: Final = 9
"""Pairs that the page shows of a ring."""

Pixels = npt.NDArray[Any]


def newest_places(ring: Ring, most: int = NEWEST) -> list[Place]:
    """Return where the newest pairs stand, the newest first; none where no pair lies in the ring.

    To be called by the thread that moves the ring. The places stay true for as long as the pairs lie there.
    """
    return [ring.place(seq) for seq in range(ring.published - 1, max(ring.floor, ring.published - most) - 1, -1)]


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """One pair as it lay in the ring.

    Attributes:
        image: ``(H, W, 3)`` uint8.
        label: ``(H, W)`` or ``(H, W, 3)``, uint8 or uint16.
        valid: it is the pair that the order names; False for a replacement of one that failed.
    """

    place: Place
    pair_id: str
    valid: bool
    image: Pixels
    label: Pixels


class SlotReader:
    """Copies pairs out of one generation of a ring. May be used from any one thread."""

    def __init__(self, ring: Ring, descriptor: Descriptor) -> None:
        """Open the ring's segments.

        Raises:
            RingfeedError, OSError: they are gone, or cannot be trusted.
        """
        self._ring, self._geometry = ring, descriptor.geometry
        self._native = descriptor.identity.fit == "native"
        self._control = Control(descriptor)
        try:
            self._data = segment.open_existing(descriptor.data, writable=False)
        except BaseException:
            self._control.close()
            raise

    def close(self) -> None:
        """Close the segments."""
        os.close(self._data)
        self._control.close()

    def copy(self, place: Place) -> Pair | None:
        """One pair; None where it may have been overwritten meanwhile."""
        seq, slot = place.seq, place.seq % self._geometry.slots
        record = self._control.slot_table[slot].tolist()
        pair_id = self._control.slot_id(slot)
        image, label = (self._row(field, slot) for field in (self._geometry.image, self._geometry.label))
        # `floor` moves before a worker may write into a slot below it, so this look comes after the copies.
        if self._ring.floor > seq or record[SlotRecord.SEQ] != seq:
            return None
        if self._native:
            image = _cut(image, record[SlotRecord.IMAGE_HEIGHT], record[SlotRecord.IMAGE_WIDTH])
            label = _cut(label, record[SlotRecord.LABEL_HEIGHT], record[SlotRecord.LABEL_WIDTH])
        if not image.size or not label.size:
            return None
        valid = bool(record[SlotRecord.FLAGS] & SLOT_VALID)
        return Pair(place, pair_id, valid, image, label)

    def _row(self, field: Field, slot: int) -> Pixels:
        """A copy of the slot's row; empty where the segment has none."""
        data = os.pread(self._data, field.row_bytes, field.offset + slot * field.row_bytes)
        if len(data) != field.row_bytes:
            return np.empty(0, field.dtype)
        return np.frombuffer(data, field.dtype).reshape(field.row_shape)


def _cut(row: Pixels, height: int, width: int) -> Pixels:
    """A native picture, which lies dense from its row's first byte; empty where it cannot."""
    shape = (height, width, *row.shape[2:])
    size = height * width * int(np.prod(shape[2:]))
    return row.reshape(-1)[:size].reshape(shape) if 0 < size <= row.size else np.empty(0, row.dtype)


def copy_pairs(ring: Ring, descriptor: Descriptor, places: Iterable[Place]) -> Iterator[Pair]:
    """Copy pairs of a ring; those whose slots, or whose ring, have gone meanwhile are left out."""
    try:
        source = SlotReader(ring, descriptor)
    except (RingfeedError, OSError):
        return
    try:
        for place in places:
            if (pair := source.copy(place)) is not None:
                yield pair
    finally:
        source.close()

"""The newest pairs of a ring, copied from the slots in which they lie.

The page is not a consumer, so the ring waits for it as little as for a reader that skips: a copy is looked at only
where the pair's slot could not have been given to a worker before the copy was complete (shm_layout.md, *Skip*).
"""

from __future__ import annotations

import contextlib
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


def copy_pairs(ring: Ring, descriptor: Descriptor, places: Iterable[Place]) -> Iterator[Pair]:
    """Copy pairs of a ring; those whose slots, or whose ring, have gone meanwhile are left out."""
    with contextlib.ExitStack() as files:
        try:
            control = Control(descriptor)
            files.callback(control.close)
            data = segment.open_existing(descriptor.data, writable=False)
            files.callback(os.close, data)
        except (RingfeedError, OSError):
            return
        for place in places:
            if (pair := _copy(ring, control, data, place)) is not None:
                yield pair


def _copy(ring: Ring, control: Control, data: int, place: Place) -> Pair | None:
    """One pair; None where it may have been overwritten meanwhile."""
    geometry = control.geometry
    seq, slot = place.seq, place.seq % geometry.slots
    record = control.slot_table[slot].tolist()
    pair_id = control.slot_id(slot)
    image, label = (_row(data, field, slot) for field in (geometry.image, geometry.label))
    # `floor` moves before a worker may write into a slot below it, so this look comes after the copies.
    if ring.floor > seq or record[SlotRecord.SEQ] != seq:
        return None
    if control.descriptor.identity.fit == "native":
        image = _cut(image, record[SlotRecord.IMAGE_HEIGHT], record[SlotRecord.IMAGE_WIDTH])
        label = _cut(label, record[SlotRecord.LABEL_HEIGHT], record[SlotRecord.LABEL_WIDTH])
    if not image.size or not label.size:
        return None
    valid = bool(record[SlotRecord.FLAGS] & SLOT_VALID)
    return Pair(place, pair_id, valid, image, label)


def _row(data: int, field: Field, slot: int) -> Pixels:
    """A copy of the slot's row; empty where the segment has none."""
    row = os.pread(data, field.row_bytes, field.offset + slot * field.row_bytes)
    if len(row) != field.row_bytes:
        return np.empty(0, field.dtype)
    return np.frombuffer(row, field.dtype).reshape(field.row_shape)


def _cut(row: Pixels, height: int, width: int) -> Pixels:
    """A native picture, which lies dense from its row's first byte; empty where it cannot."""
    shape = (height, width, *row.shape[2:])
    size = height * width * int(np.prod(shape[2:]))
    return row.reshape(-1)[:size].reshape(shape) if 0 < size <= row.size else np.empty(0, row.dtype)

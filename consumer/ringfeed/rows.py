"""From slots to a batch: views of consecutive rows of the ring, and what their records say of them."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from ringfeed.attachment import Attachment
from ringfeed.batch import Batch
from ringfeed.errors import SlotOverwrittenError
from ringfeed.field_rows import Pixels
from ringfeed.layout import SLOT_VALID, SlotRecord
from ringfeed.lease import Lease
from ringfeed.plan import Block

_IMAGE_SIZE: Final = slice(SlotRecord.IMAGE_HEIGHT, SlotRecord.IMAGE_WIDTH + 1)
_VALID: Final = np.uint64(SLOT_VALID)
_LABEL_SIZE: Final = slice(SlotRecord.LABEL_HEIGHT, SlotRecord.LABEL_WIDTH + 1)


def read_batch(attachment: Attachment, block: Block, lease: Lease, *, copy: bool) -> Batch:
    """The batch of a block that is published and leased; its arrays hold the lease.

    Raises:
        SlotOverwrittenError: the slots hold other pairs, which a daemon that keeps the protocol lets happen to none but
            readers that skip.
    """
    control, descriptor, slots = attachment.control, attachment.descriptor, attachment.geometry.slots
    table = control.slot_table
    first, seq, count = block.seq % slots, block.seq, block.count
    if first + count <= slots:
        records = table[first : first + count]
    else:
        records = np.concatenate((table[first:], table[: first + count - slots]))
    if records.item(0, SlotRecord.SEQ) != seq or records.item(count - 1, SlotRecord.SEQ) != seq + count - 1:
        raise SlotOverwrittenError(
            f"Slot {first} of ring {descriptor.ring!r} holds pair {records[0, SlotRecord.SEQ]} where pair "
            f"{seq} was promised: a defect of ringfeed, please report it; a restart of the trainer helps."
        )
    valid = (records[:, SlotRecord.FLAGS] & _VALID).astype(np.bool_)
    if block.repeated:
        valid[:] = False
    image = attachment.image.read(first, count, copy=copy)
    label = attachment.label.read(first, count, copy=copy)
    lease.hold(image, label)
    native = descriptor.fit == "native"

    def read_ids() -> list[str]:
        return [control.slot_id(number % slots) for number in range(seq, seq + count)]

    ids = read_ids() if copy else None  # a copy's slots are released before anybody can ask
    return Batch(
        image=_crop(image, records[:, _IMAGE_SIZE]) if native else image,
        label=_crop(label, records[:, _LABEL_SIZE]) if native else label,
        valid=valid,
        seq=block.seq,
        epoch=block.epoch,
        position=block.position,
        read_ids=read_ids if ids is None else lambda: ids,
        lease=None if copy else lease,
    )


def _crop(rows: Pixels, sizes: npt.NDArray[np.uint64]) -> list[Pixels]:
    """The pairs of a native batch at their own sizes; each lies densely at its row's start."""
    views = []
    for row, (height, width) in zip(rows, sizes.tolist(), strict=True):
        channels = row.shape[2:]
        if height * width * int(np.prod(channels)) > row.size:
            raise SlotOverwrittenError(
                f"A slot's record says {height}x{width} pixels, which is more than a slot holds; restart the daemon."
            )
        views.append(row.reshape(-1)[: height * width * int(np.prod(channels))].reshape(height, width, *channels))
    return views

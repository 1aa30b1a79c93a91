"""From slots to a batch: views of consecutive rows of the ring, and what their records say of them."""

from __future__ import annotations

import numpy as np

from ringfeed.errors import SlotOverwrittenError
from ringfeed.plan import Block
from ringfeed.reader.attachment import Attachment
from ringfeed.reader.batch import Batch
from ringfeed.reader.fields import Pixels
from ringfeed.reader.lease import Lease
from ringfeed.reader.records import Records, Sizes


def read_batch(attachment: Attachment, block: Block, lease: Lease, *, copy: bool) -> Batch:
    """The batch of a block that is published and leased; its arrays hold the lease, unless they are copies.

    Raises:
        SlotOverwrittenError: the slots hold other pairs; see `Records`.
    """
    records = Records(attachment.control, block)
    first = block.seq % attachment.geometry.slots
    data = attachment.data
    if not copy and block.seq + block.count > data.clean_until:
        data.clean(block.seq, block.count, attachment.control.published)
    image = data.image.read(first, block.count, copy=copy)
    label = data.label.read(first, block.count, copy=copy)
    if not copy:
        lease.hold(image, label, before_move=records.keep)
    native = attachment.descriptor.identity.fit == "native"
    return Batch(
        _crop(image, records.image_sizes) if native else image,
        _crop(label, records.label_sizes) if native else label,
        block=block,
        records=records,
        lease=None if copy else lease,
    )


def _crop(rows: Pixels, sizes: Sizes) -> list[Pixels]:
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

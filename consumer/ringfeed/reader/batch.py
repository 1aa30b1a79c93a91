"""The batch: consecutive slots of the ring, read in place."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from ringfeed.errors import ReleasedError, SlotOverwrittenError
from ringfeed.plan import Block
from ringfeed.reader.attachment import Attachment
from ringfeed.reader.fields import Pixels
from ringfeed.reader.lease import Lease
from ringfeed.reader.records import Records, Sizes


class Batch:
    """Some consecutive pairs of the stream.

    The arrays are read-only views of the ring. Its slots are kept for this consumer until the last array made of them
    is gone, or `release` is called, or the ring needs them: then the arrays keep their pixels as copies.

    Attributes:
        epoch: the pairs' epoch.
        missed: pairs of this reader's that were overwritten before it could read them, since its last batch; 0 unless
            it reads with ``on_lag="skip"``.
    """

    def __init__(
        self,
        image: Pixels | list[Pixels],
        label: Pixels | list[Pixels],
        *,
        block: Block,
        records: Records,
        lease: Lease | None,
    ) -> None:
        self._image: Pixels | list[Pixels] | None = image
        self._label: Pixels | list[Pixels] | None = label
        self._block = block
        self._records = records
        self._lease = lease
        self.epoch = block.epoch
        self.missed = 0
        if lease is None:  # copies, whose slots may hold other pairs before they are asked for
            self.ids, self.valid = records.ids(), records.valid()

    def __len__(self) -> int:
        return self._block.pairs

    def __repr__(self) -> str:
        held = "released" if self._image is None else "copied" if self._lease is None else "leased"
        first, last = self._block.position, self._block.position + len(self) - 1
        return f"Batch({len(self)} pairs, epoch {self.epoch}, positions {first} to {last}, {held})"

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel, or be copied, as a batch with memory of its own.

        Raises:
            ReleasedError: the batch was released.
        """
        own = {"_image": _copy(self.image), "_label": _copy(self.label), "_lease": None, "_records": None}
        return _with, ({**self.__dict__, **own, "ids": self.ids, "valid": self.valid},)

    @property
    def image(self) -> Pixels | list[Pixels]:
        """``(B, H, W, 3)`` uint8; with ``fit="native"`` a list of B arrays ``(h, w, 3)``.

        Raises:
            ReleasedError: the batch was released.
        """
        if self._image is None:
            raise self._gone()
        return self._image

    @property
    def label(self) -> Pixels | list[Pixels]:
        """``(B, H, W, 3)`` or ``(B, H, W)`` uint8, or ``(B, H, W)`` uint16, by label mode; a list of B with ``native``.

        Raises:
            ReleasedError: the batch was released.
        """
        if self._label is None:
            raise self._gone()
        return self._label

    @cached_property
    def ids(self) -> list[str]:
        """The ids of the pairs whose pixels these are.

        Raises:
            ReleasedError: the batch was released before they were first asked for.
        """
        if self._image is None:
            raise self._gone()
        return self._records.ids()

    @cached_property
    def valid(self) -> npt.NDArray[np.bool_]:
        """``(B,)``; False where a replacement stands for a pair that failed to load.

        False too where a rank without a pair of its own at an epoch's end got another rank's.
        """
        return self._records.valid()

    @property
    def positions(self) -> npt.NDArray[np.int64]:
        """``(B,)`` int64: the pairs' positions in the epoch's order."""
        return np.arange(self._block.position, self._block.position + len(self), dtype=np.int64)

    @property
    def seqs(self) -> npt.NDArray[np.int64]:
        """``(B,)`` int64: the pairs' numbers in the ring's stream."""
        return np.arange(self._block.seq, self._block.end, dtype=np.int64)

    def release(self) -> None:
        """Give the slots back now. Arrays and tensors made of this batch may show other pixels from here on."""
        _ = self.valid  # the records are the daemon's again in a moment
        self._image = self._label = None
        if self._lease is not None:
            self._lease.release()

    @staticmethod
    def _gone() -> ReleasedError:
        return ReleasedError("This batch was released; read what you need of it before, or attach with copy=True.")


def _copy(pixels: Pixels | list[Pixels]) -> Pixels | list[Pixels]:
    return [array.copy() for array in pixels] if isinstance(pixels, list) else pixels.copy()


def _with(attributes: dict[str, Any]) -> Batch:
    batch = Batch.__new__(Batch)
    batch.__dict__.update(attributes)
    return batch


def read_batch(attachment: Attachment, block: Block, lease: Lease, *, copy: bool) -> Batch:
    """The batch of a block that is published and leased; its arrays hold the lease, unless they are copies.

    Raises:
        SlotOverwrittenError: the slots hold other pairs; see `Records`.
    """
    records = Records(attachment.control, block)
    first = block.seq % attachment.geometry.slots
    data = attachment.data
    if not copy and block.end > data.clean_until:
        data.clean(block.seq, block.pairs, published=attachment.control.published, oldest=lease.oldest)
    image = data.image.read(first, block.pairs, copy=copy)
    label = data.label.read(first, block.pairs, copy=copy)
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

"""The records of a batch's slots: what the daemon says of the pairs that lie there."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from ringfeed.errors import SlotOverwrittenError
from ringfeed.plan import Block
from ringfeed.shm.control import Control
from ringfeed.shm.layout import SLOT_VALID, SlotRecord

_IMAGE_SIZE: Final = slice(SlotRecord.IMAGE_HEIGHT, SlotRecord.IMAGE_WIDTH + 1)
_LABEL_SIZE: Final = slice(SlotRecord.LABEL_HEIGHT, SlotRecord.LABEL_WIDTH + 1)
_VALID: Final = np.uint64(SLOT_VALID)

Sizes = npt.NDArray[np.uint64]


class Records:
    """The records of one block. Nothing but their numbers is read before it is asked for; the slots must be leased."""

    __slots__ = ("_block", "_control", "_kept", "_rows")

    def __init__(self, control: Control, block: Block) -> None:
        """Look whether they are the block's.

        Raises:
            SlotOverwrittenError: the slots hold other pairs, which a daemon that keeps the protocol lets happen to none
                but readers that skip.
        """
        slots, table, seq, count = control.geometry.slots, control.slot_table, block.seq, block.pairs
        first = seq % slots
        if first + count <= slots:
            rows = table[first : first + count]
        else:
            rows = np.concatenate((table[first:], table[: first + count - slots]))
        if rows.item(0, SlotRecord.SEQ) != seq or rows.item(count - 1, SlotRecord.SEQ) != seq + count - 1:
            raise SlotOverwrittenError(
                f"Slot {first} of ring {control.descriptor.ring!r} holds pair {rows[0, SlotRecord.SEQ]} where pair "
                f"{seq} was promised: a defect of ringfeed, please report it; a restart of the trainer helps."
            )
        self._control, self._block, self._rows = control, block, rows
        self._kept: tuple[list[str], npt.NDArray[np.bool_]] | None = None

    def keep(self) -> None:
        """Read what is asked for later, since the slots are about to be given back."""
        self._kept = (self.ids(), self.valid())

    def valid(self) -> npt.NDArray[np.bool_]:
        """``(B,)``; see `Batch.valid`."""
        if self._kept is not None:
            return self._kept[1]
        if self._block.repeated:
            return np.zeros(self._block.pairs, np.bool_)
        return (self._rows[:, SlotRecord.FLAGS] & _VALID).astype(np.bool_)

    def ids(self) -> list[str]:
        """The ids of the pairs, B of them."""
        if self._kept is not None:
            return self._kept[0]
        control, slots = self._control, self._control.geometry.slots
        return [control.slot_id(seq % slots) for seq in range(self._block.seq, self._block.end)]

    @property
    def image_sizes(self) -> Sizes:
        """``(B, 2)``: heights and widths in pixels."""
        return self._rows[:, _IMAGE_SIZE]

    @property
    def label_sizes(self) -> Sizes:
        """``(B, 2)``: heights and widths in pixels."""
        return self._rows[:, _LABEL_SIZE]

"""The data segment as one consumer maps it: its fields' rows, none of which show what this process wrote earlier.

Mappings are private: what a trainer writes through a tensor that is not guarded reaches no other process. But a page
that was written into is this process's own from then on, and would show its pixels to later batches in that slot too.
So pages are looked at before a slot is read again, and where one was written into, everything is mapped afresh. The
same is done where batches move out of the ring (see `move_out`), and docs/adr/0001-in-place-writes.md tells why.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import threading
import weakref
from typing import Final

from ringfeed.errors import NotTrustedError
from ringfeed.reader.fields import FieldRows
from ringfeed.reader.lease import Lease
from ringfeed.shm import access as trust
from ringfeed.shm import pages, segment
from ringfeed.shm.descriptor import Descriptor

LOOK_BYTES: Final = 256 << 20
"""Rows that are looked at together, so that it is done for one batch in many; it takes less than a millisecond."""


class RingData:
    """The mapped fields of one generation of a ring.

    Attributes:
        image, label: the fields.
        clean_until: slots of pairs below it, from the next one to be read on, need no `clean`.
    """

    def __init__(self, descriptor: Descriptor) -> None:
        """Map them.

        Raises:
            FileNotFoundError: this generation is gone already.
            NotTrustedError: the segment is not what the descriptor says.
            OSError: the kernel refused.
        """
        geometry = descriptor.geometry
        fd = segment.open_existing(descriptor.data, writable=False)
        weakref.finalize(self, os.close, fd).atexit = False
        if os.fstat(fd).st_size != geometry.data_bytes:
            raise NotTrustedError(
                f"{trust.describe(segment.shm_path(descriptor.data))} has not the size its descriptor says; restart "
                f"the daemon"
            )
        self.image, self.label = (FieldRows(field, geometry, fd) for field in (geometry.image, geometry.label))
        self._slots = geometry.slots
        fields = (geometry.image, geometry.label)
        self._whole_pages = not any((field.offset | field.row_bytes) % mmap.PAGESIZE for field in fields)
        self._look_slots = LOOK_BYTES // (geometry.image.row_bytes + geometry.label.row_bytes)
        self.clean_until = self._looked_until = 0
        self._loose = False
        self._writable = pages.copies_on_write()
        self._page_map: pages.PageMap | None = None  # opened at the first look

    def clean(self, seq: int, count: int, *, published: int, oldest: int) -> None:
        """Make sure that slots which are about to be read show the ring's pixels, and not what was written here.

        Args:
            seq, count: the pairs that are read now; as many later ones as possible are looked at together with them.
            published: number of the first pair that is not published.
            oldest: number of the first pair that is leased.

        Raises:
            OSError: the kernel refused.
        """
        free = oldest + self._slots  # slots of pairs from `seq` to below it are under no array
        # A write into a leased slot also copies what it shares a page with: a neighbour that needs its bytes by then.
        until = free if self._whole_pages else min(free, published)
        count = min(until - seq, max(count, self._look_slots))
        first = seq % self._slots
        if seq + count < self._looked_until:  # since that look, only a write into the slot before may have copied any
            places = [self.image.beginning(first), self.label.beginning(first)]
        else:
            ahead = min(free - seq, max(count, self._look_slots))
            places = [*self.image.places(first, ahead), *self.label.places(first, ahead)]
            self._looked_until = seq + ahead
        if self._loose or self._written(places):
            self._map_afresh()
            self._loose = False
        self.clean_until = seq + count

    def _written(self, places: list[tuple[int, int]]) -> bool:
        if not self._writable:
            return False
        try:
            self._page_map = self._page_map or pages.PageMap()
            return self._page_map.written(places)
        except OSError:  # no descriptor is left, or the process has changed its user: better once too often
            return True

    def loosen(self) -> None:
        """Take note that arrays live whose slots were given back: they may be written through at any time."""
        self._loose = True
        self.clean_until = self._looked_until = 0

    def move_out(self, leases: list[Lease], *, alone: bool) -> None:
        """Give leased slots back under living arrays, which keep their addresses and their bytes.

        Args:
            leases: whose arrays are those of `image` and `label`, in this order.
            alone: no other thread makes arrays over this data meanwhile, and ``leases`` are all that are held.

        Raises:
            OSError: there is no memory; the leases go on.
        """
        with _MOVING:
            self._map_afresh()
            held = [lease.arrays() for lease in leases]  # from here on, none of them dies
            for field, rows in zip((self.image, self.label), zip(*filter(None, held), strict=True), strict=False):
                field.copy_out([one for one in rows if one is not None])
            for lease in leases:
                lease.move()
            if alone:
                with contextlib.suppress(OSError):
                    self.image.let_go()
                    self.label.let_go()

    def _map_afresh(self) -> None:
        with _MOVING:
            self.image.renew()
            self.label.renew()


_MOVING = threading.RLock()
"""Held by the one thread that changes mappings; a signal's handler, or a finaliser, may come in the middle of it."""


def _renew_lock() -> None:
    global _MOVING  # noqa: PLW0603  # the thread that held it at the fork is not in the child
    _MOVING = threading.RLock()


os.register_at_fork(after_in_child=_renew_lock)

"""One field of the ring as a consumer maps it: consecutive slots' rows as one array."""

from __future__ import annotations

import mmap
import weakref
from typing import Any

import numpy as np
import numpy.typing as npt

from ringfeed.shm import pages, segment
from ringfeed.shm.layout import Field, Geometry, page_ceil

Pixels = npt.NDArray[Any]


class FieldRows:
    """Makes arrays over a field's mapping, which may be replaced by another one of the same memory."""

    def __init__(self, field: Field, geometry: Geometry, fd: int) -> None:
        """Map the field.

        Args:
            fd: of the data segment; used by `renew` as well.

        Raises:
            OSError: the kernel refused.
        """
        self._fd = fd
        self._slots = geometry.slots
        self._row_shape, self._row_bytes, self._dtype = field.row_shape, field.row_bytes, np.dtype(field.dtype)
        self._offset, length = field.offset, geometry.slots * field.row_bytes
        self._mirrored = geometry.mirrored and pages.can_repeat(self._offset, length)
        self._length = length if self._mirrored else page_ceil(length)
        self._mappings: list[_Mapping] = []
        self.renew()

    def renew(self) -> None:
        """Map the field once more, for the arrays to come; those over the previous mapping keep it.

        Raises:
            OSError: the kernel refused; nothing has changed.
        """
        view = segment.map_private(self._fd, self._offset, self._length, twice=self._mirrored)
        mapping = _Mapping(view)
        self._mappings = [*filter(_Mapping.lives, self._mappings), mapping]
        self._now = (view.toreadonly(), mapping)  # at one moment: Ctrl-C may come between any two

    @property
    def buffer(self) -> memoryview:
        """The mapping that the next arrays are made over, read-only; of twice the field where the ring is mirrored."""
        return self._now[0]

    def read(self, first: int, count: int, *, copy: bool) -> Pixels:
        """The rows of ``count`` slots from ``first`` on, as one C-contiguous array ``(count, *row_shape)``.

        Read-only, and over the mapping itself unless ``copy``; copied as well where they wrap round the end of a ring
        that is not mirrored, or not by whole pages of this machine.
        """
        # Not a slice of one array over all rows: views of a slice keep that array alive, and not the slice.
        if self._mirrored or first + count <= self._slots:
            shape, offset = (count, *self._row_shape), first * self._row_bytes
            rows: Pixels = np.ndarray(shape, self._dtype, self._now[0], offset)
            return rows.copy() if copy else rows
        ring: Pixels = np.ndarray((self._slots, *self._row_shape), self._dtype, self._now[0])
        rows = np.concatenate((ring[first:], ring[: first + count - self._slots]))
        rows.setflags(write=copy)
        return rows

    def places(self, first: int, count: int) -> list[tuple[int, int]]:
        """Return addresses and sizes of all places where `read` may look for slots, which may wrap round the end."""
        address, beyond = self._now[1].address, first + count - self._slots
        here = count if self._mirrored else min(count, self._slots - first)
        places = [(address + first * self._row_bytes, here * self._row_bytes)]
        if beyond > 0:
            places.append((address, beyond * self._row_bytes))
        return places

    def beginning(self, slot: int) -> tuple[int, int]:
        """Return address and size of a slot's first byte, on the page that it may share with the slot before."""
        return self._now[1].address + slot * self._row_bytes, 1

    def copy_out(self, held: list[Pixels]) -> None:
        """Give arrays memory of their own, at the addresses where they are.

        Nothing is done for those that are copies already.

        Args:
            held: what `read` returned.

        Raises:
            OSError: there is no memory.
        """
        for address, nbytes in pages.spans((rows.ctypes.data, rows.nbytes) for rows in held if not rows.flags.owndata):
            for mapping in self._mappings:
                if mapping.address < address + nbytes and address < mapping.address + mapping.size:  # maybe of two
                    mapping.kept.append((address, nbytes))  # before the copy: from then on nothing else has these bytes
            pages.copy_out(address, nbytes)

    def let_go(self) -> None:
        """Give previous mappings' memory back, except for what was copied out; no other array over them may be in use.

        Raises:
            OSError: the process has too many mappings.
        """
        former = [mapping for mapping in self._mappings if mapping is not self._now[1]]
        self._mappings = [self._now[1]]
        for mapping in former:
            if mapping.lives():
                mapping.blank_the_rest()


class _Mapping:
    """Where a field is, or was, mapped. Does not keep the mapping.

    Attributes:
        kept: addresses and sizes of the pages that are copies by now, in no order; they may overlap, and may reach
            into a mapping that follows.
    """

    def __init__(self, view: memoryview) -> None:
        self.address: int = np.frombuffer(view, np.uint8).ctypes.data
        self.size = view.nbytes
        self.kept: list[tuple[int, int]] = []
        self._pages = weakref.ref(view.obj)

    def lives(self) -> bool:
        return self._pages() is not None

    def blank_the_rest(self) -> None:
        alive = self._pages()  # not unmapped meanwhile
        begin = self.address - self.address % mmap.PAGESIZE  # a file is mapped by whole pages
        end = self.address + self.size
        for address, nbytes in [*sorted(self.kept), (end, 0)]:
            if begin < address:
                pages.blank(begin, address - begin)
            begin = max(begin, address + nbytes)
        del alive

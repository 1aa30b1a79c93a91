"""One field of the ring as a consumer maps it: consecutive slots' rows as one array."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ringfeed.layout import Field, Geometry

Pixels = npt.NDArray[Any]


class FieldRows:
    """Makes arrays over a field's mapping.

    Attributes:
        buffer: the mapping, read-only; of twice the field where the ring is mirrored.
    """

    def __init__(self, field: Field, geometry: Geometry, buffer: memoryview) -> None:
        self.buffer = buffer
        self._slots = geometry.slots
        self._mirrored = geometry.mirrored
        self._row_shape, self._row_bytes, self._dtype = field.row_shape, field.row_bytes, np.dtype(field.dtype)

    def read(self, first: int, count: int, *, copy: bool) -> Pixels:
        """The rows of ``count`` slots from ``first`` on, as one C-contiguous array ``(count, *row_shape)``.

        Read-only, and over the mapping itself unless ``copy``; copied as well where they wrap round the end of a ring
        that is not mirrored.
        """
        # Not a slice of one array over all rows: views of a slice keep that array alive, and not the slice.
        if self._mirrored or first + count <= self._slots:
            shape, offset = (count, *self._row_shape), first * self._row_bytes
            rows: Pixels = np.ndarray(shape, self._dtype, self.buffer, offset)
            return rows.copy() if copy else rows
        ring: Pixels = np.ndarray((self._slots, *self._row_shape), self._dtype, self.buffer)
        rows = np.concatenate((ring[first:], ring[: first + count - self._slots]))
        rows.setflags(write=copy)
        return rows

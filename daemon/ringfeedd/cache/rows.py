"""The rows of the memory tier: one file in shared memory, whose rows hold what a slot of the ring holds.

Workers copy rows into slots and slots into rows; the supervisor alone says which, and writes each row's record.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from ringfeed.shm import segment
from ringfeed.shm.layout import PAGE_BYTES

RECORD_BYTES: Final = 64
"""Before a row's pixels: the words of `RECORD`. Writer: the supervisor."""

RECORD: Final = struct.Struct("<6Q")
"""Hash of the id, version, sizes, sum of the row, 0, seal."""

FIRST_ROW: Final = PAGE_BYTES
"""Offset of row 0; the header is before it."""

_ALIGNED: Final = 64
_WORD: Final = 8


@dataclass(frozen=True, slots=True)
class RowGeometry:
    """What a row consists of, in bytes: its record, the image, the label, and zeros up to `pitch`."""

    image_bytes: int
    label_bytes: int

    @property
    def pitch(self) -> int:
        """From one row to the next."""
        return -(-(RECORD_BYTES + self.image_bytes + self.label_bytes) // _ALIGNED) * _ALIGNED

    def offset(self, row: int) -> int:
        """Where a row begins in the file."""
        return FIRST_ROW + row * self.pitch

    def file_bytes(self, rows: int) -> int:
        """Size of a file of so many rows."""
        return self.offset(rows)


class RowsSpec(msgspec.Struct, frozen=True):
    """What a worker needs to know of the memory tier.

    Attributes:
        fd: the inherited descriptor of the file.
        rows: that it has.
    """

    fd: int
    rows: int


class Rows:
    """A worker's view of the memory tier."""

    def __init__(
        self, spec: RowsSpec, image_shape: tuple[int, ...], label_shape: tuple[int, ...], label_dtype: np.dtype[Any]
    ) -> None:
        """Map the file.

        Args:
            image_shape, label_shape, label_dtype: of a slot's rows.
        """
        image_bytes = int(np.prod(image_shape))
        geometry = RowGeometry(image_bytes, int(np.prod(label_shape)) * label_dtype.itemsize)
        size = geometry.file_bytes(spec.rows)
        view = segment.map_region(spec.fd, 0, size, writable=True, twice=False)
        self._image = _rows(view, spec.rows, image_shape, np.dtype(np.uint8), RECORD_BYTES, geometry.pitch)
        label_offset = RECORD_BYTES + image_bytes
        self._label_bytes = _rows(
            view, spec.rows, (geometry.label_bytes,), np.dtype(np.uint8), label_offset, geometry.pitch
        )
        words = (geometry.pitch - RECORD_BYTES) // _WORD
        self._words = _rows(view, spec.rows, (words,), np.dtype("<u8"), RECORD_BYTES, geometry.pitch)

    def fill(self, row: int, image: npt.NDArray[Any], label: npt.NDArray[Any]) -> int:
        """Copy a slot's rows into a row; return the row's sum."""
        np.copyto(self._image[row], image)
        np.copyto(self._label_bytes[row], label.reshape(-1).view(np.uint8))
        return self.sum(row)

    def copy(self, row: int, image: npt.NDArray[Any], label: npt.NDArray[Any]) -> None:
        """Copy a row into a slot's rows."""
        np.copyto(image, self._image[row])
        np.copyto(label.reshape(-1).view(np.uint8), self._label_bytes[row])

    def sum(self, row: int) -> int:
        """Return the sum of a row's words modulo 2**64, which is changed by any bit that flips; never 0."""
        return int(np.add.reduce(self._words[row])) or 1  # 0 stands for no comparison


def _rows(
    view: memoryview, rows: int, shape: tuple[int, ...], dtype: np.dtype[Any], offset: int, pitch: int
) -> npt.NDArray[Any]:
    inner = np.ndarray(shape, dtype).strides
    return np.ndarray((rows, *shape), dtype, buffer=view, offset=FIRST_ROW + offset, strides=(pitch, *inner))

"""The rows of the memory tier: one file in shared memory, whose rows hold what a slot of the ring holds.

Workers copy rows into slots and slots into rows; the supervisor alone says which, and writes each row's record.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from ringfeed.shm import segment
from ringfeed.shm.layout import PAGE_BYTES
from ringfeedd.decode.spec import DecodeSpec

RECORD_BYTES: Final = 64
"""Before a row's pixels: the words of `RECORD`. Writer: the supervisor."""

RECORD: Final = struct.Struct("<6Q")
"""Hash of the id, version, sizes, sum of the row, 0, seal."""

FIRST_ROW: Final = PAGE_BYTES
"""Offset of row 0; the header is before it."""

RowBytes: TypeAlias = npt.NDArray[np.uint8]

_ALIGNED: Final = 64
_WORD: Final = 8


@dataclass(frozen=True, slots=True)
class RowGeometry:
    """What a row consists of, in bytes: its record, the image, the label, and zeros up to `pitch`."""

    image_bytes: int
    label_bytes: int

    @classmethod
    def of(cls, spec: DecodeSpec) -> RowGeometry:
        """Return that of what a ring's slots hold."""
        image, label = math.prod(spec.image_row_shape), math.prod(spec.label_row_shape)
        return cls(image, label * spec.label_dtype.itemsize)

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

    def __init__(self, spec: RowsSpec, geometry: RowGeometry) -> None:
        """Map the file."""
        view = segment.map_region(spec.fd, 0, geometry.file_bytes(spec.rows), writable=True, twice=False)
        label_offset = RECORD_BYTES + geometry.image_bytes
        self._image = _parts(view, spec.rows, geometry.image_bytes, "u1", RECORD_BYTES, geometry.pitch)
        self._label = _parts(view, spec.rows, geometry.label_bytes, "u1", label_offset, geometry.pitch)
        words = (geometry.pitch - RECORD_BYTES) // _WORD
        self._words = _parts(view, spec.rows, words, "<u8", RECORD_BYTES, geometry.pitch)

    def fill(self, row: int, image: RowBytes, label: RowBytes) -> int:
        """Copy a slot's rows into a row; return the row's sum."""
        np.copyto(self._image[row], image)
        np.copyto(self._label[row], label)
        return self.sum(row)

    def copy(self, row: int, image: RowBytes, label: RowBytes) -> None:
        """Copy a row into a slot's rows."""
        np.copyto(image, self._image[row])
        np.copyto(label, self._label[row])

    def sum(self, row: int) -> int:
        """Return the sum of a row's words modulo 2**64, which is changed by any bit that flips; never 0."""
        return int(np.add.reduce(self._words[row])) or 1  # 0 stands for no comparison


def as_bytes(rows: npt.NDArray[Any]) -> RowBytes:
    """Return dense rows ``(rows, ...)`` of any type as bytes ``(rows, bytes)``, over the same memory."""
    return rows.reshape(len(rows), -1).view(np.uint8)


def _parts(view: memoryview, rows: int, count: int, dtype: str, offset: int, pitch: int) -> npt.NDArray[Any]:
    """Return ``(rows, count)``: what is at an offset within each row."""
    kind = np.dtype(dtype)
    return np.ndarray((rows, count), kind, view, FIRST_ROW + offset, (pitch, kind.itemsize))

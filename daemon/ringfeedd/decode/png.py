"""A label's stored values straight from a PNG of one channel: inflate, drop the filter bytes, and there they are.

That is all there is to a PNG whose rows are not filtered, which is how palettes are written. Pillow does the same in
smaller steps, and several times slower. Whatever is unusual here is declined, so Pillow judges it: nothing is taken
that Pillow would refuse, and no other values come of it.
"""

from __future__ import annotations

import contextlib
import importlib
import zlib
from types import ModuleType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ringfeedd.decode.image import Picture
from ringfeedd.decode.metadata import is_carried

deflate: ModuleType | None = None
"""libdeflate, of the extra ``fast``: five times as fast as zlib."""

with contextlib.suppress(ImportError):
    deflate = importlib.import_module("deflate")

_BITS: Final = {"P": 8, "P;4": 4, "P;2": 2, "P;1": 1, "L": 8, "L;4": 4, "L;2": 2, "1": 1}
"""Bits of a value, by what Pillow calls the way in which a PNG's values are packed."""

_NEVER_FILTERED: Final = "P"
"""By common encoders. With the others it depends on the encoder: a look at the first row costs less than all of it."""


def label_from_unfiltered_png(picture: Picture, out: NDArray[np.uint8] | NDArray[np.uint16]) -> bool:
    """Write a palette's indices or a grey PNG's values, as they are stored, into ``out`` of shape (height, width).

    Returns:
        False where it declines; ``out`` may then hold anything.

    Raises:
        MemoryError: the rows have no room.
    """
    header = picture.header
    bits = _BITS.get(header.packing)
    if bits is None or header.rows_at is None or out.shape != (picture.height, picture.width):
        return False
    compressed = _image_data(picture.data, header.rows_at)
    if compressed is None:
        return False
    height, width = out.shape
    stride = 1 + (width * bits + 7) // 8
    if header.packing != _NEVER_FILTERED and _begins_filtered(compressed):
        return False
    rows = _inflate(compressed, height * stride)
    if rows is None or rows[::stride] != bytes(height):  # a row's first byte tells its filter; 0: none
        return False
    _unpack(np.frombuffer(rows, np.uint8).reshape(height, stride)[:, 1:], bits, out)
    return True


def _image_data(data: bytes, start: int) -> bytes | memoryview | None:
    """The compressed rows; None where anything but their chunks and metadata stands before the file's end.

    As Pillow does, it does not look at these chunks' checksums: the rows have one of their own.

    Args:
        start: where the first chunk's content begins.
    """
    view = memoryview(data)
    parts = []
    at = start - 8
    while (kind := data[at + 4 : at + 8]) != b"IEND":
        end = at + 8 + int.from_bytes(data[at : at + 4])
        if end + 4 > len(data):
            return None
        if kind == b"IDAT":
            parts.append(view[at + 8 : end])
        elif not (kind.isalpha() and is_carried(kind)):
            return None
        at = end + 4
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _begins_filtered(compressed: bytes | memoryview) -> bool:
    try:
        return zlib.decompressobj().decompress(compressed, 1) != b"\0"
    except zlib.error:
        return True


def _inflate(compressed: bytes | memoryview, size: int) -> bytes | bytearray | None:
    """Exactly ``size`` bytes with the right checksum, or None; a stream of more costs no more memory than that."""
    rows: bytes | bytearray
    if deflate is not None:
        try:
            rows = deflate.zlib_decompress(compressed, size)
        except deflate.DeflateError:
            return None
        whole = True
    else:
        stream = zlib.decompressobj()
        try:
            rows = stream.decompress(compressed, size)
            rows += stream.decompress(stream.unconsumed_tail, 1)  # the checksum comes after the last byte
        except zlib.error:
            return None
        whole = stream.eof
    return rows if whole and len(rows) == size else None


def _unpack(packed: NDArray[np.uint8], bits: int, out: NDArray[np.uint8] | NDArray[np.uint16]) -> None:
    """Rows of bytes, each of several values from the left, to one value each; what is left of the last is dropped."""
    each = 8 // bits
    if each == 1:
        np.copyto(out, packed)
        return
    width = out.shape[1]
    for number in range(min(each, width)):
        shown = packed[:, : -(-(width - number) // each)]
        np.copyto(out[:, number::each], shown >> (8 - bits * (number + 1)) & (1 << bits) - 1)

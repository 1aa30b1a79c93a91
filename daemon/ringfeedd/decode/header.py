"""The headers of the most common files, read in some steps: what Pillow's readers would find in them.

Pillow takes 50 to 100 us to open a file, a twentieth of decoding it. Most files need little of that: a baseline JPEG of
tables, a frame and metadata, a PNG of grey values or of a palette and its indices. Those are read here. Anything else
is declined, so Pillow judges it: nothing is taken that Pillow would refuse of the bare file (see
`ringfeedd.decode.metadata`), and nothing else is found.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final
from zlib import crc32

from ringfeedd.decode.metadata import APP0, JPEG_MAGIC, METADATA_SEGMENTS, PNG_MAGIC


@dataclass(frozen=True, slots=True)
class Header:
    """What is known of a picture before it is decoded; sizes in pixels, as it is stored.

    Attributes:
        is_jpeg: else it is a PNG.
        mode: Pillow's name for the kind of its pixels.
        packing: Pillow's name for how a PNG's values are packed, e.g. "L;2"; empty for a JPEG.
        rows_at: where, in a PNG whose pixels are one picture in one piece, the first part of its compressed rows
            begins; None elsewhere.
        quantized: a JPEG that is not lossless, so it can be shrunk while it is decoded.
    """

    is_jpeg: bool
    width: int
    height: int
    mode: str
    packing: str = ""
    rows_at: int | None = None
    quantized: bool = False


def plain_header(data: bytes) -> Header | None:
    """The header of a plain file; None where Pillow has to look."""
    try:
        if data.startswith(JPEG_MAGIC):
            return _plain_jpeg(data)
        if data.startswith(PNG_MAGIC):
            return _plain_png(data)
    except (struct.error, IndexError):  # it ends within its header
        pass
    return None


# JPEG (ITU-T T.81, annex B): segments of a marker, a length that counts itself, and so much less two bytes.

_SEGMENT: Final = struct.Struct(">HH")
_FRAME: Final = struct.Struct(">BHHB")
_FRAME_BASELINE, _HUFFMAN, _SCAN, _TABLES, _RESTART = 0xFFC0, 0xFFC4, 0xFFDA, 0xFFDB, 0xFFDD
_PASSED_OVER: Final = {_HUFFMAN, _SCAN, _RESTART, *METADATA_SEGMENTS}
_JFIF: Final = b"JFIF\0"
_JFIF_BYTES: Final = 14
_TABLE_BYTES: Final = 65
_BITS: Final = 8
_MODES_BY_COMPONENTS: Final = {1: "L", 3: "RGB"}


def _plain_jpeg(data: bytes) -> Header | None:
    at, marker, frame_at, quantized = 2, 0, 0, False
    while marker != _SCAN:
        marker, length = _SEGMENT.unpack_from(data, at)
        begin, at = at + _SEGMENT.size, at + 2 + length
        if length < 2 or at > len(data) or not _is_plain_segment(marker, data, begin, at):
            return None
        if marker == _FRAME_BASELINE:
            if frame_at:
                return None
            frame_at = begin
        quantized = quantized or (marker == _TABLES and begin < at)
    if not (frame_at and quantized):
        return None
    _, height, width, components = _FRAME.unpack_from(data, frame_at)
    if not (width and height):
        return None
    return Header(is_jpeg=True, width=width, height=height, mode=_MODES_BY_COMPONENTS[components], quantized=True)


def _is_plain_segment(marker: int, data: bytes, begin: int, end: int) -> bool:
    """Whether a segment, without its marker and length, is one that Pillow's reader takes as it is or passes over."""
    if marker == _TABLES:  # of 8 bits; the others are for other than baseline files
        return not (end - begin) % _TABLE_BYTES and not any(data[one] >> 4 for one in range(begin, end, _TABLE_BYTES))
    if marker == _FRAME_BASELINE:
        bits, components = data[begin], data[begin + 5]
        return bits == _BITS and components in _MODES_BY_COMPONENTS and end - begin == 6 + 3 * components
    if marker == APP0:
        return end - begin >= _JFIF_BYTES and data.startswith(_JFIF, begin)
    return marker in _PASSED_OVER


# PNG (https://www.w3.org/TR/png-3/): chunks of a length, a kind, so many bytes and a checksum of kind and bytes.

_CHUNK: Final = struct.Struct(">I4s")
_IHDR: Final = struct.Struct(">IIBBBBB")
_CHECKSUM: Final = struct.Struct(">I")
_IHDR_AT, _FIRST_CHUNK_AT = 8, 33
_GREY, _PALETTE = 0, 3
_PALETTE_BYTES: Final = range(3, 3 * 256 + 1, 3)
_KINDS: Final = {
    (1, _GREY): ("1", "1"),
    (2, _GREY): ("L", "L;2"),
    (4, _GREY): ("L", "L;4"),
    (8, _GREY): ("L", "L"),
    (1, _PALETTE): ("P", "P;1"),
    (2, _PALETTE): ("P", "P;2"),
    (4, _PALETTE): ("P", "P;4"),
    (8, _PALETTE): ("P", "P"),
}
"""Bits of a value and colour type, to Pillow's mode and packing."""


def _plain_png(data: bytes) -> Header | None:
    length, kind = _CHUNK.unpack_from(data, _IHDR_AT)
    width, height, bits, colours, *rest = _IHDR.unpack_from(data, _IHDR_AT + 8)
    found = _KINDS.get((bits, colours))
    if (length, kind) != (_IHDR.size, b"IHDR") or found is None or not _is_sound(data, _IHDR_AT, length):
        return None
    if any(rest) or not (width and height):  # the rest: how it is compressed, filtered and interlaced
        return None
    at = _FIRST_CHUNK_AT
    length, kind = _CHUNK.unpack_from(data, at)
    if colours == _PALETTE:
        if kind != b"PLTE" or length not in _PALETTE_BYTES or not _is_sound(data, at, length):
            return None
        at += 12 + length
        length, kind = _CHUNK.unpack_from(data, at)
    if kind != b"IDAT":
        return None
    return Header(is_jpeg=False, width=width, height=height, mode=found[0], packing=found[1], rows_at=at + 8)


def _is_sound(data: bytes, at: int, length: int) -> bool:
    """Whether the chunk at `at` is as long as it says, and as it was written."""
    end = at + 8 + length
    (checksum,) = _CHECKSUM.unpack_from(data, end)
    return bool(crc32(memoryview(data)[at + 4 : end]) == checksum)

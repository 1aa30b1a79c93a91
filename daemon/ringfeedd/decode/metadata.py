"""A picture's file without what it only carries: a profile, a text or EXIF data costs no pixel, whatever is in it.

Pillow's readers parse such parts when they open a file, and refuse the whole of it for one that they cannot parse or
find too large. So they get the rest: what decides about pixels. A file is walked from its beginning up to whatever is
unusual; what comes after it is left as it is, and is Pillow's to judge.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

JPEG_MAGIC: Final = b"\xff\xd8\xff"
PNG_MAGIC: Final = b"\x89PNG\r\n\x1a\n"

_SEGMENT: Final = struct.Struct(">HH")
_CHUNK: Final = struct.Struct(">I4s")
_ANCILLARY: Final = 0x20
"""The bit of a chunk's kind by which a PNG says that it can be decoded without that chunk."""

_ANIMATION: Final = frozenset({b"acTL", b"fcTL", b"fdAT"})

APP0, APP1, ADOBE, LAST_APP, COMMENT, _SCAN = 0xFFE0, 0xFFE1, 0xFFEE, 0xFFEF, 0xFFFE, 0xFFDA
_WITHOUT_LENGTH: Final = {0xFF01, *range(0xFFD0, 0xFFDA)}
METADATA_SEGMENTS: Final = frozenset({*range(APP1, ADOBE), LAST_APP, COMMENT})
"""Markers of segments that no decoder looks at."""


class Part(NamedTuple):
    """A JPEG's segment, or a PNG's chunk; positions count bytes of the file.

    Attributes:
        kind: a JPEG's marker as two bytes, or a chunk's kind.
        start, end: of the whole part.
        begin, stop: of its content.
        carried: the pixels do not depend on it.
    """

    kind: bytes
    start: int
    end: int
    begin: int
    stop: int
    carried: bool


def bare(data: bytes) -> bytes:
    """Return the file without its metadata; the very same object where it carries none, or is neither JPEG nor PNG."""
    parts = list(parts_of(data))
    ends = bool(parts) and parts[-1].kind == b"IEND"
    kept, last = [], 0
    for part in parts:
        # half of an animation's chunks, where a walk breaks off, would be an error
        if part.carried and (ends or part.kind not in _ANIMATION):
            kept.append(data[last : part.start])
            last = part.end
    return b"".join([*kept, data[last:]]) if last else data


def parts_of(data: bytes) -> Iterator[Part]:
    """Yield a JPEG's segments before its first scan, or a PNG's chunks, up to whatever is unusual."""
    if data.startswith(JPEG_MAGIC):
        return _segments(data)
    return _chunks(data) if data.startswith(PNG_MAGIC) else iter(())


def _segments(data: bytes) -> Iterator[Part]:
    at, size = 2, len(data)
    while at + _SEGMENT.size <= size:
        marker, length = _SEGMENT.unpack_from(data, at)
        if marker == 0xFFFF:  # fill bytes may stand before any marker
            at += 1
            continue
        end = at + 2 + length
        if marker < 0xFF00 or marker in _WITHOUT_LENGTH or marker == _SCAN or length < 2 or end > size:
            return
        if data[end : end + 1] != b"\xff":  # it lies about its length: libjpeg goes on with what is in it
            return
        yield Part(data[at : at + 2], at, end, at + 4, end, _is_carried(marker, data, at + 4, end))
        at = end


def _is_carried(marker: int, data: bytes, begin: int, end: int) -> bool:
    """Whether a segment is metadata; of APP0 and APP14 libjpeg looks only at what names itself so and is complete."""
    if marker == APP0:
        return not (data.startswith(b"JFIF\0", begin) and end - begin >= 14)
    if marker == ADOBE:
        return not (data.startswith(b"Adobe", begin) and end - begin >= 12)
    return marker in METADATA_SEGMENTS


def is_carried(kind: bytes) -> bool:
    """Whether a PNG can be decoded without the chunks of this kind."""
    return bool(kind[0] & _ANCILLARY)


def _chunks(data: bytes) -> Iterator[Part]:
    at, size = len(PNG_MAGIC), len(data)
    while at + _CHUNK.size <= size:
        length, kind = _CHUNK.unpack_from(data, at)
        end = at + 12 + length
        if end > size or not kind.isalpha():
            return
        yield Part(kind, at, end, at + 8, end - 4, is_carried(kind))
        if kind == b"IEND":
            return
        at = end

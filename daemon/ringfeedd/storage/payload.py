"""Bodies that may be packed, unpacked within a bound: a kilobyte of gzip can hold a gigabyte. Pure."""

from __future__ import annotations

import contextlib
import zlib
from typing import Final

GZIP_MAGIC: Final = b"\x1f\x8b"
_GZIP_WINDOW: Final = 16 + zlib.MAX_WBITS

MAX_ERROR_TEXT_BYTES: Final = 1 << 16
"""The part of an error's body that is kept; what a server says in one is a line or two."""


_FED_BYTES: Final = 1 << 14
_PIECE_BYTES: Final = 1 << 16


def fits(body: bytes, most: int) -> bool:
    """Return False if a body, or what it unpacks to, is longer than `most` bytes.

    Hold a piece of the content at a time: what is too long costs no memory. True if it begins like gzip and is damaged.
    """
    if not body.startswith(GZIP_MAGIC):
        return len(body) <= most
    unpacker = zlib.decompressobj(_GZIP_WINDOW)
    packed, length = memoryview(body), 0
    try:
        for start in range(0, len(packed), _FED_BYTES):
            rest: bytes | memoryview = packed[start : start + _FED_BYTES]
            while piece := unpacker.decompress(rest, _PIECE_BYTES):
                length += len(piece)
                if length > most:
                    return False
                rest = unpacker.unconsumed_tail
    except zlib.error:
        pass
    return True


def unpacked(body: bytes, most: int) -> bytes:
    """Return the content of a body, unpacked if it is gzip; of what is longer than `most` bytes, `most` + 1 of them.

    Raises:
        ValueError: it begins like gzip, and is damaged or incomplete.
    """
    if not body.startswith(GZIP_MAGIC):
        return body[: most + 1]
    unpacker = zlib.decompressobj(_GZIP_WINDOW)
    try:
        content = unpacker.decompress(body, most + 1)
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if not unpacker.eof and len(content) <= most:
        raise ValueError("it ends too early")
    return content


def text_of(body: bytes) -> str:
    """Return the text of an error's body, at most `MAX_ERROR_TEXT_BYTES` of it."""
    with contextlib.suppress(ValueError):
        body = unpacked(body, MAX_ERROR_TEXT_BYTES)
    return body[:MAX_ERROR_TEXT_BYTES].decode(errors="replace")

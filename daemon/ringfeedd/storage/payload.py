"""Bodies that may be packed, unpacked within a bound: a kilobyte of gzip can hold a gigabyte. Pure."""

from __future__ import annotations

import zlib
from typing import Final

GZIP_MAGIC: Final = b"\x1f\x8b"
_GZIP_WINDOW: Final = 16 + zlib.MAX_WBITS

MAX_ERROR_TEXT_BYTES: Final = 1 << 16
"""The part of an error's body that is kept; what a server says in one is a line or two."""


def unpacked(body: bytes, most: int) -> bytes | None:
    """Return the content of a body, unpacked if it is gzip; of what is longer than `most` bytes, `most` + 1 of them.

    None if it begins like gzip, and is damaged or incomplete.
    """
    if not body.startswith(GZIP_MAGIC):
        return body[: most + 1]
    unpacker = zlib.decompressobj(_GZIP_WINDOW)
    try:
        content = unpacker.decompress(body, most + 1)
    except zlib.error:
        return None
    return content if unpacker.eof or len(content) > most else None


def text_of(body: bytes) -> str:
    """Return the text of an error's body, at most `MAX_ERROR_TEXT_BYTES` of it."""
    content = unpacked(body, MAX_ERROR_TEXT_BYTES)
    return (body[:MAX_ERROR_TEXT_BYTES] if content is None else content).decode(errors="replace")

"""The body of an error as text. Pure."""

from __future__ import annotations

import gzip
import zlib
from contextlib import suppress
from typing import Final

_GZIP_MAGIC: Final = b"\x1f\x8b"


def text_of(body: bytes) -> str:
    """The text of an error's body, unpacked where it is gzip; every byte of it is optional."""
    if body.startswith(_GZIP_MAGIC):
        with suppress(OSError, EOFError, zlib.error):
            body = gzip.decompress(body)
    return body.decode(errors="replace")

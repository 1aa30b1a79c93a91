"""The fastest exact codecs that we know, for the floor and for the peers: the same pixels as Pillow's, or an error.

They know the benchmark's own files and refuse others: what is left out (checks, kinds of PNG) is the point of a floor.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import simplejpeg
from PIL import Image

Pixels: TypeAlias = np.ndarray[Any, np.dtype[np.uint8]]
Encoded: TypeAlias = bytes | memoryview


def _inflater() -> tuple[str, Callable[[Encoded, int], bytes | bytearray]]:
    """The fastest inflate that is installed: libdeflate's, ISA-L's, or zlib's; given the size that comes out."""
    try:
        import deflate  # noqa: PLC0415  # each of them is optional
    except ImportError:
        pass
    else:
        return "deflate", deflate.zlib_decompress
    try:
        from isal import isal_zlib  # noqa: PLC0415
    except ImportError:
        return "zlib", lambda data, size: zlib.decompress(data, bufsize=size)
    return "isal", lambda data, size: isal_zlib.decompress(data, bufsize=size)


INFLATER, _inflate = _inflater()


def jpeg_into(data: Encoded, out: Pixels) -> None:
    """A JPEG to (height, width, 3), by libjpeg-turbo straight into it."""
    simplejpeg.decode_jpeg(data, "RGB", buffer=out)


def palette_png_into(data: Encoded, out: Pixels) -> None:
    """An 8-bit palette PNG without filters, which is what encoders write, to its class ids, (height, width).

    Raises:
        ValueError: it is another kind of PNG.
    """
    height, width = out.shape
    if data[8:29] != _IHDR.pack(13, b"IHDR", width, height, 8, 3, 0, 0, 0):
        raise ValueError(f"not an 8-bit palette PNG of {width}x{height}")
    at, parts = 33, []
    while (kind := bytes(data[at + 4 : at + 8])) != b"IEND":
        (length,) = _LENGTH.unpack_from(data, at)
        if kind == b"IDAT":
            parts.append(data[at + 8 : at + 8 + length])
        at += length + 12
    stored = parts[0] if len(parts) == 1 else b"".join(parts)
    rows = np.frombuffer(_inflate(stored, height * (width + 1)), np.uint8).reshape(height, width + 1)
    if rows[:, 0].any():
        raise ValueError("a row of the PNG is filtered")
    out[:] = rows[:, 1:]


def jpeg_by_pillow(data: Encoded, out: Pixels) -> None:
    """A JPEG to (height, width, 3)."""
    out[:] = np.asarray(Image.open(io.BytesIO(data), formats=("JPEG",)).convert("RGB"))


def palette_png_by_pillow(data: Encoded, out: Pixels) -> None:
    """A palette PNG to its class ids, (height, width)."""
    out[:] = np.asarray(Image.open(io.BytesIO(data), formats=("PNG",)))


_IHDR = struct.Struct(">I4sIIBBBBB")
_LENGTH = struct.Struct(">I")

DECODERS: dict[str, tuple[Callable[[Encoded, Pixels], None], Callable[[Encoded, Pixels], None]]] = {
    "fast": (jpeg_into, palette_png_into),
    "pillow": (jpeg_by_pillow, palette_png_by_pillow),
}
"""For an image and for a label, by what a task's settings call them."""

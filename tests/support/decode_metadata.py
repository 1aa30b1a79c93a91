"""Sound pictures with every metadata that files carry, whole and broken."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from decode_reference import encode, photograph, png_chunk
from PIL import Image

PICTURE = Image.fromarray(np.asarray(photograph("flower"))[20:60, 30:78])  # its pixels, and no profile
JPEG = encode(PICTURE, "JPEG")
PNG = encode(PICTURE, "PNG")

TIFF = b"II*\0\x08\0\0\0"


def entry(tag: int, kind: int, count: int, value: bytes) -> bytes:
    return struct.pack("<HHL", tag, kind, count) + value.ljust(4, b"\0")


def exif(*entries: bytes, rest: bytes = b"") -> bytes:
    return TIFF + struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4) + rest


SIX = entry(0x112, 3, 1, b"\x06\0")
TURNED_BY_SIX = {
    "good": exif(SIX),
    "big endian": b"MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0",
    "doubled prefix": b"Exif\0\0" + exif(SIX),
    "two values": exif(entry(0x112, 3, 2, b"\x06\0\x06\0")),
    "rational": exif(entry(0x112, 5, 1, struct.pack("<L", 26)), rest=struct.pack("<LL", 6, 1)),
    "a resolution of 72/0": exif(SIX, entry(0x11A, 5, 1, struct.pack("<L", 38)), rest=struct.pack("<LL", 72, 0)),
    "cut after it": TIFF + b"\2\0" + SIX + b"\x1a\1",
}
AS_STORED = {
    "empty": b"",
    "no TIFF header": b"\0\x08\0\x02\x01\x12\0\x03" + bytes(20),
    "directory beyond its end": b"II*\0\xff\xff\0\0",
    "cut within it": exif(SIX)[:14],
    "nonsense": b"\xff" * 50,
    "orientation 9": exif(entry(0x112, 3, 1, b"\x09\0")),
    "a text as orientation": exif(entry(0x112, 2, 4, b"six\0")),
    "six and a half": exif(entry(0x112, 5, 1, struct.pack("<L", 26)), rest=struct.pack("<LL", 13, 2)),
}


def jpeg_with(*segments: tuple[int, bytes], data: bytes = JPEG, fill: bytes = b"") -> bytes:
    """The JPEG with these segments in front."""
    parts = (fill + struct.pack(">HH", 0xFF00 | marker, len(body) + 2) + body for marker, body in segments)
    return data[:2] + b"".join(parts) + data[2:]


def jpeg_with_exif(block: bytes) -> bytes:
    return jpeg_with((0xE1, b"Exif\0\0" + block))


def png_with(*chunks: bytes, data: bytes = PNG, after: bool = False) -> bytes:
    """The PNG with these chunks before its rows, or after them."""
    at = len(data) - 12 if after else data.index(b"IDAT") - 4
    return data[:at] + b"".join(chunks) + data[at:]


def unpacks_to(size: int) -> bytes:
    return b"a\0\0" + zlib.compress(bytes(size), 9)


def wrong_checksum(chunk: bytes) -> bytes:
    return chunk[:-1] + bytes([chunk[-1] ^ 1])


PNG_METADATA = {
    "a profile of 50 MB": png_chunk(b"iCCP", unpacks_to(50_000_000)),
    "a profile that does not unpack": png_chunk(b"iCCP", b"a\0\0nonsense"),
    "a profile without a name": png_chunk(b"iCCP", b""),
    "a profile compressed in an unknown way": png_chunk(b"iCCP", b"a\0\7xxxx"),
    "a text of 50 MB": png_chunk(b"zTXt", unpacks_to(50_000_000)),
    "70 texts of 1 MB": b"".join(png_chunk(b"zTXt", b"%d" % n + unpacks_to(1_000_000)) for n in range(70)),
    "a text that is cut": png_chunk(b"zTXt", unpacks_to(900)[:-9]),
    "a text compressed in an unknown way": png_chunk(b"zTXt", b"a\0\7xxxx"),
    "an international text of 50 MB": png_chunk(b"iTXt", b"a\0\1\0\0\0" + zlib.compress(bytes(50_000_000), 9)),
    "an international text without parts": png_chunk(b"iTXt", b"a\0\1"),
    "a plain text of 2 MB": png_chunk(b"tEXt", b"a\0" + b"x" * 2_000_000),
    "EXIF data of 2 MB": png_chunk(b"eXIf", exif(SIX) + bytes(2_000_000)),
    "a text with another checksum": wrong_checksum(png_chunk(b"tEXt", b"a\0b")),
    "a text that says it is interlaced": png_chunk(b"tEXt", b"interlace\0yes"),
    "a text that says where it lies": png_chunk(b"tEXt", b"bbox\0here"),
    "a cut gamma": png_chunk(b"gAMA", b"\0"),
    "a cut density": png_chunk(b"pHYs", b"\0"),
    "cut primaries": png_chunk(b"cHRM", b"\0"),
    "an unknown chunk": png_chunk(b"xxXx", b"?"),
    "an animation that is none": png_chunk(b"acTL", b"\0"),
    **{f"EXIF: {name}": png_chunk(b"eXIf", block) for name, block in (TURNED_BY_SIX | AS_STORED).items()},
}
JPEG_METADATA = {
    "a profile without a number": [(0xE2, b"ICC_PROFILE\0")],
    "a profile of other parts": [(0xE2, b"ICC_PROFILE\0\1\2x"), (0xE2, b"ICC_PROFILE\0\1\2x")],
    "a short JFIF": [(0xE0, b"JFIF\0")],
    "a thumbnail": [(0xE0, b"JFXX\0\x10" + JPEG[:300])],
    "a short Adobe": [(0xEE, b"Adobe")],
    "something of Photoshop": [(0xED, b"Photoshop 3.0\x008BIM\3\xed\xff")],
    "something of FlashPix": [(0xE2, b"FPXR\0")],
    "several pictures": [(0xE2, b"MPF\0II*\0\xff\xff\xff\xff")],
    "a comment": [(0xFE, b"\xff\xda\xff\xd9" * 40)],
    "an unknown one": [(0xEF, b""), (0xE5, b"\xff" * 60_000)],
    **{f"EXIF: {name}": [(0xE1, b"Exif\0\0" + block)] for name, block in (TURNED_BY_SIX | AS_STORED).items()},
}
SEEDS = [
    *(
        png_with(PNG_METADATA[name], after=after)
        for after in (False, True)
        for name in ("EXIF: good", "EXIF: nonsense", "a text that is cut", "a profile that does not unpack")
    ),
    *(jpeg_with(*JPEG_METADATA[name]) for name in ("EXIF: cut within it", "a profile without a number")),
]
"""For the fuzzers."""

"""Which way up a picture was taken, by its EXIF or XMP data; data that cannot be parsed says nothing.

What is found is what Pillow's ``ImageOps.exif_transpose`` goes by, without decoding the picture for it, and without an
error or a warning for what phones, scanners and web tools write.
"""

from __future__ import annotations

import re
import struct
import zlib
from contextlib import suppress
from typing import Final

from ringfeedd.decode.metadata import APP1, JPEG_MAGIC, parts_of

AS_STORED: Final = 1

_EXIF: Final = b"Exif\0\0"
_XMP: Final = b"http://ns.adobe.com/xap/1.0/\0"
_XMP_KEYWORD: Final = b"XML:com.adobe.xmp"
_RAW_PROFILE: Final = b"Raw profile type exif"
_IN_XMP: Final = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')
_MAX_TEXT_BYTES: Final = 1 << 20
"""To which a text may unpack; EXIF data in a text is far smaller."""

_APP1: Final = APP1.to_bytes(2, "big")
_ORIENTATION: Final = 0x0112
_ENTRY_BYTES: Final = 12
_INLINE_BYTES: Final = 4
_SHORT, _LONG, _RATIONAL = 3, 4, 5
_FORMATS: Final = {_SHORT: "H", _LONG: "L", _RATIONAL: "LL"}
_UNIT_BYTES: Final = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
"""The size of one value of each of TIFF's types."""


def orientation_of(data: bytes) -> int:
    """Return the EXIF orientation of a JPEG or PNG file, 1 to 8; 1 where it says nothing that can be understood."""
    exif, xmp = _of_jpeg(data) if data.startswith(JPEG_MAGIC) else _of_png(data)
    found = _in_exif(exif)
    if found is None and (match := _IN_XMP.search(xmp)):
        found = int(match[1])
    return found if found is not None and AS_STORED <= found <= 8 else AS_STORED


def _of_jpeg(data: bytes) -> tuple[bytes, bytes]:
    """EXIF and XMP data; EXIF in several segments is one block."""
    exif = xmp = b""
    if _EXIF not in data and _XMP not in data:  # which costs less than a walk
        return exif, xmp
    for part in parts_of(data):
        if part.kind == _APP1 and data.startswith(_EXIF, part.begin):
            exif += data[part.begin + (len(_EXIF) if exif else 0) : part.stop]
        elif part.kind == _APP1 and data.startswith(_XMP, part.begin):
            xmp = data[part.begin + len(_XMP) : part.stop]
    return exif, xmp


def _of_png(data: bytes) -> tuple[bytes, bytes]:
    exif = raw = xmp = b""
    for part in parts_of(data):
        content = data[part.begin : part.stop] if part.carried else b""
        if part.kind == b"eXIf":
            exif = content
        elif content.startswith(_RAW_PROFILE + b"\0") and part.kind in (b"tEXt", b"zTXt"):
            text = content[len(_RAW_PROFILE) + 1 :]
            raw = _from_hex(text if part.kind == b"tEXt" else _unpacked(text[1:]))
        elif content.startswith(_XMP_KEYWORD + b"\0") and part.kind == b"iTXt":
            packed, text = content[len(_XMP_KEYWORD) + 1 :][:1], content[len(_XMP_KEYWORD) + 3 :].split(b"\0", 2)[-1]
            xmp = _unpacked(text) if packed == b"\1" else text
    return exif or raw, xmp


def _unpacked(text: bytes) -> bytes:
    with suppress(zlib.error):
        return zlib.decompressobj().decompress(text, _MAX_TEXT_BYTES)
    return b""


def _from_hex(text: bytes) -> bytes:
    """The profile that ImageMagick writes as lines: an empty one, a name, a length, and the bytes in hexadecimal."""
    with suppress(ValueError):
        return bytes.fromhex(b"".join(text.split(b"\n")[3:]).decode("ascii"))
    return b""


def _in_exif(block: bytes) -> int | None:
    """The orientation in the first directory of a TIFF block, as a whole number; None where there is none."""
    block = re.sub(b"^(Exif\0\0){1,2}", b"", block)
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(block[:4])
    if order is None:
        return None
    found: int | None = None
    seen: set[int] = set()
    elsewhere = 0
    try:
        (at,) = struct.unpack_from(f"{order}L", block, 4)
        (entries,) = struct.unpack_from(f"{order}H", block, at)
        for number in range(entries):
            entry = at + 2 + number * _ENTRY_BYTES
            tag, kind, count, place = struct.unpack_from(f"{order}HHLL", block, entry)  # a cut entry ends the directory
            size = _UNIT_BYTES.get(kind, 0) * count
            if not size or tag in seen:
                continue
            if size <= _INLINE_BYTES:
                place = entry + 8
            else:
                elsewhere += size
                if elsewhere > len(block):  # one that claims more than there is is skipped, as Pillow does
                    continue
                if place + size > len(block):  # one that points beyond the end ends the directory
                    break
            seen.add(tag)
            if tag == _ORIENTATION and kind in _FORMATS:
                found = _value(block, f"{order}{_FORMATS[kind]}", place)
    except struct.error:  # it is cut, or points beyond its end: what came before counts
        pass
    return found


def _value(block: bytes, layout: str, at: int) -> int | None:
    """The first value of an entry, as a whole number; None where it is none."""
    first, *others = struct.unpack_from(layout, block, at)
    if not others:
        return int(first)
    return int(first // others[0]) if others[0] and first % others[0] == 0 else None

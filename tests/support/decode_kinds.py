"""A picture of every kind that a bucket may hold, also of those that Pillow reads and does not write."""

from __future__ import annotations

import re
import struct
import zlib

import numpy as np
import pytest
from decode_reference import classes, encode, photograph, png
from PIL import Image

from ringfeedd.decode.pair import Decoded, decode_pair
from ringfeedd.decode.spec import DecodeSpec, Fit, LabelMode
from ringfeedd.errors import BadPairError

SIZE = (24, 36)
COLOURS = photograph("china").resize((36, 24))
GREY = COLOURS.convert("L")
PLAIN = encode(COLOURS, "PNG")


def interlaced(values: np.ndarray) -> bytes:
    """An Adam7 PNG of 8-bit grey values, which Pillow reads but does not write."""
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    lines = [row for top, left, down, across in passes for row in values[top::down, left::across] if row.size]
    data = png(values.shape[1], values.shape[0], 8, 0, b"".join(b"\0" + row.tobytes() for row in lines))
    header = data[12:28] + b"\x01"
    return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]


def with_orientation(orientation: object, picture: Image.Image = COLOURS, kind: str = "JPEG") -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(picture, kind, exif=exif)


IMAGE_KINDS = {
    "JPEG, grey": encode(GREY, "JPEG"),
    "JPEG, progressive": encode(COLOURS, "JPEG", progressive=True),
    "JPEG, CMYK": encode(COLOURS.convert("CMYK"), "JPEG"),
    "JPEG, RGB without YCbCr": encode(COLOURS, "JPEG", keep_rgb=True),
    "PNG, grey": encode(GREY, "PNG"),
    "PNG, grey with alpha": encode(GREY.convert("LA"), "PNG"),
    "PNG, 1 bit": encode(COLOURS.convert("1"), "PNG"),
    "PNG, palette": encode(classes(COLOURS), "PNG"),
    "PNG, palette with transparency": encode(classes(COLOURS), "PNG", transparency=bytes(range(0, 210, 10))),
    "PNG, RGB with a transparent colour": encode(COLOURS, "PNG", transparency=(0, 0, 0)),
    "PNG, RGBA": encode(Image.merge("RGBA", (*COLOURS.split(), GREY)), "PNG"),
    "PNG, 16-bit RGB": png(36, 24, 16, 2, (b"\0" + bytes(range(216))) * 24),
    "PNG, interlaced": interlaced(np.asarray(GREY)),
    "PNG, animated": encode(COLOURS, "PNG", save_all=True, append_images=[GREY.convert("RGB"), COLOURS]),
}


def lossless_jpeg(values: np.ndarray) -> bytes:
    """A lossless JPEG of 8-bit grey values, each told by its difference from the one before."""
    height, width = values.shape
    before = np.empty((height, width), int)
    before[:, 1:] = values[:, :-1]
    before[1:, 0] = values[:-1, 0]
    before[0, 0] = 128
    bits = ""
    for difference in (values - before).reshape(-1).tolist():
        size = abs(difference).bit_length()
        bits += f"{size:04b}"
        if size:
            bits += f"{difference if difference > 0 else difference + (1 << size) - 1:0{size}b}"
    bits += "1" * (-len(bits) % 8)
    scan = int(bits, 2).to_bytes(len(bits) // 8).replace(b"\xff", b"\xff\0")

    def segment(marker: int, body: bytes) -> bytes:
        return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body

    frame = segment(0xC3, struct.pack(">BHHB", 8, height, width, 1) + b"\1\x11\0")
    codes = segment(0xC4, bytes([0, 0, 0, 0, 9]) + bytes(12) + bytes(range(9)))  # nine sizes, each in four bits
    return b"\xff\xd8" + frame + codes + segment(0xDA, b"\1\1\0\1\0\0") + scan + b"\xff\xd9"


def with_twelve_bits(data: bytes) -> bytes:
    """A JPEG whose header says that its samples have 12 bits."""
    start = data.index(b"\xff\xc0")
    return data[: start + 4] + b"\x0c" + data[start + 5 :]


def with_scans(data: bytes, scans: int) -> bytes:
    """A progressive JPEG whose last scan is told again and again."""
    start = data.rindex(b"\xff\xda")
    return data[:start] + data[start:-2] * (scans - data.count(b"\xff\xda") + 1) + data[-2:]


def decoded(image: bytes, label: bytes, mode: str = "rgb", **options) -> tuple[np.ndarray, np.ndarray, Decoded]:
    spec = DecodeSpec(*options.pop("size", SIZE), options.pop("fit", Fit.RESIZE), LabelMode(mode), **options)
    pixels, labels = np.zeros(spec.image_row_shape, np.uint8), np.zeros(spec.label_row_shape, spec.label_dtype)
    found = decode_pair(image, label, spec, pixels, labels)
    return pixels, labels, found


def refused(image: bytes, label: bytes, mode: str = "rgb", **options) -> BadPairError:
    with pytest.raises(BadPairError) as caught:
        decoded(image, label, mode, **options)
    assert re.match(r"the (image|label) .*", str(caught.value)), "a sentence that says which of the two"
    return caught.value

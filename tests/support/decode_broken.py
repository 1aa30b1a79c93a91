"""Bytes that were pictures, after some accidents."""

from __future__ import annotations

import random

import decode_deflate
import decode_metadata
from decode_reference import classes, encode, label_bytes, photograph, png
from PIL import Image

PICTURE = photograph("flower").crop((30, 20, 78, 60))
TURNED = Image.Exif()
TURNED[0x0112] = 6


def with_sampling(picture: Image.Image, factors: int) -> bytes:
    """A 4:2:0 JPEG that says its samples are others: 0x14 is 4:4:1, 0x41 is 4:1:1, each of as many blocks."""
    data = bytearray(encode(picture.crop((0, 0, 32, 32)), "JPEG", subsampling="4:2:0"))
    data[data.index(b"\xff\xc0") + 11] = factors
    return bytes(data)


SEEDS = [
    encode(PICTURE, "JPEG", exif=TURNED, comment=b"a comment"),
    encode(PICTURE, "JPEG", progressive=True, subsampling="4:4:4"),
    encode(PICTURE, "JPEG", restart_marker_rows=1),
    encode(PICTURE.convert("L"), "JPEG"),
    encode(PICTURE.convert("CMYK"), "JPEG"),
    encode(PICTURE, "PNG", exif=TURNED),
    encode(PICTURE.convert("RGBA"), "PNG"),
    encode(classes(PICTURE), "PNG", transparency=3),
    encode(classes(PICTURE, 8), "PNG"),
    encode(PICTURE.convert("L"), "PNG"),
    encode(PICTURE.convert("1"), "PNG"),
    label_bytes("coffee", "gray16")[:4000],
    png(48, 40, 16, 6, (b"\0" + bytes(48 * 8)) * 40, (b"tEXt", b"interlace\0x"), (b"iCCP", b"a\0\0x")),
    encode(classes(PICTURE), "PNG", save_all=True, append_images=[classes(PICTURE, 5)]),
    with_sampling(PICTURE, 0x14),
    with_sampling(PICTURE, 0x41),
    *decode_metadata.SEEDS,
    *decode_deflate.ODD_PNGS.values(),
]
MARKERS = [b"\xff\xd8", b"\xff\xd9", b"\xff\xda\x00\x08", b"\xff\xc0\x00\x11", b"\xff\xc4", b"\xff\xdd\x00\x04\0\1"]
MARKERS += [
    b"\0\0\0\0IDAT",
    b"\xff\xff\xff\xffIDAT",
    b"IEND",
    b"IHDR",
    b"fcTL",
    b"acTL",
    b"PLTE",
    b"\xff" * 9,
    bytes(9),
]


def broken(chooser: random.Random) -> bytes:
    """A seed after some accidents."""
    data = bytearray(chooser.choice(SEEDS))
    for _ in range(chooser.randint(1, 5)):
        where, there = sorted((chooser.randrange(len(data)), chooser.randrange(len(data))))
        match chooser.randrange(7):
            case 0:
                data[where] ^= 1 << chooser.randrange(8)
            case 1:
                data[where] = chooser.randrange(256)
            case 2:
                data = data[: max(1, there)]
            case 3:
                data[where:there] = b""
            case 4:
                data[where:where] = data[where:there] * chooser.choice((1, 1, 2, 30))
            case 5:
                marker = chooser.choice(MARKERS)
                data[where : where + chooser.choice((0, len(marker)))] = marker
            case _:
                other = chooser.choice(SEEDS)
                data[where:] = other[chooser.randrange(len(other)) :]
        data = data[:200_000] or bytearray(b"\xff")
    return bytes(data)

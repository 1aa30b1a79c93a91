"""The tables of outcomes in docs/decoding.md, row by row: what each says about a kind of picture is tried."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from decode_kinds import (
    COLOURS,
    GREY,
    IMAGE_KINDS,
    PLAIN,
    decoded,
    lossless_jpeg,
    refused,
    with_orientation,
    with_scans,
    with_twelve_bits,
)
from decode_metadata import PNG_METADATA, png_with
from decode_reference import classes, encode, png
from PIL import Image

from ringfeedd.decode.image import MAX_SCANS
from ringfeedd.decode.spec import MAX_SIDE

PAGE = (Path(__file__).parents[2] / "docs" / "decoding.md").read_text().partition("## Outcomes")[2]


def table(head: str) -> dict[str, list[str]]:
    """The rows of the table whose first line begins so: the first cell -> the others."""
    lines = PAGE[PAGE.index(f"| {head} |") :].partition("\n\n")[0].splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in lines]
    return {first: others for first, *others in rows}


def pixels_of(data: bytes) -> np.ndarray:
    """As Pillow stores them."""
    return np.asarray(Image.open(io.BytesIO(data), formats=("JPEG", "PNG")))


def three(grey: np.ndarray) -> np.ndarray:
    return np.stack([grey] * 3, axis=2)


def sixteen_bits(colour: int, values: np.ndarray) -> bytes:
    """A PNG whose upper eight bits are these values; the lower are others."""
    wide = (values.astype(np.uint16) << 8 | 0x9C).astype(">u2")
    return png(36, 24, 16, colour, b"".join(b"\0" + row.tobytes() for row in wide))


SHOWN = np.asarray(COLOURS)
JPEG = encode(COLOURS, "JPEG")
RAMP = np.arange(24 * 36, dtype=np.uint16).reshape(24, 36) * 75
SIXTEEN_BITS = encode(Image.fromarray(RAMP), "PNG")
FEW_BITS = png(36, 24, 4, 0, (b"\0" + bytes(range(0x10, 0x22))) * 24)
SPREAD = np.stack([np.arange(0x10, 0x22) >> 4, np.arange(0x10, 0x22) & 15], axis=1).reshape(1, 36) * 17
PALETTE = classes(COLOURS)
PALETTE_COLOURS = np.asarray(PALETTE.convert("RGB"))
GREY_PIXELS = np.asarray(GREY)


@dataclass(frozen=True)
class Shown:
    """What the page says in a row, examples of it, and the pixels that it means, or nearly (mean difference)."""

    says: str
    examples: tuple[bytes, ...]
    pixels: np.ndarray
    nearly: float = 0.0


@dataclass(frozen=True)
class Refused:
    cause: str
    examples: tuple[bytes, ...]
    says: str = ""


IMAGES = {
    "JPEG, grey": Shown("grey in all three channels", (encode(GREY, "JPEG"),), three(pixels_of(encode(GREY, "JPEG")))),
    "JPEG, progressive": Shown("as any JPEG", (IMAGE_KINDS["JPEG, progressive"],), pixels_of(JPEG)),
    "JPEG, progressive, of more than 100 scans": Refused(
        "too_large", (with_scans(IMAGE_KINDS["JPEG, progressive"], MAX_SCANS + 1),)
    ),
    "JPEG, CMYK": Shown(
        "Pillow's conversion, without a colour profile; Adobe's inversion is undone",
        (IMAGE_KINDS["JPEG, CMYK"],),
        SHOWN,
        nearly=8,
    ),
    "JPEG, RGB without YCbCr": Shown("its RGB", (IMAGE_KINDS["JPEG, RGB without YCbCr"],), SHOWN, nearly=8),
    "JPEG, lossless": Shown(
        "its values, where Pillow's libjpeg reads it", (lossless_jpeg(GREY_PIXELS),), three(GREY_PIXELS)
    ),
    "JPEG of 12 bits": Refused("corrupt", (with_twelve_bits(JPEG),), ", with Pillow's reason"),
    "JPEG of several pictures (MPO)": Shown(
        "the first", (encode(COLOURS, "MPO", save_all=True, append_images=[GREY.convert("RGB")]),), pixels_of(JPEG)
    ),
    "JPEG or PNG with EXIF orientation": Shown(
        "as stored; turned with `exif_orientation`", (with_orientation(6, kind="PNG"),), SHOWN
    ),
    "PNG, grey": Shown("grey in all three channels", (encode(GREY, "PNG"),), three(GREY_PIXELS)),
    "PNG, grey of 2 or 4 bits": Shown("spread over 0..255", (FEW_BITS,), three(np.repeat(SPREAD, 24, axis=0))),
    "PNG, grey with alpha": Shown("alpha dropped", (IMAGE_KINDS["PNG, grey with alpha"],), three(GREY_PIXELS)),
    "PNG, 1 bit": Shown(
        "0 and 255", (IMAGE_KINDS["PNG, 1 bit"],), three(np.asarray(COLOURS.convert("1")) * np.uint8(255))
    ),
    "PNG, palette": Shown("its colours", (encode(PALETTE, "PNG"),), PALETTE_COLOURS),
    "PNG, palette with transparency": Shown(
        "its colours, transparency dropped", (IMAGE_KINDS["PNG, palette with transparency"],), PALETTE_COLOURS
    ),
    "PNG, RGB with a transparent colour": Shown(
        "its RGB", (encode(COLOURS, "PNG", transparency=COLOURS.getpixel((0, 0))),), SHOWN
    ),
    "PNG, RGBA": Shown("alpha dropped", (IMAGE_KINDS["PNG, RGBA"],), SHOWN),
    "PNG, 16-bit RGB, 16 bits with alpha": Shown(
        "the upper eight bits", (sixteen_bits(2, SHOWN), sixteen_bits(6, np.dstack([SHOWN, GREY_PIXELS]))), SHOWN
    ),
    "PNG, 16-bit grey": Refused(
        "unsupported", (SIXTEEN_BITS,), ". Pillow's conversion makes every value from 256 up white"
    ),
    "PNG, interlaced": Shown("as any PNG", (IMAGE_KINDS["PNG, interlaced"],), three(GREY_PIXELS)),
    "PNG, animated": Shown("the first frame", (IMAGE_KINDS["PNG, animated"],), SHOWN),
    "JPEG or PNG with metadata that is broken or huge (EXIF, XMP, profiles, texts)": Shown(
        "as without it",
        (*(png_with(chunk, data=PLAIN) for chunk in PNG_METADATA.values()),),
        SHOWN,
    ),
    "wrong extension": Shown("does not matter", (PLAIN,), SHOWN),
    "truncated, damaged, empty": Refused(
        "corrupt",
        (PLAIN[:-40], JPEG[:400], PLAIN.replace(b"IHDR", b"IHDX"), b""),
        ". The object's crc32c detects damage that the format does not",
    ),
    "header above `max_pixels`": Refused("too_large", (png(60_000, 60_000, 1, 0, b""),)),
    "a side of more than 65,535 pixels": Refused("too_large", (png(1, MAX_SIDE + 1, 1, 0, bytes(2)),)),
    "anything else: WebP, GIF, BMP, TIFF, EPS, HTML, ...": Refused(
        "unsupported",
        (
            *(encode(COLOURS, kind) for kind in ("WEBP", "GIF", "BMP", "TIFF", "EPS")),
            b"<html>",
            b"{}",
            b"\x1f\x8b\x08",
        ),
        "; the reason names the apparent format",
    ),
}


@pytest.mark.parametrize("kind", IMAGES)
def test_an_image_becomes_what_its_row_says(kind) -> None:
    (said,) = table("image")[kind]
    row = IMAGES[kind]
    assert said == (f"refused: {row.cause}{row.says}" if isinstance(row, Refused) else row.says)
    for data in row.examples:
        if isinstance(row, Refused):
            assert refused(data, PLAIN).cause == row.cause
        else:
            difference = np.abs(decoded(data, PLAIN)[0].astype(int) - row.pixels)
            assert difference.mean() <= row.nearly
            assert row.nearly or not difference.any()


LABELS = {
    "PNG, palette (with or without transparency)": (encode(PALETTE, "PNG"), encode(PALETTE, "PNG", transparency=3)),
    "PNG, grey of 1, 2, 4 or 8 bits": (FEW_BITS, encode(GREY, "PNG"), IMAGE_KINDS["PNG, 1 bit"]),
    "PNG, grey of 16 bits": (SIXTEEN_BITS,),
    "PNG with colours or alpha": (PLAIN, IMAGE_KINDS["PNG, RGBA"], IMAGE_KINDS["PNG, grey with alpha"]),
    "JPEG": (JPEG, encode(GREY, "JPEG")),
}


@pytest.mark.parametrize("mode", ["rgb", "index", "gray16"])
@pytest.mark.parametrize("kind", LABELS)
def test_a_label_becomes_what_its_row_says(kind, mode) -> None:
    said = dict(zip(["rgb", "index", "gray16"], table("label")[kind], strict=True))[mode]
    for data in LABELS[kind]:
        if said == "refused":
            assert refused(PLAIN, data, mode).cause == "unsupported"
            continue
        values = decoded(PLAIN, data, mode)[1]
        if said in {"its colours", "as an image"}:
            assert np.array_equal(values, decoded(data, PLAIN)[0])
        else:
            assert said in {"indices", "stored values"}
            stored = pixels_of(data) // (17 if data is FEW_BITS else 1)
            assert np.array_equal(values, stored)


def test_the_tables_list_exactly_the_cases_tried() -> None:
    assert table("image").keys() == IMAGES.keys()
    assert table("label").keys() == LABELS.keys()
    assert set(IMAGE_KINDS) - {"PNG, 16-bit RGB"} <= IMAGES.keys()

"""Metadata costs no pixel, and says which way up a picture is as Pillow would."""

from __future__ import annotations

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from decode_broken import broken
from decode_kinds import decoded
from decode_metadata import (
    AS_STORED,
    JPEG,
    JPEG_METADATA,
    PICTURE,
    PNG,
    PNG_METADATA,
    SIX,
    TIFF,
    TURNED_BY_SIX,
    exif,
    jpeg_with,
    jpeg_with_exif,
    png_with,
)
from decode_reference import classes, encode, png_chunk, reference_image
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from ringfeedd.decode.image import quiet_codecs
from ringfeedd.decode.metadata import bare
from ringfeedd.decode.orientation import orientation_of
from ringfeedd.errors import BadPairError

SIZE = (40, 48)
GREY = encode(PICTURE.convert("L"), "PNG")
LABEL = encode(classes(PICTURE), "PNG")
XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


@pytest.fixture(autouse=True)
def _no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def pixels(data: bytes, **options: object) -> np.ndarray:
    return decoded(data, LABEL, "index", size=SIZE, **options)[0]


def turned(data: bytes) -> bool:
    """Whether it is shown a quarter turned to the right, and else exactly as stored."""
    shown = decoded(data, LABEL, "index", size=(48, 40), exif_orientation=True)[0]
    expected = np.asarray(Image.open(io.BytesIO(bare(data))).convert("RGB"))
    if np.array_equal(shown, np.rot90(expected, -1)):
        return True
    assert np.array_equal(pixels(data, exif_orientation=True), expected)
    return False


@pytest.mark.parametrize("after", [False, True], ids=["before the rows", "after them"])
@pytest.mark.parametrize("name", PNG_METADATA)
def test_no_metadata_of_a_png_costs_a_pixel(name, after) -> None:
    chunk = PNG_METADATA[name]
    assert np.array_equal(pixels(png_with(chunk, after=after)), np.asarray(PICTURE))
    for values, mode in ((encode(PICTURE.convert("L"), "PNG"), "L"), (LABEL, "P")):
        with_chunk = png_with(chunk, data=values, after=after)
        assert np.array_equal(
            decoded(JPEG, with_chunk, "index", size=SIZE)[1], np.asarray(Image.open(io.BytesIO(values)))
        )
        assert Image.open(io.BytesIO(bare(with_chunk))).mode == mode


@pytest.mark.parametrize("fill", [b"", b"\xff\xff"], ids=["", "filled up"])
@pytest.mark.parametrize("name", JPEG_METADATA)
def test_no_metadata_of_a_jpeg_costs_a_pixel(name, fill) -> None:
    expected = reference_image(JPEG, "native", 0, 0)
    data = jpeg_with(*JPEG_METADATA[name], fill=fill)
    assert np.array_equal(pixels(data), expected)
    progressive = encode(PICTURE, "JPEG", progressive=True)
    data = jpeg_with(*JPEG_METADATA[name], data=progressive, fill=fill)
    assert np.array_equal(pixels(data), reference_image(progressive, "native", 0, 0))


@pytest.mark.parametrize("lie", [-9, -1, 1, 30_000])
def test_pillow_reads_a_segment_of_false_length(lie) -> None:
    """Pillow and libjpeg look for the next marker in what is left."""
    data = bytearray(jpeg_with((0xE1, b"Exif\0\0" + exif(SIX))))
    data[4:6] = struct.pack(">H", int.from_bytes(data[4:6]) + lie)
    warnings.simplefilter("ignore")  # the worker's own filter
    try:
        expected = np.asarray(Image.open(io.BytesIO(data), formats=("JPEG",)).convert("RGB"))
    except (OSError, SyntaxError):
        with pytest.raises(BadPairError):
            pixels(bytes(data))
    else:
        assert np.array_equal(pixels(bytes(data)), expected)


@given(st.randoms(use_true_random=False, note_method_calls=False))
@settings(max_examples=300, deadline=None)
def test_leaving_metadata_out_changes_no_pixel(chooser) -> None:
    data = broken(chooser)

    def decode(file: bytes) -> np.ndarray | None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                opened = Image.open(io.BytesIO(file), formats=("JPEG", "PNG"))
                opened.decodermaxblock = len(file)
                return None if opened.width * opened.height > 10**6 else np.asarray(opened.convert("RGBA"))[:, :, :3]
            except Exception:  # noqa: BLE001  # whatever Pillow says of broken bytes
                return None

    if (expected := decode(data)) is not None:
        assert np.array_equal(decode(bare(data)), expected)


def test_codec_warnings_stay_out_of_the_log() -> None:
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        quiet_codecs()
        for module in ("PIL.TiffImagePlugin", "other"):
            warnings.warn_explicit("Corrupt EXIF data.", UserWarning, module, 1, module=module)
    assert [one.filename for one in heard] == ["other"]


def test_a_file_without_metadata_is_not_copied() -> None:
    for data in (JPEG, PNG, LABEL, GREY, b"", b"GIF89a", PNG[:20], JPEG[:4]):
        assert bare(data) is data


def test_what_decides_about_pixels_is_kept() -> None:
    cmyk = encode(PICTURE.convert("CMYK"), "JPEG")
    rgb = encode(PICTURE, "JPEG", keep_rgb=True)
    for data in (cmyk, rgb):
        assert b"Adobe" in data
        assert bare(jpeg_with((0xE1, b"?"), data=data)) == data


@pytest.mark.parametrize("name", TURNED_BY_SIX)
def test_an_orientation_that_pillow_understands_turns(name) -> None:
    block = TURNED_BY_SIX[name]
    assert turned(jpeg_with_exif(block))
    for data in (PNG, GREY, LABEL):
        for after in (False, True):
            assert turned(png_with(png_chunk(b"eXIf", block), data=data, after=after)), (
                "also where Pillow would load it"
            )


@pytest.mark.parametrize("name", AS_STORED)
def test_an_unparsable_orientation_turns_nothing(name) -> None:
    assert not turned(jpeg_with_exif(AS_STORED[name]))
    for data in (PNG, GREY):
        for after in (False, True):
            assert not turned(png_with(png_chunk(b"eXIf", AS_STORED[name]), data=data, after=after))


def raw_profile(block: bytes) -> bytes:
    return f"\nexif\n{len(block):8}\n{block.hex()}\n".encode()


TEXTS = {
    "a raw profile": png_chunk(b"tEXt", b"Raw profile type exif\0" + raw_profile(exif(SIX))),
    "a packed one": png_chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(raw_profile(exif(SIX)))),
    "XMP": png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP),
    "packed XMP": png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0en\0key\0" + zlib.compress(XMP)),
}


@pytest.mark.parametrize("name", TEXTS)
def test_other_places_where_tools_write_an_orientation_count(name) -> None:
    data = png_with(TEXTS[name])
    assert ImageOps.exif_transpose(Image.open(io.BytesIO(data))).size == (40, 48)
    assert turned(data)


def test_xmp_counts_where_exif_says_nothing() -> None:
    xmp = (0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP)
    assert turned(jpeg_with(xmp))
    assert turned(jpeg_with((0xE1, b"Exif\0\0" + exif()), xmp))
    assert not turned(jpeg_with((0xE1, b"Exif\0\0" + exif(b"\x12\1\3\0\1\0\0\0\1\0\0\0")), xmp))


def pillows_orientation(block: bytes) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = Image.open(io.BytesIO(jpeg_with_exif(block))).getexif().get(0x112)
        except Exception:  # noqa: BLE001  # whatever Pillow says of broken bytes
            return 1
    return int(found) if found in range(1, 9) else 1


ENTRIES = st.lists(
    st.builds(
        lambda tag, kind, count, value: struct.pack("<HHLL", tag, kind, count, value),
        st.sampled_from([0x112, 0x112, 0x10F, 0x11A, 0x213]),
        st.sampled_from([1, 2, 3, 3, 4, 5, 7]),
        st.sampled_from([1, 1, 1, 0, 2, 3, 4, 2**31]),
        st.integers(0, 60) | st.integers(0, 2**32 - 1),
    ),
    max_size=4,
    unique_by=lambda one: one[:2],
)


@given(entries=ENTRIES, lie=st.integers(-2, 2), rest=st.binary(max_size=40), cut=st.integers(0, 90))
@example([SIX], 0, b"", 0)
@example([SIX], 1, b"", 4)
@example([struct.pack("<HHLL", 0x10F, 4, 2, 27), SIX], 0, b"", 0)
@settings(max_examples=600, deadline=None)
def test_any_directory_is_read_as_pillow_reads_it(entries, lie, rest, cut) -> None:
    block = TIFF + struct.pack("<H", max(0, len(entries) + lie)) + b"".join(entries) + rest
    block = block[: len(block) - cut] if cut < 30 else block
    assert orientation_of(jpeg_with_exif(block)) == pillows_orientation(block)


@given(st.binary(max_size=80))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_an_orientation_or_none(block) -> None:
    for data in (jpeg_with_exif(block), png_with(png_chunk(b"eXIf", block)), PNG[:8] + block, JPEG[:3] + block, block):
        assert orientation_of(data) in range(1, 9)
        bare(data)

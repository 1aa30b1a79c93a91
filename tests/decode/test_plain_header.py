"""Headers that are read without Pillow: whatever is taken, Pillow takes, and finds the same in it."""

from __future__ import annotations

import random
import struct
import zlib

import numpy as np
import pytest
from decode_broken import broken
from decode_kinds import IMAGE_KINDS
from decode_reference import classes, encode, photograph, png
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from ringfeedd.decode.header import Header, plain_header
from ringfeedd.decode.image import _header_of, _open_file
from ringfeedd.decode.metadata import bare
from ringfeedd.errors import BadPairError

PICTURE = Image.fromarray(np.asarray(photograph("flower"))[20:60, 30:78])  # its pixels, and no profile
JPEG = encode(PICTURE, "JPEG")
PALETTE_PNG = encode(classes(PICTURE), "PNG")
PLAIN = {
    "JPEG": JPEG,
    "JPEG, grey": encode(PICTURE.convert("L"), "JPEG"),
    "JPEG, comment and restarts": encode(PICTURE, "JPEG", comment=b"a comment", restart_marker_rows=1),
    "JPEG, 4:4:4, optimized": encode(PICTURE, "JPEG", subsampling="4:4:4", optimize=True),
    "JPEG, EXIF": encode(PICTURE, "JPEG", exif=Image.Exif()),
    "JPEG, ICC profile": encode(PICTURE, "JPEG", icc_profile=b"profile"),
    "PNG, palette": PALETTE_PNG,
    "PNG, palette of 4 bits": encode(classes(PICTURE, 8), "PNG", bits=4),
    "PNG, grey": encode(PICTURE.convert("L"), "PNG"),
    "PNG, 1 bit": encode(PICTURE.convert("1"), "PNG"),
}
NOT_PLAIN = {
    "empty": b"",
    "progressive": encode(PICTURE, "JPEG", progressive=True),
    "CMYK": encode(PICTURE.convert("CMYK"), "JPEG"),
    "RGB": encode(PICTURE, "PNG"),
    "transparency": encode(classes(PICTURE), "PNG", transparency=3),
    "16 bits": png(4, 4, 16, 0, (b"\0" + bytes(8)) * 4),
    "a PNG of a palette that is not there": png(4, 4, 8, 3, (b"\0" + bytes(4)) * 4),
}


def pillows(data: bytes) -> Header | None:
    try:
        return _header_of(_open_file("image", bare(data)))
    except BadPairError:
        return None


def agrees(data: bytes) -> bool:
    mine = plain_header(data)
    return mine is None or mine == pillows(data)


@pytest.mark.parametrize("kind", PLAIN)
def test_plain_files_are_read_as_pillow_reads_them(kind) -> None:
    assert plain_header(PLAIN[kind]) == pillows(PLAIN[kind]) is not None


@pytest.mark.parametrize("kind", NOT_PLAIN)
def test_what_holds_more_is_left_to_pillow(kind) -> None:
    assert plain_header(NOT_PLAIN[kind]) is None


@pytest.mark.parametrize("kind", IMAGE_KINDS)
def test_every_kind_is_read_as_pillow_reads_it(kind) -> None:
    assert agrees(IMAGE_KINDS[kind])


@pytest.mark.parametrize("kind", PLAIN)
def test_a_truncated_header_is_read_like_pillow_does(kind) -> None:
    """Cut anywhere; or the file is left to Pillow."""
    data = PLAIN[kind]
    assert all(agrees(data[:length]) for length in range(min(len(data), 900)))


@pytest.mark.parametrize("kind", PLAIN)
def test_a_corrupt_header_byte_changes_nothing(kind) -> None:
    """Any byte of a header may be any other: the result is Pillow's, or the file is left to it."""
    data = PLAIN[kind]
    chooser = random.Random(kind)
    for where in range(min(len(data), 700)):
        for value in {0, 1, 3, 4, 8, 16, 0x7F, 0xC0, 0xDA, 0xFF, chooser.randrange(256)}:
            assert agrees(data[:where] + bytes([value]) + data[where + 1 :]), (where, value)


SEGMENTS = st.tuples(
    st.sampled_from([0xC0, 0xC1, 0xC2, 0xC4, 0xD0, 0xD8, 0xDA, 0xDB, 0xDD, 0xE0, 0xE1, 0xEE, 0xFE, 0x00, 0xFF]),
    st.one_of(
        st.binary(max_size=20),
        st.sampled_from([b"JFIF\0\1\1\0\0\1\0\1\0\0", b"JFIF\0\1", b"JFXX\0\x10", b"Exif\0\0II*\0"]),
        st.builds(lambda number, rest: bytes([number]) + bytes(64) + rest, st.integers(0, 40), st.binary(max_size=70)),
        st.builds(
            lambda bits, h, w, n: struct.pack(">BHHB", bits, h, w, n) + bytes([1, 0x22, 0]) * n,
            *(st.sampled_from([8, 8, 8, 12]), st.integers(0, 3), st.integers(0, 3), st.integers(0, 5)),
        ),
    ),
    st.sampled_from([0, 0, 0, 0, -2, 1]),
)


@given(st.lists(SEGMENTS, max_size=8))
@example([(0xDB, bytes(65), 0), (0xC0, b"\x08\0\1\0\1\1\1\x11\0", 0), (0xDA, b"", 0)])
@settings(max_examples=400, deadline=None)
def test_any_row_of_segments_is_read_alike(segments) -> None:
    """Marker, content, and by how much its length lies."""
    parts = [bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2 + lie) + body for marker, body, lie in segments]
    assert agrees(b"\xff\xd8" + b"".join(parts) + b"\xff\xda\0\2" + bytes(9))


CHUNKS = st.tuples(
    st.sampled_from([b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"gAMA", b"acTL", b"fcTL", b"iCCP"]),
    st.one_of(
        st.binary(max_size=20),
        st.builds(
            lambda w, h, bits, colours, rest: struct.pack(">IIBB", w, h, bits, colours) + rest,
            *(
                st.integers(0, 3),
                st.integers(0, 3),
                st.sampled_from([1, 2, 4, 8, 16, 3]),
                st.sampled_from([0, 2, 3, 6]),
            ),
            st.sampled_from([bytes(3), bytes(3), b"\1\0\0", b"\0\1\0", b"\0\0\1", bytes(4), bytes(2)]),
        ),
        st.sampled_from([bytes(3), bytes(768), bytes(771), bytes(4)]),
    ),
    st.sampled_from([True, True, True, False]),
)


@given(st.lists(CHUNKS, max_size=5))
@example([(b"IHDR", struct.pack(">IIBB", 1, 1, 8, 3) + bytes(3), True), (b"PLTE", bytes(3), True)])
@settings(max_examples=400, deadline=None)
def test_any_row_of_chunks_is_read_alike(chunks) -> None:
    """Kind, content, and whether its checksum is right."""
    parts = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body) ^ (not sound))
        for kind, body, sound in [*chunks, (b"IDAT", zlib.compress(bytes(9)), True)]
    ]
    assert agrees(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


@given(st.randoms(use_true_random=False, note_method_calls=False))
@settings(max_examples=400, deadline=None)
def test_after_any_accident_it_is_read_alike(chooser) -> None:
    assert agrees(broken(chooser))

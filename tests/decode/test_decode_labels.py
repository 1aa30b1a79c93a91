"""Labels read without Pillow's decoder: the values that it would give, or its own refusal."""

from __future__ import annotations

import zlib
from itertools import pairwise

import decode_deflate
import numpy as np
import pytest
from decode_reference import classes, encode, label_bytes, photograph, png, png_chunk, reference_label
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ringfeedd.decode import codecs as fast_codecs
from ringfeedd.decode import png as label_png
from ringfeedd.decode.image import open_picture
from ringfeedd.decode.pair import decode_pair
from ringfeedd.decode.png import label_from_unfiltered_png
from ringfeedd.decode.spec import DecodeSpec, Fit, LabelMode
from ringfeedd.errors import BadPairError

IMAGE = encode(Image.new("RGB", (4, 4)), "PNG")
GREY, PALETTE = 0, 3
PLTE = (b"PLTE", bytes(range(48)))


@pytest.fixture(params=["libdeflate", "zlib"])
def inflater(request, monkeypatch):
    """Both, whatever is installed."""
    if request.param == "zlib":
        monkeypatch.setattr(label_png, "deflate", None)
    else:
        pytest.importorskip("deflate")
    return request.param


def fast(data: bytes) -> np.ndarray | None:
    picture = open_picture("label", data, max_pixels=1 << 30)
    out = np.full((picture.height, picture.width), 0xA5, np.uint8)
    return out if label_from_unfiltered_png(picture, out) else None


def outcome(data: bytes, spec: DecodeSpec) -> object:
    """What `decode_pair` makes of a label: its values, or why there are none."""
    image, label = np.zeros(spec.image_row_shape, np.uint8), np.zeros(spec.label_row_shape, spec.label_dtype)
    try:
        decode_pair(IMAGE, data, spec, image, label)
    except BadPairError as error:
        return str(error), error.cause
    return label.tobytes()


def packed(values: np.ndarray, bits: int) -> bytes:
    """Rows as a PNG has them, none of them filtered."""
    each = 8 // bits
    padded = np.pad(values, ((0, 0), (0, -values.shape[1] % each)))
    rows = np.zeros((len(padded), padded.shape[1] // each), np.uint8)
    for number in range(each):
        rows |= padded[:, number::each] << np.uint8(8 - bits * (number + 1))
    return b"".join(b"\0" + row.tobytes() for row in rows)


def unfiltered(values: np.ndarray, bits: int = 8, colour: int = PALETTE, *chunks: tuple[bytes, bytes]) -> bytes:
    height, width = values.shape
    return png(width, height, bits, colour, packed(values, bits), *((PLTE,) if colour == PALETTE else ()), *chunks)


def with_image_data(data: bytes, *parts: bytes) -> bytes:
    """The same PNG with these IDAT chunks."""
    start, end = data.index(b"IDAT") - 4, data.index(b"IEND") - 4
    return data[:start] + b"".join(png_chunk(b"IDAT", part) for part in parts) + data[end:]


def some(height: int, width: int, bits: int = 8, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 1 << bits, (height, width)).astype(np.uint8)


@pytest.mark.parametrize("colour", [GREY, PALETTE])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_values_of_any_width_keep_their_stored_value(inflater, bits, colour) -> None:
    for width in range(1, 19):
        values = some(3, width, bits, seed=width)
        found = fast(unfiltered(values, bits, colour))
        assert found is not None, "declined, so this test compares nothing"
        assert np.array_equal(found, values)


@pytest.mark.parametrize("fit", list(Fit))
@pytest.mark.parametrize("mode", ["index", "gray16"])
def test_a_scaled_label_is_read_fast_too(inflater, fit, mode, monkeypatch) -> None:
    """With the values that Pillow gives."""
    values = np.asarray(classes(photograph("china")))
    data = unfiltered(values, 8, GREY)
    size = values.shape if fit == Fit.NATIVE else (101, 77)
    expected = reference_label(data, fit, mode, *size)
    monkeypatch.setattr("ringfeedd.decode.pair._loaded", lambda *_: pytest.fail("Pillow decoded it"))
    image = encode(photograph("china"), "PNG")
    spec = DecodeSpec(*size, fit, LabelMode(mode))
    monkeypatch.setattr("ringfeedd.decode.pair._write_image", lambda *_: None)
    label = np.full(spec.label_row_shape, 7, spec.label_dtype)
    decode_pair(image, data, spec, np.zeros(spec.image_row_shape, np.uint8), label)
    assert np.array_equal(label, expected)


def test_pillows_palette_labels_are_read_fast_too(inflater) -> None:
    data = label_bytes("china", "index")
    assert np.array_equal(fast(data), reference_label(data, "native", "index", 0, 0))


@pytest.mark.parametrize("sizes", [(1,), (0, 5, 0, 1), (8, 8, 8)])
def test_chunks_of_any_number_are_one_stream(inflater, sizes) -> None:
    values = some(9, 11)
    stream = zlib.compress(packed(values, 8))
    cuts = [0, *np.cumsum(sizes).tolist(), len(stream)]
    data = with_image_data(unfiltered(values), *(stream[a:b] for a, b in pairwise(cuts)))
    assert np.array_equal(fast(data), values)


def filtered_row(kind: int) -> bytes:
    return png(4, 2, 8, GREY, bytes([0, 1, 2, 3, 4, kind, 1, 2, 3, 4]))


VALUES = some(5, 6)
STREAM = zlib.compress(packed(VALUES, 8))
WRONG_CHECKSUM = STREAM[:-1] + bytes([STREAM[-1] ^ 1])
ODD = {
    "JPEG": encode(photograph("china"), "JPEG"),
    "colours": encode(photograph("china"), "PNG"),
    "16 bits": label_bytes("china", "gray16"),
    "filtered as Pillow filters grey": encode(classes(photograph("china")).convert("L"), "PNG"),
    **{f"filter {kind} in the second row": filtered_row(kind) for kind in (1, 2, 3, 4, 5, 255)},
    "a wrong checksum of the rows": with_image_data(unfiltered(VALUES), WRONG_CHECKSUM),
    "rows without their checksum": with_image_data(unfiltered(VALUES), STREAM[:-4]),
    "a row too few": with_image_data(unfiltered(VALUES), zlib.compress(packed(VALUES[:-1], 8))),
    "a row too many": with_image_data(unfiltered(VALUES), zlib.compress(packed(VALUES, 8) + bytes(7))),
    "no rows": with_image_data(unfiltered(VALUES)),
    "no end": unfiltered(VALUES)[:-12],
    "cut within the rows": unfiltered(VALUES)[:-30],
    "too many colours": png(6, 5, 8, PALETTE, packed(VALUES, 8), (b"PLTE", bytes(771))),
    **decode_deflate.RESERVED_DISTANCES,
}
METADATA = {
    "a text after the rows": unfiltered(VALUES)[:-12] + png_chunk(b"tEXt", b"a\0b") + unfiltered(VALUES)[-12:],
    "a text before them": unfiltered(VALUES, 8, PALETTE, (b"tEXt", b"interlace\0yes")),
    "EXIF data": unfiltered(VALUES, 8, GREY, (b"eXIf", b"?")),
}


@pytest.mark.parametrize("kind", METADATA)
def test_metadata_does_not_slow_a_label_down(inflater, kind) -> None:
    assert np.array_equal(fast(METADATA[kind]), VALUES)


@pytest.mark.parametrize("kind", decode_deflate.RESERVED_LENGTHS)
def test_reserved_lengths_are_the_one_known_difference(inflater, kind) -> None:
    """docs/decoding.md says so: libdeflate takes them for 258, and the checksum has to agree; zlib refuses them."""
    spec = DecodeSpec(decode_deflate.HEIGHT, decode_deflate.WIDTH, label_mode=LabelMode.INDEX)
    found = outcome(decode_deflate.RESERVED_LENGTHS[kind], spec)
    if inflater == "libdeflate":
        assert found == bytes(258)
    else:
        assert found[1] == "corrupt"


@pytest.mark.parametrize("kind", ODD)
def test_unusual_files_are_declined_and_left_to_pillow(inflater, kind, monkeypatch) -> None:
    assert fast(ODD[kind]) is None
    for mode in LabelMode:
        spec = DecodeSpec(5, 6, label_mode=mode)
        with_it = outcome(ODD[kind], spec)
        with monkeypatch.context() as patch:
            patch.setattr(fast_codecs, "FOR_LABELS", ())
            assert with_it == outcome(ODD[kind], spec)


def test_rows_of_another_shape_are_declined() -> None:
    """They are not half written."""
    picture = open_picture("label", unfiltered(some(4, 6)), max_pixels=100)
    for shape in ((6, 4), (4, 6, 3), (8, 12)):
        out = np.full(shape, 0xA5, np.uint8)
        assert not label_from_unfiltered_png(picture, out)
        assert (out == 0xA5).all()


def test_an_oversized_stream_takes_no_more_memory(inflater) -> None:
    """A stream that unpacks to more than the header says takes no room for the rest."""
    bomb = with_image_data(unfiltered(VALUES), zlib.compress(bytes(50_000_000), 9))
    compressed = bomb[bomb.index(b"IDAT") + 4 : -16]
    asked = []
    real = label_png.zlib.decompressobj

    class Stream:
        def __init__(self) -> None:
            self.stream = real()

        def decompress(self, data, most):
            asked.append(most)
            return self.stream.decompress(data, most)

        def __getattr__(self, name):
            return getattr(self.stream, name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(label_png.zlib, "decompressobj", Stream)
        assert label_png._inflate(compressed, 35) is None
    assert max(asked, default=0) <= 35


headers = st.sampled_from([(bits, colour) for bits in (1, 2, 4, 8) for colour in (GREY, PALETTE)])
damage = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=3)
extra = st.lists(
    st.tuples(
        st.sampled_from([b"tEXt", b"tRNS", b"PLTE", b"tIME", b"zTXt", b"acTL", b"fcTL", b"IEND", b"eXIf"]),
        st.binary(max_size=30),
    ),
    max_size=2,
)


@given(
    size=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    kind=headers,
    filters=st.lists(st.integers(0, 4), max_size=2),
    chunks=extra,
    trailing=extra,
    cut=st.floats(0, 1),
    broken=damage,
    row=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    seed=st.integers(0, 99),
)
@settings(max_examples=250, deadline=None)
def test_any_png_decodes_identically_with_and_without_it(
    size, kind, filters, chunks, trailing, cut, broken, row, seed
) -> None:
    """Whether the file is complete or broken."""
    bits, colour = kind
    rows = bytearray(packed(some(*size, bits, seed), bits))
    stride = 1 + -(-size[1] * bits // 8)
    for number, filtering in enumerate(filters[: size[0]]):
        rows[number * stride] = filtering
    whole = png(size[1], size[0], bits, colour, bytes(rows), PLTE, *chunks)
    whole = whole[:-12] + b"".join(png_chunk(*chunk) for chunk in trailing) + whole[-12:]
    data = bytearray(whole[: int(len(whole) * max(cut, 0.5)) if cut < 0.9 else len(whole)])
    for where, value in broken:
        data[int(where * len(data))] = value
    spec = DecodeSpec(*row, label_mode=LabelMode.INDEX, max_pixels=100_000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fast_codecs, "FOR_LABELS", ())
        expected = outcome(bytes(data), spec)
        for inflater in {label_png.deflate, None}:
            patch.setattr(fast_codecs, "FOR_LABELS", (label_from_unfiltered_png,))
            patch.setattr(label_png, "deflate", inflater)
            assert outcome(bytes(data), spec) == expected

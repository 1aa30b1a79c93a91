"""The optional codecs: used where they are exact, silent where they are not, and never a reason for another outcome."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
from decode_broken import with_sampling
from decode_reference import encode, image_bytes, photograph, reference_image
from PIL import Image

from ringfeedd.decode import codecs as fast_codecs
from ringfeedd.decode import pair as decode
from ringfeedd.decode.image import Picture, open_picture
from ringfeedd.decode.pair import decode_pair
from ringfeedd.decode.spec import DecodeSpec, Fit
from ringfeedd.errors import BadPairError

simplejpeg = pytest.importorskip("simplejpeg")


def fast(data: bytes, height: int, width: int) -> np.ndarray | None:
    out = np.zeros((height, width, 3), np.uint8)
    picture = open_picture("image", data, max_pixels=1 << 30)
    return out if fast_codecs.jpeg_by_simplejpeg(picture, out) else None


@pytest.mark.parametrize("quality", [5, 50, 75, 90, 100])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("optimize", [False, True])
def test_a_plain_jpeg_has_pillows_pixels(quality, subsampling, progressive, optimize) -> None:
    for name, size in [("china", (320, 214)), ("flower", (161, 107)), ("coffee", (33, 47)), ("astronaut", (1, 1))]:
        picture = photograph(name).crop((0, 0, *size))
        for colours in (picture, picture.convert("L")):
            options = {"quality": quality, "subsampling": subsampling, "progressive": progressive, "optimize": optimize}
            data = encode(colours, "JPEG", **options)
            pixels = fast(data, size[1], size[0])
            assert pixels is not None, "declined, so this test compares nothing"
            assert np.array_equal(pixels, reference_image(data, "native", 0, 0))


def test_odd_sizes_up_to_two_blocks_match_pillow() -> None:
    whole = photograph("flower")
    for height in range(1, 34, 4):
        for width in range(1, 34, 3):
            data = encode(whole.crop((50, 50, 50 + width, 50 + height)), "JPEG", subsampling="4:2:0")
            pixels = fast(data, height, width)
            assert pixels is not None
            assert np.array_equal(pixels, reference_image(data, "native", 0, 0))


def test_restart_markers_and_a_comment_change_nothing() -> None:
    data = encode(photograph("china"), "JPEG", restart_marker_rows=1, comment=b"a comment")
    assert np.array_equal(fast(data, 214, 320), reference_image(data, "native", 0, 0))


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(encode(photograph("china").convert("CMYK"), "JPEG"), id="CMYK"),
        pytest.param(encode(photograph("china"), "JPEG", keep_rgb=True), id="RGB without YCbCr"),
        pytest.param(encode(photograph("china"), "PNG"), id="PNG"),
        pytest.param(image_bytes("china")[:-900], id="cut short"),
    ],
)
def test_what_it_cannot_do_exactly_it_declines(data) -> None:
    assert fast(data, 214, 320) is None


@pytest.mark.parametrize("factors", [0x14, 0x41, 0x12, 0x21, 0x22, 0x24, 0x13, 0x44])
def test_any_sampling_decodes_alike_with_and_without_it(factors, monkeypatch) -> None:
    """4:4:1 and 4:1:1 among them; simplejpeg has a KeyError for the first."""
    data = with_sampling(photograph("china"), factors)
    spec = DecodeSpec(32, 32, Fit.RESIZE)
    with_it = outcome(data, spec)
    monkeypatch.setattr(fast_codecs, "simplejpeg", None)
    assert with_it == outcome(data, spec)
    assert isinstance(with_it[0], str) == (factors == 0x44), "Pillow reads all but that one"


def test_a_buffer_of_another_size_is_declined() -> None:
    """It is not half filled."""
    assert fast(image_bytes("china"), 320, 214) is None
    assert fast(image_bytes("china"), 400, 400) is None


def outcome(data: bytes, spec: DecodeSpec) -> object:
    image, label = np.zeros(spec.image_row_shape, np.uint8), np.zeros(spec.label_row_shape, np.uint8)
    try:
        return decode_pair(data, encode(Image.new("RGB", (320, 214)), "PNG"), spec, image, label), image.tobytes()
    except BadPairError as error:
        return str(error), error.cause


def test_damaged_jpegs_decode_identically_with_and_without_it(monkeypatch) -> None:
    rng = np.random.default_rng(4)
    good = image_bytes("china")
    damaged = []
    for _ in range(60):
        data = bytearray(good)
        for place in rng.integers(0, len(data), 3).tolist():
            data[place] ^= 1 << int(rng.integers(8))
        damaged.append(bytes(data))
    damaged += [good[:cut] for cut in (3, 30, 600, len(good) // 2, len(good) - 2, len(good) - 1)]
    damaged += [good + b"trailing bytes", good[:-2] + b"\x00\xff\xd9"]
    spec = DecodeSpec(214, 320, Fit.NATIVE)
    with_it = [outcome(data, spec) for data in damaged]
    monkeypatch.setattr(fast_codecs, "simplejpeg", None)
    assert with_it == [outcome(data, spec) for data in damaged]
    assert {type(first) for first, _ in with_it} > {str}, "some fail and some do not, or this compares too little"


def pillow_decodes_no_image(monkeypatch) -> None:
    loaded = decode._loaded

    def watched(picture: Picture, scale: int = 1) -> Image.Image:
        assert picture.role == "label", "Pillow decoded it"
        return loaded(picture, scale)

    monkeypatch.setattr(decode, "_loaded", watched)


@pytest.mark.parametrize("fit", list(Fit))
def test_it_decodes_an_image_of_the_rows_size(fit, monkeypatch) -> None:
    pillow_decodes_no_image(monkeypatch)
    _, pixels = outcome(image_bytes("china"), DecodeSpec(214, 320, fit))
    assert pixels == reference_image(image_bytes("china"), "native", 0, 0).tobytes()


def test_it_decodes_a_padded_image_of_full_width(monkeypatch) -> None:
    pillow_decodes_no_image(monkeypatch)
    spec = DecodeSpec(220, 320, Fit.PAD)
    image = np.full(spec.image_row_shape, 0xA5, np.uint8)
    decode_pair(image_bytes("china"), encode(Image.new("RGB", (320, 214)), "PNG"), spec, image, np.empty_like(image))
    assert np.array_equal(image, reference_image(image_bytes("china"), "pad", 220, 320))


def test_it_does_not_decode_a_turned_image(monkeypatch) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    data = encode(photograph("china"), "JPEG", exif=exif)
    _, pixels = outcome(data, DecodeSpec(214, 320, Fit.NATIVE, exif_orientation=True))
    assert pixels == reference_image(data, "native", 0, 0, exif=True).tobytes()


def test_it_is_never_used_if_pillow_decodes_differently() -> None:
    """The Pillow of this machine."""
    other = ModuleType("other")
    other.decode_jpeg_header = simplejpeg.decode_jpeg_header
    other.decode_jpeg = lambda *args, **options: simplejpeg.decode_jpeg(*args, fastupsample=True, **options)
    assert not fast_codecs._equals_pillow(other)
    assert fast_codecs._equals_pillow(simplejpeg)

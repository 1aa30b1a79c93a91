"""Every kind of picture, and everything that a bucket can hold instead of one."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from decode_kinds import (
    COLOURS,
    GREY,
    IMAGE_KINDS,
    PLAIN,
    SIZE,
    decoded,
    lossless_jpeg,
    refused,
    with_orientation,
    with_scans,
)
from decode_reference import encode, image_bytes, label_bytes, photograph, png, png_chunk, reference_image
from PIL import Image, ImageOps

from ringfeedd.decode.image import MAX_SCANS, TURNS
from ringfeedd.decode.pair import Decoded
from ringfeedd.decode.spec import MAX_SIDE, Fit


@pytest.mark.parametrize("kind", IMAGE_KINDS)
@pytest.mark.parametrize("fit", [Fit.RESIZE, Fit.CROP, Fit.NATIVE])
def test_images_of_any_kind_match_pillows_conversion(kind, fit) -> None:
    size = SIZE if fit == Fit.NATIVE else (17, 29)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Pillow's advice on transparency would come once a pair
        pixels, _, _ = decoded(IMAGE_KINDS[kind], PLAIN, fit=fit, size=size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert np.array_equal(pixels, reference_image(IMAGE_KINDS[kind], fit, *size))


def test_the_wrong_extension_does_not_matter() -> None:
    """Only the bytes decide."""
    pixels, labels, _ = decoded(PLAIN, encode(COLOURS, "JPEG"))
    assert np.array_equal(pixels, np.asarray(COLOURS))
    assert np.array_equal(labels, reference_image(encode(COLOURS, "JPEG"), "native", 0, 0))


def test_a_two_picture_jpeg_shows_its_first() -> None:
    data = encode(COLOURS, "MPO", save_all=True, append_images=[GREY.convert("RGB")])
    assert np.array_equal(decoded(data, PLAIN)[0], reference_image(encode(COLOURS, "JPEG"), "native", 0, 0))


def test_a_16_bit_grey_image_is_refused() -> None:
    """Pillow's conversion would make it white."""
    error = refused(encode(Image.fromarray(np.full((24, 36), 999, np.uint16)), "PNG"), PLAIN)
    assert error.cause == "unsupported"
    assert "16-bit grey" in str(error)


@pytest.mark.parametrize("fit", list(Fit))
@pytest.mark.parametrize("orientation", range(1, 10))
def test_exif_orientation_is_left_alone_unless_asked_for(orientation, fit) -> None:
    for kind in ("JPEG", "PNG"):
        image = with_orientation(orientation, kind=kind)
        as_stored, _, found = decoded(image, PLAIN, fit=fit)
        assert np.array_equal(as_stored, reference_image(image, fit, *SIZE))
        assert (found.image_height, found.image_width, found.size_mismatch) == (24, 36, False)
        swaps = orientation in {5, 6, 7, 8}
        label = encode(COLOURS.transpose(Image.Transpose.ROTATE_90) if swaps else COLOURS, "PNG")
        size = (36, 24) if swaps else (24, 36)
        turned, labels, found = decoded(image, label, fit=fit, size=size, exif_orientation=True)
        assert np.array_equal(turned, reference_image(image, fit, *size, exif=True))
        assert np.array_equal(labels, reference_image(label, fit, *size)), "a label is never turned"
        assert (found.image_height, found.image_width, found.size_mismatch) == (*size, False)


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("fit", [Fit.RESIZE, Fit.CROP, Fit.PAD])
def test_a_turned_draft_stays_in_its_place(orientation, fit) -> None:
    """A smooth picture of odd size, drafted at 1/8 and turned, against the same picture turned and resized whole."""
    across, down = np.meshgrid(np.arange(203), np.arange(131))
    ramp = np.stack([across * 255 // 202, down * 255 // 130, (across + down) * 255 // 332], axis=2).astype(np.uint8)
    image = with_orientation(orientation, Image.fromarray(ramp))
    pixels, _, _ = decoded(image, PLAIN, fit=fit, size=(12, 16), exif_orientation=True)
    whole = Image.fromarray(reference_image(image, "native", 0, 0, exif=True))
    if fit == Fit.PAD:
        expected = ImageOps.pad(whole, (16, 12), Image.Resampling.BILINEAR, color=0)
    else:
        expected = (
            ImageOps.fit(whole, (16, 12), Image.Resampling.BILINEAR) if fit == Fit.CROP else whole.resize((16, 12), 2)
        )
    # A sixteenth of the ramp is 16 levels a pixel; half a drafted pixel out of place would be 5 and more everywhere.
    assert np.abs(pixels.astype(int) - np.asarray(expected)).mean() < 1.5


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_means_nothing_turns_nothing(orientation) -> None:
    image = with_orientation(orientation, kind="PNG")
    assert np.array_equal(decoded(image, PLAIN, exif_orientation=True)[0], np.asarray(COLOURS))


@pytest.mark.parametrize("mode", ["index", "gray16"])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_grey_labels_of_few_bits_keep_stored_values(bits, mode) -> None:
    # 8 pixels a row, so a row is `bits` bytes; every value of 2 and 4 bits comes.
    rows = np.random.default_rng(bits).integers(0, 256, (16, bits), np.uint8)
    label = png(8, 16, bits, 0, b"".join(b"\0" + row.tobytes() for row in rows))
    shifts = np.arange(8 // bits)[::-1] * bits
    values = (rows[:, :, None] >> shifts.astype(np.uint8)) & ((1 << bits) - 1)
    assert np.array_equal(decoded(PLAIN, label, mode, size=(16, 8))[1], values.reshape(16, 8))
    halved = decoded(PLAIN, label, mode, size=(8, 4))[1]
    assert set(np.unique(halved)) <= set(np.unique(values))


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palette_labels_keep_indices(bits) -> None:
    """Whatever their colours and transparency."""
    count = 1 << bits
    values = np.random.default_rng(bits).integers(0, count, (16, 8)).astype(np.uint8)
    picture = Image.frombytes("P", (8, 16), values.tobytes())
    picture.putpalette([value for index in range(count) for value in (255 - index, 7, 7)])
    label = encode(picture, "PNG", bits=bits, transparency=0)
    assert np.array_equal(decoded(PLAIN, label, "index", size=(16, 8))[1], values)


def test_16_bit_labels_keep_every_value() -> None:
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    assert np.array_equal(decoded(PLAIN, encode(Image.fromarray(values), "PNG"), "gray16", size=(256, 256))[1], values)


@pytest.mark.parametrize(
    ("mode", "label", "words"),
    [
        ("index", PLAIN, "mode RGB"),
        ("index", encode(COLOURS.convert("RGBA"), "PNG"), "mode RGBA"),
        ("index", encode(GREY.convert("LA"), "PNG"), "mode LA"),
        ("index", label_bytes("china", "gray16"), 'use label mode "gray16"'),
        ("index", encode(GREY, "JPEG"), "compression changes values"),
        ("gray16", encode(GREY, "JPEG"), "compression changes values"),
        ("gray16", PLAIN, "mode RGB"),
        ("gray16", label_bytes("china", "index"), 'use label mode "index"'),
        ("rgb", label_bytes("china", "gray16"), 'use label mode "gray16"'),
    ],
)
def test_a_label_of_another_mode_is_refused(mode, label, words) -> None:
    error = refused(PLAIN, label, mode)
    assert error.cause == "unsupported"
    assert words in str(error)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty object"),
        (b"<html><body>404</body></html>", "HTML"),
        (b'{"error": 404}', "JSON"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "PostScript"),
        (encode(COLOURS, "WEBP"), "WebP"),
        (encode(COLOURS, "GIF"), "GIF"),
        (encode(COLOURS, "BMP"), "BMP"),
        (encode(COLOURS, "TIFF"), "TIFF"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (b"\x00\x01\x02\x03\x04\x05\x06\x07\x08", "starting with the bytes"),
    ],
)
def test_what_is_no_picture_is_named(data, words) -> None:
    assert words in str(refused(data, PLAIN))
    error = refused(PLAIN, data)
    assert words in str(error)
    assert error.cause == ("corrupt" if not data else "unsupported")


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_picture_cut_anywhere_is_refused_as_corrupt(kind) -> None:
    whole = encode(COLOURS, kind)
    last = whole.rindex(b"\xff\xd9") - 1 if kind == "JPEG" else whole.index(b"IDAT") + 100
    for cut in range(9, last, 13):
        for fit, size in [(Fit.RESIZE, SIZE), (Fit.RESIZE, (5, 5)), (Fit.NATIVE, SIZE)]:
            assert refused(whole[:cut], PLAIN, fit=fit, size=size).cause == "corrupt"
            assert refused(PLAIN, whole[:cut], fit=fit, size=size).cause in {"corrupt", "size_mismatch"}


def test_a_bomb_is_refused_by_its_header(monkeypatch) -> None:
    """Before any pixel is decoded."""
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda _: pytest.fail("it was decoded"))
    bomb = png(60_000, 60_000, 1, 0, b"")
    for error in (refused(bomb, PLAIN), refused(PLAIN, bomb)):
        assert error.cause == "too_large"
        assert "60000x60000" in str(error)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert refused(png(10_000, 9_900, 8, 2, b""), PLAIN).cause == "too_large"


def test_a_side_beyond_the_limit_is_refused() -> None:
    """However few pixels there are."""
    for width, height in ((1, MAX_SIDE + 1), (MAX_SIDE + 1, 1)):
        error = refused(png(width, height, 1, 0, b""), PLAIN)
        assert error.cause == "too_large"
        assert str(MAX_SIDE) in str(error)
    assert decoded(png(1, MAX_SIDE, 1, 0, bytes(2 * MAX_SIDE)), PLAIN)[2].image_height == MAX_SIDE


def test_a_progressive_jpeg_with_endless_scans_is_refused(monkeypatch) -> None:
    """Before any scan is decoded."""
    few, many = (with_scans(encode(COLOURS, "JPEG", progressive=True), MAX_SCANS + more) for more in (0, 1))
    assert np.array_equal(decoded(few, PLAIN)[0], reference_image(few, "native", 0, 0))
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda _: pytest.fail("it was decoded"))
    error = refused(many, PLAIN)
    assert error.cause == "too_large"
    assert f"{MAX_SCANS + 1} scans" in str(error)


def test_chunk_boundaries_do_not_change_the_rows() -> None:
    """Rows in many little chunks, with empty ones among them, are one stream."""
    start, end = PLAIN.index(b"IDAT") - 4, len(PLAIN) - 12
    stream = PLAIN[start + 8 : end - 4]
    parts = [b"", *(stream[place : place + 1] for place in range(len(stream))), *[b""] * 2000]
    data = PLAIN[:start] + b"".join(png_chunk(b"IDAT", part) for part in parts) + PLAIN[end:]
    assert np.array_equal(decoded(data, data)[0], np.asarray(COLOURS))
    assert np.array_equal(decoded(data, data)[1], np.asarray(COLOURS))


@pytest.mark.parametrize("size", [(214, 320), (100, 100), (20, 30)])
def test_a_lossless_jpeg_is_never_drafted(size) -> None:
    grey = photograph("china").convert("L")
    pixels, _, _ = decoded(lossless_jpeg(np.asarray(grey)), PLAIN, size=size)
    expected = grey.resize(size[::-1], Image.Resampling.BILINEAR)
    assert np.array_equal(pixels, np.stack([np.asarray(expected)] * 3, axis=2))


def test_max_pixels_is_the_largest_size_accepted() -> None:
    assert decoded(PLAIN, PLAIN, max_pixels=24 * 36)[2].image_height == 24
    assert refused(PLAIN, PLAIN, max_pixels=24 * 36 - 1).cause == "too_large"


def test_native_refuses_oversized_images_and_mismatched_labels() -> None:
    tall = encode(COLOURS.resize((4, 216)), "PNG")
    assert decoded(tall, tall, fit=Fit.NATIVE)[2] == Decoded(216, 4, 216, 4, size_mismatch=False)
    larger = encode(COLOURS.resize((5, 216)), "PNG")
    error = refused(larger, larger, fit=Fit.NATIVE)
    assert (error.cause, "216x5 = 1080" in str(error), "24x36 = 864" in str(error)) == ("too_large", True, True)
    assert refused(tall, PLAIN, fit=Fit.NATIVE).cause == "size_mismatch"
    assert refused(PLAIN, larger, fit=Fit.NATIVE).cause == "size_mismatch"


def test_a_refusal_keeps_pillows_error_as_its_cause() -> None:
    assert refused(image_bytes("china")[:4000], PLAIN).__cause__ is not None

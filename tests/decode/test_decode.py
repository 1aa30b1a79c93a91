"""Pixels: what lies in a row is what Pillow gives for the same steps."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from decode_reference import (
    classes,
    encode,
    image_bytes,
    label_bytes,
    photograph,
    reference_drafted,
    reference_image,
    reference_label,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from ringfeedd.decode import codecs as fast_codecs
from ringfeedd.decode.fit import frame
from ringfeedd.decode.pair import Decoded, decode_pair
from ringfeedd.decode.spec import DecodeSpec, Fit, LabelMode

FITS = list(Fit)
FIXED_FITS = [Fit.RESIZE, Fit.CROP, Fit.PAD]
GARBAGE = 0xA5


@pytest.fixture(params=["with simplejpeg", "Pillow only"])
def codecs(request, monkeypatch):
    """Whatever is installed, the pixels are the same."""
    if request.param == "Pillow only":
        monkeypatch.setattr(fast_codecs, "simplejpeg", None)
    else:
        pytest.importorskip("simplejpeg")
    return request.param


def decode(image: bytes, label: bytes, spec: DecodeSpec) -> tuple[np.ndarray, np.ndarray, Decoded]:
    """Into rows that hold an older pair's pixels, inside a ring of three."""
    images = np.full((3, *spec.image_row_shape), GARBAGE, np.uint8)
    labels = np.full((3, *spec.label_row_shape), GARBAGE, spec.label_dtype)
    decoded = decode_pair(image, label, spec, images[1], labels[1])
    assert (images[[0, 2]] == GARBAGE).all()
    assert (labels[[0, 2]] == GARBAGE).all()
    image_row, label_row = images[1], labels[1]
    if spec.fit == Fit.NATIVE:
        shape = (decoded.image_height, decoded.image_width)
        image_row, image_rest = np.split(image_row.reshape(-1), [shape[0] * shape[1] * 3])
        label_size = shape[0] * shape[1] * (3 if spec.label_mode == LabelMode.RGB else 1)
        label_row, label_rest = np.split(label_row.reshape(-1), [label_size])
        assert (image_rest == GARBAGE).all()
        assert (label_rest == GARBAGE).all()
        image_row = image_row.reshape(*shape, 3)
        label_row = label_row.reshape(*shape, *labels.shape[3:])
    return image_row, label_row, decoded


# None of these rows is small enough for a draft to shrink the photographs.
@pytest.mark.parametrize("mode", list(LabelMode))
@pytest.mark.parametrize("fit", FIXED_FITS)
@pytest.mark.parametrize(("height", "width"), [(214, 320), (151, 239), (320, 214), (214, 450), (175, 175)])
def test_a_photograph_and_its_label_are_pillows_pixels(codecs, height, width, fit, mode) -> None:
    for name, kind in [("china", "JPEG"), ("coffee", "PNG")]:
        picture, image, label = photograph(name), image_bytes(name, kind), label_bytes(name, mode)
        pixels, labels, decoded = decode(image, label, DecodeSpec(height, width, fit, mode))
        assert np.array_equal(pixels, reference_image(image, fit, height, width))
        assert np.array_equal(labels, reference_label(label, fit, mode, height, width))
        assert labels.dtype == (np.uint16 if mode == LabelMode.GRAY16 else np.uint8)
        assert decoded == Decoded(picture.height, picture.width, picture.height, picture.width, size_mismatch=False)


@pytest.mark.parametrize("mode", list(LabelMode))
@pytest.mark.parametrize("name", ["china", "coffee", "flower"])
def test_native_pixels_lie_densely_from_the_rows_start(codecs, name, mode) -> None:
    picture, image, label = photograph(name), image_bytes(name), label_bytes(name, mode)
    # Taller than the row is high: only the count of pixels is limited.
    spec = DecodeSpec(picture.width, picture.height + 1, Fit.NATIVE, mode)
    pixels, labels, decoded = decode(image, label, spec)
    assert (decoded.image_height, decoded.image_width) == (picture.height, picture.width)
    assert np.array_equal(pixels, reference_image(image, "native", 0, 0))
    assert np.array_equal(labels, reference_label(label, "native", mode, 0, 0))


@pytest.mark.parametrize("fit", FIXED_FITS)
@pytest.mark.parametrize("name", ["china", "rocket"])
@pytest.mark.parametrize(
    ("height", "width"), [(107, 160), (108, 160), (50, 75), (26, 40), (112, 112), (15, 48), (7, 5)]
)
def test_a_jpeg_draft_keeps_every_pixel(name, height, width, fit) -> None:
    """A JPEG that shrinks is drafted by the largest scale that keeps every pixel of the row."""
    image, label = image_bytes(name), label_bytes(name, "index")
    pixels, labels, _ = decode(image, label, DecodeSpec(height, width, fit, LabelMode.INDEX))
    expected = reference_drafted(image, fit, height, width)
    assert np.abs(pixels.astype(int) - expected).max() <= (1 if fit == Fit.CROP else 0)  # crop: floats by another way
    assert np.array_equal(labels, reference_label(label, fit, "index", height, width))


@pytest.mark.parametrize("fit", FIXED_FITS)
def test_a_draft_keeps_the_picture_in_its_place(fit) -> None:
    # 1001 is odd at every scale, so each shrunk picture is wider than what it shows.
    picture = photograph("coffee").resize((1001, 667), Image.Resampling.BICUBIC)
    image, label = encode(picture, "JPEG", quality=95), encode(classes(picture), "PNG")
    pixels, _, _ = decode(image, label, DecodeSpec(60, 90, fit, LabelMode.INDEX))
    undrafted = reference_image(image, fit, 60, 90)
    assert np.abs(pixels.astype(int) - undrafted).mean() < 3


pictures = st.tuples(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1))


def small(height: int, width: int, seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


@given(size=pictures, row=st.tuples(st.integers(1, 50), st.integers(1, 50)), fit=st.sampled_from(FIXED_FITS))
@settings(max_examples=100, deadline=None)
def test_any_size_is_scaled_as_pillow_does(size, row, fit) -> None:
    picture = small(*size)
    spec = DecodeSpec(*row, fit, LabelMode.INDEX)
    image, label = encode(picture, "PNG"), encode(picture.convert("L"), "PNG")
    shrink = min(row[0] / size[0], row[1] / size[1])
    if fit == Fit.PAD and min(size[:2]) * shrink <= 0.5:
        return  # a line thinner than half a pixel: Pillow shows nothing of it, we show one pixel; tested below
    pixels, labels, _ = decode(image, label, spec)
    assert np.array_equal(pixels, reference_image(image, fit, *row))
    assert np.array_equal(labels, reference_label(label, fit, "index", *row))


@given(size=pictures, quality=st.integers(1, 100), subsampling=st.sampled_from(["4:4:4", "4:2:2", "4:2:0"]))
@settings(max_examples=100, deadline=None)
def test_any_small_jpeg_has_pillows_pixels(size, quality, subsampling) -> None:
    picture = small(*size)
    image = encode(picture, "JPEG", quality=quality, subsampling=subsampling)
    pixels, _, _ = decode(image, encode(picture, "PNG"), DecodeSpec(40, 40, Fit.NATIVE))
    assert np.array_equal(pixels, reference_image(image, "native", 0, 0))


@pytest.mark.parametrize("mode", LabelMode)
@pytest.mark.parametrize("row", [(60, 30), (30, 60)])
def test_padding_has_the_configured_values(mode, row) -> None:
    """As `ImageOps.pad` has them, above and below or left and right; every value that a label's row can hold."""
    picture = small(20, 20, 1)
    stored = np.asarray(picture.convert("L"))
    values = stored.astype(np.uint16) * 99 if mode == LabelMode.GRAY16 else stored
    image, label = encode(picture, "PNG"), encode(Image.fromarray(values), "PNG")
    for image_pad, label_pad in ((0, 0), (127, 255), (255, 65535 if mode == LabelMode.GRAY16 else 1)):
        spec = DecodeSpec(*row, Fit.PAD, mode, image_pad=image_pad, label_pad=label_pad)
        pixels, labels, _ = decode(image, label, spec)
        size = row[::-1]
        expected = ImageOps.pad(picture, size, Image.Resampling.BILINEAR, color=(image_pad,) * 3)
        assert np.array_equal(pixels, np.asarray(expected))
        plain = Image.fromarray(values).convert("RGB") if mode == LabelMode.RGB else Image.fromarray(values)
        color = (label_pad,) * 3 if mode == LabelMode.RGB else label_pad
        assert np.array_equal(labels, np.asarray(ImageOps.pad(plain, size, Image.Resampling.NEAREST, color=color)))


def test_padding_outside_the_rows_range_is_refused() -> None:
    for options in ({"image_pad": 256}, {"label_pad": 256}, {"label_pad": -1}, {"label_pad": 65536}):
        mode = LabelMode.GRAY16 if options == {"label_pad": 65536} else LabelMode.INDEX
        with pytest.raises(ValueError, match="does not fit into its row"):
            DecodeSpec(4, 4, Fit.PAD, mode, **options)


def test_pad_still_shows_a_very_thin_line() -> None:
    """A line that is too thin for the row."""
    line = Image.new("RGB", (40, 1), (9, 8, 7))
    pixels, _, _ = decode(encode(line, "PNG"), encode(line, "PNG"), DecodeSpec(5, 5, Fit.PAD))
    assert (pixels[2] == (9, 8, 7)).all()
    assert (pixels[[0, 1, 3, 4]] == 0).all()


@given(size=pictures, row=st.tuples(st.integers(1, 50), st.integers(1, 50)), fit=st.sampled_from(FIXED_FITS))
@settings(max_examples=100, deadline=None)
def test_no_fit_invents_a_class_in_a_label(size, row, fit) -> None:
    ids = np.random.default_rng(size[2]).choice(np.array([3, 7, 200, 255], np.uint8), size[:2])
    label = encode(Image.fromarray(ids), "PNG")
    _, labels, _ = decode(encode(small(*size), "PNG"), label, DecodeSpec(*row, fit, LabelMode.INDEX))
    assert set(np.unique(labels)) <= set(np.unique(ids)) | ({0} if fit == Fit.PAD else set())


@given(
    width=st.integers(1, 5000),
    height=st.integers(1, 5000),
    row_width=st.integers(1, 900),
    row_height=st.integers(1, 900),
)
def test_a_draft_never_loses_pixels_that_are_shown(width, height, row_width, row_height) -> None:
    for fit in FITS:
        framing = frame(fit, width=width, height=height, row_width=row_width, row_height=row_height)
        left, top, right, bottom = framing.box
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        scale = framing.draft_scale
        assert scale == 1 or (right - left >= scale * framing.width and bottom - top >= scale * framing.height)


@pytest.mark.parametrize("fit", FIXED_FITS)
def test_a_label_of_another_size_is_counted(fit) -> None:
    """It is fitted by itself."""
    image, label = image_bytes("china"), encode(classes(photograph("china").resize((160, 100))), "PNG")
    _, labels, decoded = decode(image, label, DecodeSpec(300, 400, fit, LabelMode.INDEX))
    assert decoded == Decoded(214, 320, 100, 160, size_mismatch=True)
    assert np.array_equal(labels, reference_label(label, fit, "index", 300, 400))


def test_threads_do_not_disturb_one_another(codecs) -> None:
    """Eight threads start together, each on pairs and rows of its own."""
    pairs = [(image_bytes(name), label_bytes(name, "index")) for name in ("china", "coffee")]
    specs = [DecodeSpec(214, 320, Fit.NATIVE, LabelMode.INDEX), DecodeSpec(90, 100, Fit.CROP, LabelMode.INDEX)]
    alone = [decode(*pair, spec) for pair in pairs for spec in specs]
    barrier = threading.Barrier(8)

    def work(_: int) -> list:
        barrier.wait()
        return [decode(*pair, spec) for _ in range(3) for pair in pairs for spec in specs]

    with ThreadPoolExecutor(8) as pool:
        for results in pool.map(work, range(8)):
            for number, (pixels, labels, decoded) in enumerate(results):
                expected = alone[number % len(alone)]
                assert np.array_equal(pixels, expected[0])
                assert np.array_equal(labels, expected[1])
                assert decoded == expected[2]


def test_a_row_of_another_size_is_refused() -> None:
    """Nothing is written outside the ring's row."""
    spec = DecodeSpec(8, 8)
    data = encode(small(8, 8, 1), "PNG")
    good = np.zeros((8, 8, 3), np.uint8)
    for bad in (np.zeros((8, 16, 3), np.uint8)[:, ::2], np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3), np.uint16)):
        with pytest.raises(ValueError, match="the image row is"):
            decode_pair(data, data, spec, bad, good)
        with pytest.raises(ValueError, match="the label row is"):
            decode_pair(data, data, spec, good, bad)


@pytest.mark.parametrize(("height", "width", "pixels"), [(0, 4, 9), (4, -1, 9), (4, 4, 0)])
def test_a_spec_that_holds_nothing_is_refused(height, width, pixels) -> None:
    with pytest.raises(ValueError, match=r"it must be 1 or more|both must be 1 or more"):
        DecodeSpec(height, width, max_pixels=pixels)


def test_row_shapes_follow_the_label_mode() -> None:
    shapes = {mode: DecodeSpec(4, 5, label_mode=mode).label_row_shape for mode in LabelMode}
    assert shapes == {LabelMode.RGB: (4, 5, 3), LabelMode.INDEX: (4, 5), LabelMode.GRAY16: (4, 5)}
    assert DecodeSpec(4, 5).image_row_shape == (4, 5, 3)

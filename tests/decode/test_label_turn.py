"""With `exif_orientation`, a label lies on its image, or the pair is counted."""

from __future__ import annotations

import numpy as np
import pytest
from decode_reference import encode
from PIL import Image, ImageOps
from ring_fixtures import PaintingPool, served_ring

from ringfeed.cli.status import ring_status
from ringfeed.shm.counters import DaemonCounts
from ringfeedd.decode.pair import decode_pair
from ringfeedd.decode.spec import DecodeSpec, Fit, LabelMode
from ringfeedd.fetch.health import StoreHealth

WIDE, TALL, SQUARE = (60, 40), (40, 60), (48, 48)
SWAPPING = (5, 6, 7, 8)


def tagged(orientation):
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    return exif


def scene(size, mode=LabelMode.INDEX):
    """An image whose left third is black, and a label that is 1 there; as people see them."""
    third = np.zeros(size[::-1], np.uint8)
    third[:, : size[0] // 3] = 1
    third[: size[1] // 4] *= 3  # no symmetry
    label = Image.fromarray(third)
    if mode is LabelMode.GRAY16:
        label = Image.fromarray(third.astype(np.uint16) * 1000)
    elif mode is LabelMode.INDEX:
        label = label.convert("P")
        label.putdata(third.ravel().tolist())
        label.putpalette(list(range(256)) * 3)
    return Image.fromarray(np.repeat(255 - 80 * third[:, :, None], 3, axis=2)), label


def stored(picture, orientation):
    """The picture as a camera stores it that was held so: `exif_transpose` gives back what people see."""
    back = {2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}.get(orientation)
    if back is None:
        return picture
    turned = picture.copy()
    turned.info.clear()
    exif = tagged(back)
    turned.info["exif"] = exif.tobytes()
    turned.getexif()[0x0112] = back
    return ImageOps.exif_transpose(turned)


def decoded(image, label, *, fit=Fit.RESIZE, size=(24, 24), mode=LabelMode.INDEX, exif=True):
    spec = DecodeSpec(*size, fit=fit, label_mode=mode, exif_orientation=exif)
    rows = np.zeros(spec.image_row_shape, np.uint8), np.zeros(spec.label_row_shape, spec.label_dtype)
    return decode_pair(image, label, spec, *rows), *rows


def of(picture, orientation=None, kind="PNG"):
    return encode(picture, kind, exif=tagged(orientation), **({"quality": 95} if kind == "JPEG" else {}))


@pytest.mark.parametrize("fit", Fit)
@pytest.mark.parametrize("mode", LabelMode)
@pytest.mark.parametrize("orientation", SWAPPING)
@pytest.mark.parametrize("size", [WIDE, TALL])
def test_a_label_is_turned_as_its_shape_says(size, orientation, mode, fit):
    """A label of the stored pixels, and one of what people see, come to the same row."""
    image, label = scene(size, mode)
    options = {"fit": fit, "mode": mode, "size": (64, 64)}
    photo = of(stored(image, orientation), orientation, "JPEG")
    facts, _, expected = decoded(of(image), of(label), **options)
    for drawn in (label, stored(label, orientation), label.resize((label.width * 2, label.height * 2), 0)):
        if fit is Fit.NATIVE and drawn.size not in (image.size, image.size[::-1]):
            continue
        found, _, row = decoded(photo, of(drawn), **options)
        assert not found.turn_unsure
        assert found.size_mismatch == (drawn.size not in (image.size, image.size[::-1]))
        if not found.size_mismatch:
            assert found == facts
            assert (row == expected).all()
        assert (row > 0).mean() == pytest.approx((expected > 0).mean(), abs=0.02)


@pytest.mark.parametrize(("size", "orientation"), [(WIDE, 2), (WIDE, 3), (TALL, 4), *((SQUARE, n) for n in SWAPPING)])
def test_an_ambiguous_label_is_used_unturned_and_counted(size, orientation):
    """A label that may lie either way is taken as people see it."""
    image, label = scene(size)
    photo = of(stored(image, orientation), orientation, "JPEG")
    _, _, expected = decoded(of(image), of(label))
    found, _, row = decoded(photo, of(label))
    assert found.turn_unsure
    assert (row == expected).all()
    found, *_ = decoded(photo, of(label), exif=False)
    assert not found.turn_unsure, "nothing is turned"


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("size", [WIDE, SQUARE])
def test_a_labels_own_orientation_is_kept_to(size, orientation):
    image, label = scene(size)
    _, _, expected = decoded(of(image), of(label))
    photo, drawn = of(stored(image, orientation), orientation, "JPEG"), of(stored(label, orientation), orientation)
    found, _, row = decoded(photo, drawn)
    assert not found.turn_unsure
    assert (row == expected).all()
    assert not decoded(of(image), of(label, 1))[0].turn_unsure


def test_an_orientation_that_contradicts_the_shape_is_ignored():
    """A tool that copies the EXIF data of a photo into a label of what people see."""
    image, label = scene(WIDE)
    _, _, expected = decoded(of(image), of(label))
    for photo in (of(stored(image, 6), 6, "JPEG"), of(image)):
        found, _, row = decoded(photo, of(label, 6))
        assert not found.turn_unsure
        assert (row == expected).all()


def test_possibly_misaligned_pairs_are_counted(caplog, monkeypatch):
    """The first is named in the log."""
    monkeypatch.setattr(PaintingPool, "turn_unsure", True)
    with served_ring() as served:
        served.service.report(DaemonCounts(workers=1), StoreHealth())
        status = ring_status(served.name)
        assert status.unsure_turns == status.decoded_pairs > 1
        assert f"{status.unsure_turns} labels that may not be turned as their images are" in "\n".join(status.lines())
    assert caplog.text.count("drawn on the turned one") == 1

"""Bytes that were pictures: cut, flipped, overwritten, spliced. Pixels or one sentence, soon, and within the rows.

``RINGFEED_FUZZ_MINUTES=10 pytest -m slow tests/decode/test_decode_fuzz.py`` continues for that long.
"""

from __future__ import annotations

import os
import random
import re
import resource
import time

import numpy as np
import pytest
from decode_broken import SEEDS, broken
from hypothesis import given, seed, settings
from hypothesis import strategies as st

from ringfeedd.decode import codecs as fast_codecs
from ringfeedd.decode import image as picture
from ringfeedd.decode import png as label_png
from ringfeedd.decode.memory import decode_bytes, private_bytes
from ringfeedd.decode.pair import decode_pair
from ringfeedd.decode.spec import DecodeSpec, Fit, LabelMode
from ringfeedd.errors import BadPairError

MAX_PIXELS = 1_000_000
MOST_CPU_S = 10.0
CAUSES = {"corrupt", "unsupported", "too_large", "size_mismatch"}


def check(chooser: random.Random, fit: Fit, mode: LabelMode, size: tuple[int, int], exif: bool) -> None:
    spec = DecodeSpec(*size, fit, mode, exif_orientation=exif, max_pixels=MAX_PIXELS)
    image = broken(chooser) if chooser.random() < 0.6 else SEEDS[0]
    label = broken(chooser) if chooser.random() < 0.6 else SEEDS[7]
    images = np.full((3, *spec.image_row_shape), 0xA5, np.uint8)
    labels = np.full((3, *spec.label_row_shape), 0xA5, spec.label_dtype)
    began = time.thread_time()
    failure = outcome(image, label, spec, images[1], labels[1])
    assert failure is None or failure.cause in CAUSES
    assert failure is None or re.fullmatch("the (image|label) .*", str(failure)), "one line that says which of the two"
    assert time.thread_time() - began < MOST_CPU_S
    assert (images[[0, 2]] == 0xA5).all()
    assert (labels[[0, 2]] == 0xA5).all()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fast_codecs, "FOR_IMAGES", ())
        patch.setattr(fast_codecs, "FOR_LABELS", ())
        patch.setattr(picture, "plain_header", lambda _: None)
        slow = np.full_like(images[1], 0xA5), np.full_like(labels[1], 0xA5)
        reference = outcome(image, label, spec, *slow)
    if same(failure, images[1], labels[1], reference, *slow):
        return
    with pytest.MonkeyPatch.context() as patch:  # reserved codes are the one known difference, see docs/decoding.md
        patch.setattr(label_png, "deflate", None)
        by_zlib = np.full_like(images[1], 0xA5), np.full_like(labels[1], 0xA5)
        failure = outcome(image, label, spec, *by_zlib)
    assert same(failure, *by_zlib, reference, *slow), "with and without fast codecs it is the same"


def outcome(
    image: bytes, label: bytes, spec: DecodeSpec, image_row: np.ndarray, label_row: np.ndarray
) -> BadPairError | None:
    """Why there are no pixels; None where they are in the rows."""
    try:
        decode_pair(image, label, spec, image_row, label_row)
    except BadPairError as error:
        return error
    return None


def same(one: BadPairError | None, *rows: object) -> bool:
    """Whether two outcomes are: failure, image row, label row of the first, and of the second."""
    image, label, other, other_image, other_label = rows
    if one is not None or other is not None:
        return (str(one), getattr(one, "cause", "")) == (str(other), getattr(other, "cause", ""))
    return np.array_equal(image, other_image) and np.array_equal(label, other_label)


ARGUMENTS = {
    "chooser": st.randoms(use_true_random=False, note_method_calls=False),
    "fit": st.sampled_from(list(Fit)),
    "mode": st.sampled_from(list(LabelMode)),
    "size": st.sampled_from([(40, 48), (48, 40), (9, 7), (64, 64)]),
    "exif": st.booleans(),
}


@pytest.fixture
def little_memory():
    """What a decode of so many pixels may take, and a little for the tests' own sake."""
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    allowed = decode_bytes(DecodeSpec(64, 64, max_pixels=MAX_PIXELS)) + (128 << 20)
    resource.setrlimit(resource.RLIMIT_DATA, (private_bytes() + allowed, hard))
    yield
    resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


@pytest.mark.usefixtures("little_memory")
def test_broken_bytes_end_in_pixels_or_a_sentence() -> None:
    """Soon, and in little memory."""
    settings(max_examples=400, deadline=None)(given(**ARGUMENTS)(check))()


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.usefixtures("little_memory")
def test_broken_bytes_for_longer() -> None:
    end = time.monotonic() + 60 * float(os.environ.get("RINGFEED_FUZZ_MINUTES", "0.5"))
    number = random.SystemRandom().randrange(1 << 32)
    while time.monotonic() < end:
        print(f"seed {number}")
        seed(number)(settings(max_examples=1000, deadline=None, database=None)(given(**ARGUMENTS)(check)))()
        number += 1

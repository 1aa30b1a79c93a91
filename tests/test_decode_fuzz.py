"""Bytes that were pictures: cut, flipped, overwritten, spliced. Pixels or one sentence, soon, and within the rows.

``RINGFEED_FUZZ_MINUTES=10 pytest -m slow tests/test_decode_fuzz.py`` goes on for that long, always with new ones.
"""

from __future__ import annotations

import os
import random
import re
import resource
import time

import numpy as np
import pytest
from decode_reference import classes, encode, label_bytes, photograph, png
from hypothesis import given, seed, settings
from hypothesis import strategies as st
from PIL import Image

from ringfeedd.decode import decode_pair
from ringfeedd.errors import BadPairError
from ringfeedd.memory_limit import decode_bytes, private_bytes
from ringfeedd.spec import DecodeSpec, Fit, LabelMode

MAX_PIXELS = 1_000_000
MOST_CPU_S = 10.0
CAUSES = {"corrupt", "unsupported", "too_large", "size_mismatch"}

PICTURE = photograph("flower").crop((30, 20, 78, 60))
TURNED = Image.Exif()
TURNED[0x0112] = 6
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


def check(chooser: random.Random, fit: Fit, mode: LabelMode, size: tuple[int, int], exif: bool) -> None:
    spec = DecodeSpec(*size, fit, mode, exif_orientation=exif, max_pixels=MAX_PIXELS)
    image = broken(chooser) if chooser.random() < 0.6 else SEEDS[0]
    label = broken(chooser) if chooser.random() < 0.6 else SEEDS[7]
    images = np.full((3, *spec.image_row_shape), 0xA5, np.uint8)
    labels = np.full((3, *spec.label_row_shape), 0xA5, spec.label_dtype)
    began = time.thread_time()
    failure = None
    try:
        decode_pair(image, label, spec, images[1], labels[1])
    except BadPairError as error:
        failure = error
    assert failure is None or failure.cause in CAUSES
    assert failure is None or re.fullmatch("the (image|label) .*", str(failure)), "one line that says which of the two"
    assert time.thread_time() - began < MOST_CPU_S
    assert (images[[0, 2]] == 0xA5).all()
    assert (labels[[0, 2]] == 0xA5).all()


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
def test_broken_bytes_end_in_pixels_or_in_a_sentence_soon_and_in_little_memory() -> None:
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

"""A worker's memory: enough for the worst picture that max_pixels lets in, and a limit for everything else."""

from __future__ import annotations

import pytest
from decode_reference import encode, png
from house import finish, trainer
from PIL import Image

from ringfeedd.decode.memory import OTHER_BYTES, decode_bytes, worker_bytes
from ringfeedd.decode.spec import MAX_SIDE, DecodeSpec

LIMITED = """
import mmap, os, resource, sys
import numpy as np
from ringfeedd.decode.memory import limit_own_memory, private_bytes
"""

SHARED_IS_NOT_COUNTED = """
limit_own_memory(64 << 20)
shared = mmap.mmap(-1, 1 << 30)
fd = os.memfd_create("ring")
os.ftruncate(fd, 1 << 30)
ring = mmap.mmap(fd, 1 << 30)
little = np.ones(16 << 20, np.uint8)
try:
    np.empty(80 << 20, np.uint8)
except MemoryError:
    print("refused")
"""

NEVER_RAISED = """
lower = private_bytes() + (8 << 20)
resource.setrlimit(resource.RLIMIT_DATA, (lower, lower + (8 << 20)))
limit_own_memory(1 << 40)
assert resource.getrlimit(resource.RLIMIT_DATA) == (lower, lower + (8 << 20))
print("kept")
"""

DECODE = """
from ringfeedd.decode.pair import decode_pair
from ringfeedd.decode.memory import decode_bytes
from ringfeedd.decode.spec import DecodeSpec, Fit

data, fit, side = open(sys.argv[1], "rb").read(), sys.argv[2], int(sys.argv[3])
size = (side, side) if fit == "native" else (224, 224)
spec = DecodeSpec(*size, Fit(fit), exif_orientation=True, max_pixels=side * side)
image, label = np.zeros(spec.image_row_shape, np.uint8), np.zeros(spec.label_row_shape, np.uint8)
limit_own_memory(decode_bytes(spec))
decode_pair(data, data, spec, image, label)
print("decoded")
"""

SIDE = 1000


def worst(kind: str) -> bytes:
    """Pictures that cost the most memory for each pixel, to be turned as well."""
    exif = Image.Exif()
    exif[0x0112] = 6
    noise = Image.effect_noise((SIDE, SIDE), 90)
    if kind == "CMYK":
        return encode(noise.convert("CMYK"), "JPEG", progressive=True, quality=50, exif=exif)
    if kind == "LA":
        return encode(noise.convert("LA"), "PNG", compress_level=1, exif=exif)
    return png(SIDE, SIDE, 16, 6, (b"\0" + bytes(8 * SIDE)) * SIDE)


def test_a_codecs_allocations_count_and_rings_do_not() -> None:
    assert finish(trainer(LIMITED + SHARED_IS_NOT_COUNTED)) == "refused\n"


def test_an_earlier_limit_is_never_raised() -> None:
    assert finish(trainer(LIMITED + NEVER_RAISED)) == "kept\n"


@pytest.mark.parametrize(
    ("kind", "fit"), [("CMYK", "resize"), ("CMYK", "native"), ("LA", "native"), ("16-bit RGBA", "native")]
)
def test_the_worst_image_of_max_pixels_is_decoded(tmp_path, kind, fit) -> None:
    """Within the memory that is allowed for one."""
    (tmp_path / "picture").write_bytes(worst(kind))
    assert finish(trainer(LIMITED + DECODE, tmp_path / "picture", fit, SIDE)) == "decoded\n"


def test_larger_rows_and_larger_pictures_are_allowed_more() -> None:
    small, large = DecodeSpec(224, 224), DecodeSpec(2000, 2000)
    assert decode_bytes(small) < decode_bytes(large)
    assert decode_bytes(DecodeSpec(224, 224, max_pixels=1000)) < decode_bytes(small)
    assert worker_bytes([small, large]) == decode_bytes(large) + OTHER_BYTES
    # Pillow's picture on the way is as wide as the row and as high as the image.
    assert decode_bytes(DecodeSpec(1, 4000)) > 4 * 4000 * MAX_SIDE
    assert worker_bytes([small]) < 3 << 30, "what a worker of common settings may use"

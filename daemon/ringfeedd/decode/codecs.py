"""Optional decoders that are faster than Pillow and give the same pixels, or decline.

A fast decoder is never the only one: it writes exactly what the reference steps would write, or returns False, after
which those steps run and overwrite whatever it may have left. So what is installed changes speed and nothing else, not
even which pairs fail (but for the streams that docs/decoding.md names). A new one is added to a tuple here.
"""

from __future__ import annotations

import contextlib
import importlib
import io
from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ringfeedd.decode.image import Picture
from ringfeedd.decode.png import label_from_unfiltered_png

Pixels: TypeAlias = NDArray[np.uint8] | NDArray[np.uint16]
"""(height, width, 3) or (height, width), C-contiguous, of the picture's own size."""

FastDecoder: TypeAlias = Callable[[Picture, Pixels], bool]
"""Writes a picture as it is stored, neither turned nor scaled, into the pixels; False where it cannot do so exactly."""


simplejpeg: ModuleType | None = None
"""A package of the extra ``fast``."""

with contextlib.suppress(ImportError):
    simplejpeg = importlib.import_module("simplejpeg")

_EXACT_SUBSAMPLINGS: Final = {"444", "422", "420", "Gray"}
"""The ones whose upsampling is the same in all libjpeg-turbo releases in use, and which cameras and tools write."""


def jpeg_by_simplejpeg(picture: Picture, out: Pixels) -> bool:
    """A plain JPEG (YCbCr or grey, 8 bits) to RGB straight into ``out``, shape (height, width, 3), uint8."""
    codec = simplejpeg
    if codec is None or not picture.header.is_jpeg or not _equals_pillow(codec):
        return False
    try:
        height, width, space, subsampling = codec.decode_jpeg_header(picture.data)
        if (height, width, 3) != out.shape or space not in {"YCbCr", "Gray"} or subsampling not in _EXACT_SUBSAMPLINGS:
            return False
        # Strict: what libjpeg only warns about (a cut or damaged scan) is Pillow's to judge.
        codec.decode_jpeg(picture.data, "RGB", buffer=out, strict=True)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001  # KeyError for a sampling that it does not know, and whatever else it stumbles over
        return False
    return True


FOR_IMAGES: Final[tuple[FastDecoder, ...]] = (jpeg_by_simplejpeg,)
"""Tried in turn for an image that goes into its row as it is."""

FOR_LABELS: Final[tuple[FastDecoder, ...]] = (label_from_unfiltered_png,)
"""The same for a label of class ids or measurements, before it is fitted."""


@cache
def _equals_pillow(codec: ModuleType) -> bool:
    """Whether this machine's codec and this machine's Pillow give the same pixels.

    Both carry a libjpeg of their own (a distribution's Pillow may even use another family's), so it is tried once a
    process, in some milliseconds, rather than assumed.
    """
    noise = np.random.default_rng(20).integers(0, 256, (37, 45, 3), dtype=np.uint8)
    ramp = np.add.outer(np.arange(37) * 3, np.arange(45) * 2).astype(np.uint8)
    picture = Image.fromarray(noise // 4 + ramp[:, :, None] // 2)
    for subsampling in ("4:4:4", "4:2:2", "4:2:0"):
        for progressive in (False, True):
            for image in (picture, picture.convert("L")):
                with io.BytesIO() as file:
                    image.save(file, "JPEG", quality=85, subsampling=subsampling, progressive=progressive)
                    reference = np.asarray(Image.open(file, formats=("JPEG",)).convert("RGB"))
                    if not np.array_equal(codec.decode_jpeg(file.getvalue(), "RGB"), reference):
                        return False
    return True

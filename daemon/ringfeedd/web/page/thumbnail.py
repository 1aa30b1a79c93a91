"""Small pictures of pairs: the image alone, and with its label over it in colours. Pure functions of the pixels."""

from __future__ import annotations

import colorsys
import io
from functools import cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

SIDE: Final = 240
"""Pixels of a thumbnail's longer side, at most: twice what it is shown with, for screens of two dots a pixel."""

OVERLAY: Final = 0.55
"""How much of a pixel is its label's colour."""

BACKGROUND: Final = 0
"""The class that is left clear; of a label in colours, black; of measurements, none."""

IGNORED: Final = 255
"""The class of pixels that a loss leaves out by custom: grey, and thin."""

THIN: Final = 0.4
"""How much of that colour pixels have that a loss leaves out."""

QUALITY: Final = 82

_RAMP: Final = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))
"""Colours of measurements, from the smallest in the picture to the largest."""

_FIRST: Final = (
    (47, 111, 228), (242, 153, 44), (31, 174, 116), (228, 87, 46), (139, 92, 246), (20, 184, 206), (240, 98, 146),
    (168, 201, 59), (161, 98, 7), (99, 115, 129),
)  # fmt: skip
"""Colours of the first classes."""

Pixels = npt.NDArray[Any]


def thumbnails(image: Pixels, label: Pixels) -> tuple[bytes, bytes]:
    """Return two JPEG files: the image with its label over it, and the image alone.

    Args:
        image: ``(H, W, 3)`` uint8.
        label: ``(h, w)`` uint8 classes or uint16 measurements, or ``(h, w, 3)`` uint8 colours; of any size.
    """
    height, width = _small(image.shape[0], image.shape[1])
    plain = np.asarray(_resized(image, height, width), np.uint8)
    colours, alpha = _coloured(_nearest(label, height, width))
    weight = (OVERLAY * alpha)[..., None]
    blended = plain * (1 - weight) + colours * weight
    return _jpeg(blended.round().astype(np.uint8)), _jpeg(plain)


def _small(height: int, width: int) -> tuple[int, int]:
    scale = min(1.0, SIDE / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def _resized(image: Pixels, height: int, width: int) -> Image.Image:
    step = max(1, min(image.shape[0] // (2 * height), image.shape[1] // (2 * width)))  # most of a large one is skipped
    picture = Image.fromarray(np.ascontiguousarray(image[::step, ::step]), "RGB")
    return picture if picture.size == (width, height) else picture.resize((width, height), Image.Resampling.BOX)


def _nearest(label: Pixels, height: int, width: int) -> Pixels:
    rows = np.arange(height) * label.shape[0] // height
    columns = np.arange(width) * label.shape[1] // width
    picked: Pixels = label[rows[:, None], columns]
    return picked


def _coloured(label: Pixels) -> tuple[Pixels, Pixels]:
    """Colours ``(h, w, 3)`` uint8, and ``(h, w)`` how much of them is to be seen, 0 to 1."""
    if label.ndim == 3:
        return label, np.asarray(label.any(axis=2), np.float32)
    if label.dtype == np.uint8:
        alpha: Pixels = np.ones(256, np.float32)
        alpha[BACKGROUND], alpha[IGNORED] = 0, THIN
        classes: Pixels = label
        return palette()[classes], np.asarray(alpha[classes])
    measured = label > 0
    if not measured.any():
        return np.zeros((*label.shape, 3), np.uint8), np.zeros(label.shape, np.float32)
    least, most = int(label[measured].min()), int(label[measured].max())
    share = (label.astype(np.float32) - least) / max(1, most - least)
    stops = np.linspace(0, 1, len(_RAMP))
    colours = [np.interp(share, stops, channel) for channel in np.array(_RAMP, np.float64).T]
    return np.stack(colours, axis=-1).round().astype(np.uint8), measured.astype(np.float32)


@cache
def palette() -> npt.NDArray[np.uint8]:
    """Colours ``(256, 3)`` of the classes: neighbours differ much, class 0 is black and 255 grey."""
    hues = (np.arange(256) * 0.618034) % 1.0
    colours = [colorsys.hsv_to_rgb(hue, 0.5 + 0.1 * (n % 4), 0.95 - 0.15 * (n % 3)) for n, hue in enumerate(hues)]
    table = (255 * np.array(colours)).round().astype(np.uint8)
    table[1 : 1 + len(_FIRST)] = _FIRST
    table[BACKGROUND], table[IGNORED] = 0, 160
    table.setflags(write=False)
    return table


def _jpeg(pixels: npt.NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels, "RGB").save(file, "JPEG", quality=QUALITY)
    return file.getvalue()

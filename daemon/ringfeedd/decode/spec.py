"""What a slot's rows hold: the settings that decode, layout and config must agree on, and nothing that does work."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

DEFAULT_MAX_PIXELS = 64_000_000
"""Pixels of one picture's header above which it is not decoded: 192 MB of RGB, more than any camera's photograph."""

MAX_SIDE = 65_535
"""Pixels: a JPEG's format allows no more, and a PNG of one pixel's width would need far more memory than its pixels."""


class Fit(StrEnum):
    """How a picture of any size comes into a row of one size; ``docs/decoding.md`` has the steps."""

    RESIZE = "resize"
    """Stretched to the row's height and width."""

    CROP = "crop"
    """Scaled until it covers the row, its centre kept."""

    PAD = "pad"
    """Scaled until it lies within the row, centred, ``image_pad`` or ``label_pad`` around."""

    NATIVE = "native"
    """At its own size, its pixels dense from the row's first byte; the row's height * width is the limit."""


class LabelMode(StrEnum):
    """What a label's values are."""

    RGB = "rgb"
    """Colours: three bytes a pixel."""

    INDEX = "index"
    """Class ids: one byte a pixel, a palette's indices or the grey values themselves."""

    GRAY16 = "gray16"
    """Measurements such as depth: one 16-bit word a pixel."""


@dataclass(frozen=True, slots=True)
class DecodeSpec:
    """How a pair becomes pixels.

    Attributes:
        height: pixels of a row from top to bottom.
        width: pixels of a row from left to right.
        fit: how other sizes come into that size.
        label_mode: what the label's values are.
        exif_orientation: turn an image as its EXIF orientation asks, and its label as `label_turn` decides.
        max_pixels: a picture with more in its header is refused before it is decoded.
        image_pad: the value around an image with ``fit="pad"``, in all three channels.
        label_pad: the same around a label, e.g. a class that the loss ignores.

    Raises:
        ValueError: a number is below 1, or a value around does not fit into the row.
    """

    height: int
    width: int
    fit: Fit = Fit.RESIZE
    label_mode: LabelMode = LabelMode.RGB
    exif_orientation: bool = False
    max_pixels: int = DEFAULT_MAX_PIXELS
    image_pad: int = 0
    label_pad: int = 0

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise ValueError(f"a row of {self.height}x{self.width} pixels holds nothing; both must be 1 or more")
        if self.max_pixels < 1:
            raise ValueError(f"max_pixels is {self.max_pixels}, which refuses every picture; it must be 1 or more")
        if not (0 <= self.image_pad <= 255 and 0 <= self.label_pad <= np.iinfo(self.label_dtype).max):
            raise ValueError(f"image_pad = {self.image_pad} or label_pad = {self.label_pad} does not fit into its row")

    @property
    def image_row_shape(self) -> tuple[int, int, int]:
        """(height, width, 3); the dtype is uint8."""
        return (self.height, self.width, 3)

    @property
    def label_row_shape(self) -> tuple[int, ...]:
        """(height, width, 3) for colours, (height, width) for ids and measurements; the dtype is ``label_dtype``."""
        colours = (3,) if self.label_mode == LabelMode.RGB else ()
        return (self.height, self.width, *colours)

    @property
    def label_dtype(self) -> np.dtype[np.uint8] | np.dtype[np.uint16]:
        """uint16 for measurements, uint8 otherwise."""
        return np.dtype(np.uint16) if self.label_mode == LabelMode.GRAY16 else np.dtype(np.uint8)

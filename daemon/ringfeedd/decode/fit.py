"""Where a picture's pixels lie in a row: arithmetic on sizes alone, the same for an image and its label.

The formulas are, to the last float, those of Pillow's ``ImageOps.fit`` (crop) and ``ImageOps.pad`` (pad), so that what
a row holds can be made again with Pillow only.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from ringfeedd.decode.spec import Fit

DRAFT_SCALES = (8, 4, 2)
"""By how much a JPEG can be shrunk while it is decoded, largest first."""

Box = tuple[float, float, float, float]
"""Left, top, right, bottom, in pixels."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Which part of a picture is scaled to which size, and where that lies in the row.

    Attributes:
        source_width: the whole picture's width in pixels.
        source_height: the whole picture's height in pixels.
        box: the part of the picture that is shown, in its pixels; fractions are meant.
        width: of the shown part in the row.
        height: of the shown part in the row.
        left: columns of the row before it.
        top: rows of the row before it.
    """

    source_width: int
    source_height: int
    box: Box
    width: int
    height: int
    left: int = 0
    top: int = 0

    @property
    def keeps_every_pixel(self) -> bool:
        """Whether the whole picture is shown as it is."""
        whole: Box = (0.0, 0.0, float(self.source_width), float(self.source_height))
        return self.box == whole and (self.width, self.height) == (self.source_width, self.source_height)

    @property
    def draft_scale(self) -> int:
        """The most by which a JPEG may be shrunk on decoding and still have every pixel that is shown: 1, 2, 4 or 8."""
        across = self.box[2] - self.box[0]
        down = self.box[3] - self.box[1]
        for scale in DRAFT_SCALES:
            if across >= scale * self.width and down >= scale * self.height:
                return scale
        return 1


@lru_cache(maxsize=256)
def frame(fit: Fit, *, width: int, height: int, row_width: int, row_height: int) -> Placement:
    """How a picture of ``width`` x ``height`` comes into a row of ``row_width`` x ``row_height``, all in pixels."""
    whole = (0.0, 0.0, float(width), float(height))
    if fit == Fit.CROP:
        return Placement(width, height, _covering_box(width, height, row_width, row_height), row_width, row_height)
    if fit == Fit.PAD:
        shown_width, shown_height = _contained_size(width, height, row_width, row_height)
        left = round((row_width - shown_width) * 0.5)
        top = round((row_height - shown_height) * 0.5)
        return Placement(width, height, whole, shown_width, shown_height, left, top)
    if fit == Fit.NATIVE:
        return Placement(width, height, whole, width, height)
    return Placement(width, height, whole, row_width, row_height)


def _covering_box(width: int, height: int, row_width: int, row_height: int) -> Box:
    """The largest centred part of the picture that has the row's proportions."""
    row_ratio = row_width / row_height
    crop_width: float = width
    crop_height: float = height
    if width / height > row_ratio:
        crop_width = row_ratio * height
    elif width / height < row_ratio:
        crop_height = width / row_ratio
    left = (width - crop_width) * 0.5
    top = (height - crop_height) * 0.5
    return (left, top, left + crop_width, top + crop_height)


def _contained_size(width: int, height: int, row_width: int, row_height: int) -> tuple[int, int]:
    """The largest size of the picture's proportions within the row, at least one pixel either way."""
    if width / height > row_width / row_height:
        return row_width, max(1, round(height / width * row_width))
    if width / height < row_width / row_height:
        return max(1, round(width / height * row_height)), row_height
    return row_width, row_height

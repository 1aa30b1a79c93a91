"""One picture with some pairs: the image, its label in colours, what the net says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from ringfeedd.demo.photographs import CLASSES

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from ringfeedd.demo.report import Specimens

GAP_PX = 6
HEADING_PX = 20
BACKGROUND = (24, 24, 28)
TEXT = (230, 230, 230)
ROWS = ("image", "label", "net")


def contact_sheet(specimens: Specimens) -> Image.Image:
    """A column for each pair, and a line that names the classes' colours."""
    count, height, width = specimens.labels.shape
    sheet_size = (GAP_PX + count * (width + GAP_PX), HEADING_PX + len(ROWS) * (height + GAP_PX) + HEADING_PX)
    sheet = Image.new("RGB", sheet_size, BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP_PX, 4), f"from the ring: {', '.join(ROWS)} (from top to bottom)", fill=TEXT)
    for column in range(count):
        shown = (
            specimens.images[column],
            colourised(specimens.labels[column]),
            colourised(specimens.predictions[column]),
        )
        for row, pixels in enumerate(shown):
            place = (GAP_PX + column * (width + GAP_PX), HEADING_PX + row * (height + GAP_PX))
            sheet.paste(Image.fromarray(pixels), place)
    left = GAP_PX
    for entry in CLASSES:
        top = sheet.height - HEADING_PX + 2
        draw.rectangle((left, top, left + 12, top + 12), fill=entry.colour)
        draw.text((left + 17, top), entry.name, fill=TEXT)
        left += 17 + int(draw.textlength(entry.name)) + 14
    return sheet


def write_picture(specimens: Specimens, path: Path) -> None:
    """Writes the contact sheet as a PNG; its folder is made when it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(specimens).save(path, "PNG")


def colourised(label: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The classes' colours for (H, W) indices: (H, W, 3) uint8; an index without a class is magenta, to be seen."""
    palette = np.full((256, 3), (255, 0, 255), dtype=np.uint8)
    palette[: len(CLASSES)] = [entry.colour for entry in CLASSES]
    return palette[label]

"""(image, label) pairs made from real photographs, the same ones for the same seed.

The photographs ship inside the wheels of scikit-image and scikit-learn; nothing is downloaded. A pair is a random crop
of one of them at another scale, brightness and contrast, as a JPEG, and a class map computed from its colours, as a
palette PNG: something that a small net can learn, and that an eye can check.
"""

from __future__ import annotations

import importlib.util
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from ringfeedd.errors import StartError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

PHOTOGRAPHS = {
    "skimage": ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg"),
    "sklearn": ("china.jpg", "flower.jpg"),
}
"""The colour photographs, by the package whose wheel holds them."""

FOLDERS = {"skimage": "data", "sklearn": "datasets/images"}
SIZES = ((500, 375), (480, 360), (375, 500), (512, 384), (500, 333))
"""Width and height of the images, in pixels; about what the usual segmentation sets hold."""


@dataclass(frozen=True, slots=True)
class Style:
    """What the pairs look like; the demo's by default.

    Attributes:
        sizes: width and height of the images, in pixels, each as likely.
        jpeg_quality: as libjpeg counts it, 1 to 95.
        smoothing_px: blur before the colours are read, in pixels of the class map: a class is a region, not a pixel.
        map_scale: the class map is drawn smaller by this, and enlarged: its filters are the slowest steps of all.
    """

    sizes: tuple[tuple[int, int], ...] = SIZES
    jpeg_quality: int = 88
    smoothing_px: float = 1.5
    map_scale: int = 2


DEMO_STYLE = Style()


@dataclass(frozen=True, slots=True)
class PixelClass:
    """A class of pixels: its name, and the colour that shows it in a palette."""

    name: str
    colour: tuple[int, int, int]


CLASSES = (
    PixelClass("dark", (40, 40, 60)),
    PixelClass("grey", (140, 140, 140)),
    PixelClass("bright", (250, 240, 200)),
    PixelClass("red", (200, 60, 50)),
    PixelClass("yellow", (240, 180, 70)),
    PixelClass("green", (70, 170, 80)),
    PixelClass("blue", (60, 110, 220)),
)
"""What a label's pixel may say; its value is the index here, and so is the PNG's palette."""


@dataclass(frozen=True, slots=True)
class Pair:
    """One pair, as the bucket holds it: ``images/ID.jpg`` and ``labels/ID.png``."""

    id: str
    image: bytes
    label: bytes

    def objects(self) -> tuple[tuple[str, bytes, str], tuple[str, bytes, str]]:
        """The two objects: key below the prefix, bytes, content type."""
        return (
            (f"images/{self.id}.jpg", self.image, "image/jpeg"),
            (f"labels/{self.id}.png", self.label, "image/png"),
        )


class Photographs:
    """The photographs, decoded once."""

    def __init__(self, style: Style = DEMO_STYLE) -> None:
        """Reads them.

        Args:
            style: of the pairs that are made.

        Raises:
            StartError: a package or one of its photographs is missing.
        """
        self._style = style
        self._photographs = [(path.stem, Image.open(path).convert("RGB")) for path in _paths()]

    def pair(self, index: int, seed: int = 0) -> Pair:
        """Makes pair number `index`; a pure function of both numbers, whatever other pairs were made.

        May be called from several threads at once.
        """
        rng = np.random.default_rng([seed, index])
        name, photograph = self._photographs[int(rng.integers(len(self._photographs)))]
        style = self._style
        picture = _variation(photograph, style.sizes[int(rng.integers(len(style.sizes)))], rng)
        return Pair(f"{name}-{index:05d}", _jpeg(picture, style.jpeg_quality), _palette_png(class_map(picture, style)))

    def pairs(self, count: int, seed: int = 0) -> Iterator[Pair]:
        """The first `count` pairs of a seed."""
        return (self.pair(index, seed) for index in range(count))


def class_map(picture: Image.Image, style: Style = DEMO_STYLE) -> npt.NDArray[np.uint8]:
    """The class of every pixel, by its colour.

    Args:
        picture: an RGB image of H by W pixels.
        style: its smoothing and its scale.

    Returns:
        Indices into `CLASSES`, (H, W) uint8.
    """
    small = picture.reduce(style.map_scale).filter(ImageFilter.GaussianBlur(style.smoothing_px))
    hue, saturation, value = np.moveaxis(np.asarray(small.convert("HSV")), -1, 0)
    classes = np.select(
        [
            value < 64,
            (saturation < 56) & (value > 176),
            saturation < 56,
            (hue < 15) | (hue >= 214),
            hue < 40,
            hue < 114,
        ],
        [0, 2, 1, 3, 4, 5],
        default=6,
    ).astype(np.uint8)
    regions = Image.fromarray(classes).filter(ImageFilter.ModeFilter(3))  # specks join the region around them
    return np.asarray(regions.resize(picture.size, Image.Resampling.NEAREST))


def _paths() -> list[Path]:
    """Where the photographs lie; their packages are located, not imported, which would take seconds."""
    paths = []
    for package, names in PHOTOGRAPHS.items():
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            raise StartError(f"the demo's photographs come with {package}; install it: pip install 'ringfeed[demo]'")
        folder = Path(spec.origin).parent / FOLDERS[package]
        for name in names:
            if not (folder / name).is_file():
                raise StartError(f"{folder} has no {name}; this version of {package} is none that the demo knows")
            paths.append(folder / name)
    return paths


def _variation(photograph: Image.Image, size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """A random crop of the photograph, brought to width and height, flipped or not, a little brighter or darker."""
    width, height = size
    largest = min(photograph.width / width, photograph.height / height)
    scale = largest * rng.uniform(0.5, 1.0)
    left = rng.uniform(0, photograph.width - scale * width)
    top = rng.uniform(0, photograph.height - scale * height)
    box = (left, top, left + scale * width, top + scale * height)
    picture = photograph.resize((width, height), Image.Resampling.BICUBIC, box=box)
    if rng.random() < 0.5:
        picture = ImageOps.mirror(picture)
    picture = ImageEnhance.Brightness(picture).enhance(rng.uniform(0.75, 1.25))
    return ImageEnhance.Contrast(picture).enhance(rng.uniform(0.85, 1.15))


def _jpeg(picture: Image.Image, quality: int) -> bytes:
    encoded = io.BytesIO()
    picture.save(encoded, "JPEG", quality=quality)
    return encoded.getvalue()


def _palette_png(classes: npt.NDArray[np.uint8]) -> bytes:
    label = Image.fromarray(classes, "P")
    colours = [entry.colour for entry in CLASSES]
    # A palette of 256 makes Pillow write one byte a pixel, as the usual label sets have it; a short one gets 4 bits.
    colours += [(0, 0, 0)] * (256 - len(colours))
    label.putpalette([channel for colour in colours for channel in colour])
    encoded = io.BytesIO()
    label.save(encoded, "PNG")
    return encoded.getvalue()

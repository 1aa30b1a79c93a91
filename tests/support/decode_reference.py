"""The steps of docs/decoding.md done with Pillow's own functions only, and real photographs to do them to."""

from __future__ import annotations

import io
import struct
import zlib
from functools import cache
from pathlib import Path

import numpy as np
import skimage
import sklearn.datasets
from PIL import Image, ImageOps

BILINEAR = Image.Resampling.BILINEAR
NEAREST = Image.Resampling.NEAREST

_SKIMAGE = Path(skimage.__file__).parent / "data"
_SKLEARN = Path(sklearn.datasets.__file__).parent / "images"
PHOTOGRAPHS = {
    "china": _SKLEARN / "china.jpg",
    "flower": _SKLEARN / "flower.jpg",
    "astronaut": _SKIMAGE / "astronaut.png",
    "coffee": _SKIMAGE / "coffee.png",
    "rocket": _SKIMAGE / "rocket.jpg",
    "retina": _SKIMAGE / "retina.jpg",
}


@cache
def photograph(name: str) -> Image.Image:
    """At half its size, some 320x213: enough to tell pixels apart by, and quick."""
    with Image.open(PHOTOGRAPHS[name]) as picture:
        return picture.convert("RGB").reduce(2)


@cache
def image_bytes(name: str, kind: str = "JPEG", **options: object) -> bytes:
    return encode(photograph(name), kind, **options)


@cache
def label_bytes(name: str, mode: str) -> bytes:
    """A label with the photograph's own shapes: 21 classes in a palette, or 16-bit depths."""
    picture = photograph(name)
    if mode == "gray16":
        return encode(Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 85 + 11), "PNG")
    return encode(classes(picture), "PNG")


def encode(picture: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(width: int, height: int, bits: int, colour: int, rows: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of any kind, also of those that Pillow does not write."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(name, body) for name, body in parts)


def classes(picture: Image.Image, count: int = 21) -> Image.Image:
    """A palette label with the picture's own shapes in it."""
    return picture.quantize(count, dither=Image.Dither.NONE)


def reference_image(data: bytes, fit: str, height: int, width: int, *, exif: bool = False) -> np.ndarray:
    """Only for images that no draft shrinks; see reference_drafted."""
    picture = Image.open(io.BytesIO(data), formats=("JPEG", "PNG"))
    if exif:
        picture = ImageOps.exif_transpose(picture)
    return np.asarray(_fitted(picture.convert("RGB"), fit, height, width, BILINEAR))


def reference_drafted(data: bytes, fit: str, height: int, width: int) -> np.ndarray:
    """The same for a JPEG whose shown part is at least twice the row's size."""
    picture = Image.open(io.BytesIO(data), formats=("JPEG",))
    full_width, full_height = picture.size
    if fit == "resize":
        _, box = picture.draft("RGB", (width, height))
        return np.asarray(picture.resize((width, height), BILINEAR, box=box))
    if fit == "pad":
        inside = ImageOps.contain(Image.new("L", picture.size), (width, height)).size
        _, box = picture.draft("RGB", inside)
        row = Image.new("RGB", (width, height))
        row.paste(
            picture.resize(inside, BILINEAR, box=box), (round((width - inside[0]) / 2), round((height - inside[1]) / 2))
        )
        return np.asarray(row)
    zoom = max(width / full_width, height / full_height)
    scale = max(scale for scale in (1, 2, 4, 8) if scale * zoom <= 1 + 1e-12)
    picture.draft("RGB", (full_width // scale, full_height // scale))
    shown = (full_width / scale, full_height / scale)
    across, down = min(width / zoom / scale, shown[0]), min(height / zoom / scale, shown[1])
    left, top = (shown[0] - across) / 2, (shown[1] - down) / 2
    return np.asarray(picture.resize((width, height), BILINEAR, box=(left, top, left + across, top + down)))


def reference_label(data: bytes, fit: str, mode: str, height: int, width: int) -> np.ndarray:
    picture = Image.open(io.BytesIO(data), formats=("JPEG", "PNG"))
    if mode == "rgb":
        return np.asarray(_fitted(picture.convert("RGB"), fit, height, width, NEAREST))
    # A 16-bit label is scaled as it is: where a pixel's middle falls between two, Pillow picks another one for 16 bits.
    values = picture if picture.mode == "I;16" else Image.fromarray(np.asarray(picture).astype(np.uint8))
    return np.asarray(_fitted(values, fit, height, width, NEAREST))


def _fitted(picture: Image.Image, fit: str, height: int, width: int, method: Image.Resampling) -> Image.Image:
    if fit == "native":
        return picture
    if fit == "resize":
        return picture.resize((width, height), method)
    if fit == "crop":
        return ImageOps.fit(picture, (width, height), method)
    return ImageOps.pad(picture, (width, height), method, color=0)

"""The workload: pairs made from real photographs, in a folder with the names of a bucket and kept for the next run."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final

import google_crc32c
import msgspec
from tqdm import tqdm

from ringfeedd.bench.listing_pages import Listed, write_listing
from ringfeedd.demo.photographs import Photographs, Style

VERSION: Final = 1
"""The version of what a folder holds; part of its name, so that an older one is not taken for it."""

MANIFEST: Final = "manifest.json"

ORDINARY: Final = Style(sizes=((500, 375),), jpeg_quality=95, smoothing_px=2.0, map_scale=1)
"""What most tables are about: JPEGs of about 70 kB, palette PNGs of about 8 kB."""

LARGE: Final = Style(sizes=((2000, 1500),), jpeg_quality=88, smoothing_px=3.0, map_scale=2)
"""What a camera gives, to be scaled down."""

_PAIRS_AT_A_TIME: Final = 16


class Entry(msgspec.Struct, frozen=True):
    """One pair; sizes in bytes, checksums of the stored objects."""

    id: str
    image_bytes: int
    label_bytes: int
    image_crc32c: int
    label_crc32c: int


class Workload(msgspec.Struct, frozen=True):
    """A folder of pairs: ``images/ID.jpg``, ``labels/ID.png``, ``listing/`` (the bucket's listing, page by page).

    Attributes:
        folder: where it lies.
        height, width: of every image and label, in pixels.
        pairs: in the order of their making.
    """

    folder: str
    height: int
    width: int
    pairs: list[Entry]

    @property
    def mean_bytes(self) -> tuple[float, float]:
        """Mean size of an image and of a label, in bytes."""
        count = len(self.pairs)
        return sum(p.image_bytes for p in self.pairs) / count, sum(p.label_bytes for p in self.pairs) / count

    def __str__(self) -> str:
        image, label = self.mean_bytes
        return (
            f"{len(self.pairs)} pairs of {self.width}x{self.height}: JPEG of {image / 1000:.0f} kB, "
            f"palette PNG of {label / 1000:.1f} kB on the mean"
        )


def make_workload(data: Path, style: Style, *, pairs: int, seed: int = 0) -> Workload:
    """The pairs of one style; made where they are not there yet, which takes a minute.

    Args:
        data: the folder that keeps workloads.
        style: with one size only.

    Raises:
        StartError: the packages that hold the photographs are missing.
    """
    (width, height), *_ = style.sizes
    folder = data / f"v{VERSION}-{width}x{height}-q{style.jpeg_quality}-n{pairs}-seed{seed}"
    manifest = folder / MANIFEST
    if not manifest.is_file():
        Photographs(style)  # its sentence, before any process is started
        draft = folder.with_suffix(f".draft{os.getpid()}")
        shutil.rmtree(draft, ignore_errors=True)
        try:
            made = Workload(str(folder), height, width, _make_pairs(draft, style, pairs, seed))
            write_listing(draft / "listing", "images/", _listed(made.pairs, "images"))
            write_listing(draft / "listing", "labels/", _listed(made.pairs, "labels"))
            (draft / MANIFEST).write_bytes(msgspec.json.encode(made))
            shutil.rmtree(folder, ignore_errors=True)
            draft.rename(folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    found = msgspec.json.decode(manifest.read_bytes(), type=Workload)
    return msgspec.structs.replace(found, folder=str(folder))  # the folder may have been moved


def _make_pairs(folder: Path, style: Style, pairs: int, seed: int) -> list[Entry]:
    for side in ("images", "labels"):
        (folder / side).mkdir(parents=True)
    parts = [range(start, min(start + _PAIRS_AT_A_TIME, pairs)) for start in range(0, pairs, _PAIRS_AT_A_TIME)]
    entries: list[Entry] = []
    with ProcessPoolExecutor(os.cpu_count()) as pool, tqdm(total=pairs, desc="making pairs", unit=" pairs") as bar:
        for made in pool.map(partial(_make_part, folder, style, seed), parts):
            entries += made
            bar.update(len(made))
    return entries


def _make_part(folder: Path, style: Style, seed: int, numbers: range) -> list[Entry]:
    """Some pairs, in a process of their own."""
    photographs = Photographs(style)
    entries = []
    for number in numbers:
        pair = photographs.pair(number, seed)
        for key, content, _ in pair.objects():
            (folder / key).write_bytes(content)
        checksums = (google_crc32c.value(pair.image), google_crc32c.value(pair.label))
        entries.append(Entry(pair.id, len(pair.image), len(pair.label), *checksums))
    return entries


def _listed(pairs: Iterable[Entry], side: str) -> Iterator[Listed]:
    """The listing of one side, in the order of names as a bucket gives it."""
    for pair in sorted(pairs, key=lambda pair: pair.id.encode()):
        image = side == "images"
        size, crc32c = (pair.image_bytes, pair.image_crc32c) if image else (pair.label_bytes, pair.label_crc32c)
        yield Listed(f"{side}/{pair.id}.{'jpg' if image else 'png'}", size, crc32c)

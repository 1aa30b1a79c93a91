"""``size = "auto"``: look at some pairs before the ring is made, and choose a slot that fits them."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np

from ringfeedd.catalog.catalog import Catalog, ObjectColumns
from ringfeedd.decode.image import open_picture, quiet_codecs
from ringfeedd.decode.spec import Fit
from ringfeedd.errors import BadPairError, StartError
from ringfeedd.fetch.client import StoreClient, fetch_pair
from ringfeedd.fetch.policy import FetchPolicy
from ringfeedd.storage import Source, SourceError
from ringfeedd.supervisor.store_wait import SILENCE_S

SAMPLE_PAIRS: Final = 32
LARGEST_PAIRS: Final = 8
"""For images, for labels, and for each kind of file: the largest in bytes are mostly among the largest in pixels."""

MAX_LARGEST_BYTES: Final = 256 << 20
"""What the largest of a kind may have together; one of them is looked at in any case."""

NATIVE_MARGIN: Final = 1.5
"""Where sizes differ, a native slot holds this many times the largest picture's pixels."""

_LOOK_S: Final = 0.25

Size: TypeAlias = tuple[int, int]
"""Height and width in pixels."""


@dataclass(frozen=True, slots=True)
class Looked:
    """What a look at some images has found.

    Attributes:
        sample: sizes of images spread over the catalog.
        largest: sizes of those images whose pairs have the largest objects.
    """

    sample: list[Size]
    largest: list[Size]

    @property
    def sizes(self) -> list[Size]:
        """All of them."""
        return self.sample + self.largest


async def probe_sizes(source: Source, catalog: Catalog, *, max_pixels: int, exif_orientation: bool) -> Looked:
    """Look at the images of some pairs, spread over the catalog, and at those with the largest objects.

    Raises:
        StoreDownError: the store does not answer.
        StartError: all of them failed to load.
    """
    quiet_codecs()
    spread = np.unique(np.linspace(0, len(catalog) - 1, num=SAMPLE_PAIRS).astype(np.int64)).tolist()
    known = set(spread)
    largest = [index for index in largest_pairs(catalog) if index not in known]
    indices = spread + largest
    client = StoreClient(source, FetchPolicy())
    sizes: dict[int, Size] = {}
    reasons: list[str] = []

    async def look(index: int) -> None:
        pair = catalog.pair(index)
        try:
            fetched = await fetch_pair(client, pair)
            picture = open_picture("image", fetched.image, max_pixels=max_pixels, exif_orientation=exif_orientation)
            sizes[index] = picture.height, picture.width
        except BadPairError as error:
            reasons.append(f"{pair.id!r}: {error}")

    looks = asyncio.gather(*(look(index) for index in indices))
    silence = asyncio.create_task(_silence(client))
    try:
        await asyncio.wait((looks, silence), return_when=asyncio.FIRST_COMPLETED)
        if not looks.done():
            cause = silence.result()
            sentence = f"No pair of {source.root} can be looked at: the store does not answer ({cause})."
            raise SourceError(sentence, cause=cause, retryable=True).start_error()
        await looks
    finally:
        looks.cancel()
        silence.cancel()
        await asyncio.gather(looks, silence, return_exceptions=True)
        client.close()
    if not sizes:
        raise StartError(
            f"none of the {len(indices)} pairs that were looked at could be loaded; the first failed: {reasons[0]}"
        )
    return Looked(*([sizes[index] for index in some if index in sizes] for some in (spread, largest)))


def largest_pairs(catalog: Catalog) -> list[int]:
    """Return the indices of pairs with the largest images and labels in bytes, a few of each kind of file.

    Labels count too: an image that is nearly blank has few bytes whatever its size, and its label seldom.
    """
    found = [index for columns in (catalog.images, catalog.labels) for index in _largest(columns)]
    return list(dict.fromkeys(found))


def _largest(columns: ObjectColumns) -> Iterator[int]:
    kinds: dict[str, list[int]] = {}
    for number, suffix in enumerate(columns.suffixes):
        kinds.setdefault(suffix.lower().replace("jpeg", "jpg"), []).append(number)
    for numbers in kinds.values():
        rows = np.flatnonzero(np.isin(columns.suffix, numbers))
        few = min(LARGEST_PAIRS, len(rows))
        if few:
            top = rows[np.argpartition(columns.size[rows], len(rows) - few)[len(rows) - few :]]
            top = top[np.argsort(columns.size[top])[::-1]]
            within = int((np.cumsum(columns.size[top]) <= MAX_LARGEST_BYTES).sum())
            yield from top[: max(1, within)].tolist()


async def _silence(client: StoreClient) -> str:
    """Wait until the store has not answered for `SILENCE_S`; return the cause of the latest failure."""
    clock = asyncio.get_running_loop()
    heard = clock.time()
    while True:
        await asyncio.sleep(_LOOK_S)
        report = client.report()
        heard = max(heard, report.answered_at or heard)
        if report.down and clock.time() - heard > SILENCE_S:
            return report.cause


def choose_size(looked: Looked, fit: Fit, fits: Callable[[Size], bool] = lambda _size: True) -> Size:
    """Return height and width of a slot for pictures such as these.

    One size for all is taken as it is. Else ``native`` slots get room for the largest and half as much again, or for
    the largest that fits; the other fits scale to the median of the sample.

    Args:
        looked: what was found, at least one size.
        fits: whether there is memory for rings of such slots.
    """
    if fit is not Fit.NATIVE:
        heights, widths = zip(*(looked.sample or looked.largest), strict=True)
        return int(statistics.median(heights)), int(statistics.median(widths))
    by_pixels = sorted(set(looked.sizes), key=lambda size: (-size[0] * size[1], size))
    height, width = by_pixels[0]
    with_margin = [(int(height * NATIVE_MARGIN), width)] if len(by_pixels) > 1 else []
    choices = [*with_margin, *by_pixels]
    return next((size for size in choices if fits(size)), choices[0])

"""``size = "auto"``: look at some pairs before the ring is laid out, and choose a slot that fits them."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Sequence
from typing import Final

import numpy as np

from ringfeedd.catalog import Catalog
from ringfeedd.circuit import CircuitState
from ringfeedd.errors import BadPairError, StartError
from ringfeedd.fetch import FetchPolicy, fetch_pair
from ringfeedd.picture import open_picture, quiet_codecs
from ringfeedd.sources import Source, SourceError
from ringfeedd.spec import Fit
from ringfeedd.store_wait import SILENCE_S, listed_objects
from ringfeedd.traffic import Traffic

SAMPLE_PAIRS: Final = 32
NATIVE_MARGIN: Final = 1.5
"""Where sizes differ, a native slot holds this many times the largest sampled picture's pixels."""
_LOOK_S: Final = 0.25


async def probe_sizes(
    source: Source, catalog: Catalog, *, max_pixels: int, exif_orientation: bool
) -> list[tuple[int, int]]:
    """Heights and widths in pixels of the images of some pairs, spread over the catalog.

    Raises:
        StoreDownError: the store does not answer.
        StartError: not one of them can be had.
    """
    quiet_codecs()
    indices = np.unique(np.linspace(0, len(catalog) - 1, num=SAMPLE_PAIRS).astype(np.int64))
    traffic, policy = Traffic(source, known=listed_objects(catalog)), FetchPolicy()
    sizes: list[tuple[int, int]] = []
    reasons: list[str] = []

    async def look(index: int) -> None:
        pair = catalog.pair(index)
        try:
            fetched = await fetch_pair(traffic, pair, policy)
            picture = open_picture("image", fetched.image, max_pixels=max_pixels, exif_orientation=exif_orientation)
            sizes.append((picture.height, picture.width))
        except BadPairError as error:
            reasons.append(f"{pair.id!r}: {error}")

    looks = asyncio.gather(*(look(int(index)) for index in indices))
    silence = asyncio.create_task(_silence(traffic))
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
        await traffic.close()
    if not sizes:
        raise StartError(
            f"none of the {len(indices)} pairs that were looked at could be had; the first failed: {reasons[0]}"
        )
    return sizes


async def _silence(traffic: Traffic) -> str:
    """Wait until the store has answered nobody for `SILENCE_S`; the cause of the latest failure."""
    heard = traffic.clock.monotonic()
    while True:
        await asyncio.sleep(_LOOK_S)
        report = traffic.statistics()
        heard = max(heard, report.answered_at or heard)
        if report.circuit is CircuitState.OPEN and traffic.clock.monotonic() - heard > SILENCE_S:
            return report.cause


def choose_size(sizes: Sequence[tuple[int, int]], fit: Fit) -> tuple[int, int]:
    """Height and width of a slot for pictures such as these.

    One size for all is taken as it is. Else ``native`` slots get room for the largest and half as much again, and the
    other fits scale to the median.
    """
    heights, widths = zip(*sizes, strict=True)
    if fit is not Fit.NATIVE:
        return int(statistics.median(heights)), int(statistics.median(widths))
    height, width = max(sizes, key=lambda size: size[0] * size[1])
    if len(set(sizes)) == 1:
        return height, width
    return int(height * NATIVE_MARGIN), width

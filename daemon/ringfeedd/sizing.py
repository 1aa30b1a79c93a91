"""How large everything is: slots, read-ahead, workers' shares. Pure; config, catalog and machine give the numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ringfeed.layout import Geometry, plan_geometry
from ringfeedd.config import Config
from ringfeedd.shm import not_enough_memory, reserved_bytes
from ringfeedd.spec import DecodeSpec

MOST_AUTO_SLOTS: Final = 512
LEAST_AUTO_SLOTS: Final = 16
READAHEAD_BYTES: Final = 64 << 20
"""Compressed bytes that may wait in all workers together for room in one ring."""

WINDOW_BYTES: Final = 64 << 20
"""Compressed bytes that one worker may have on their way because the store is far away."""

SPARE_PAIRS: Final = 16
"""In each worker, so that it has something to do while more of them are on their way."""


def geometries(config: Config, spec: DecodeSpec, rings: list[str], *, free: int) -> list[Geometry]:
    """Lay out every ring of the daemon.

    Args:
        free: bytes that can be reserved in /dev/shm.

    Raises:
        StartError: they do not fit.
    """

    def lay_out(slots: int) -> list[Geometry]:
        geometry = plan_geometry(
            slots=slots,
            lanes=config.lanes,
            image_row=spec.image_row_shape,
            label_row=spec.label_row_shape,
            label_dtype=spec.label_dtype.name,
        )
        return [geometry] * len(rings)

    if config.slots is not None:
        laid_out = lay_out(config.slots)
    else:
        slots = MOST_AUTO_SLOTS
        while slots > LEAST_AUTO_SLOTS and total(lay_out(slots)) > free // 2:
            slots //= 2
        laid_out = lay_out(slots)
    if total(laid_out) > free:
        what = f"{'the rings' if len(rings) > 1 else 'the ring'} {', '.join(rings)} with {laid_out[0].slots} slots each"
        raise not_enough_memory(total(laid_out), free, what)
    return laid_out


def total(laid_out: list[Geometry]) -> int:
    """Bytes that all rings together take in /dev/shm."""
    return sum(map(reserved_bytes, laid_out))


@dataclass(frozen=True, slots=True)
class Shares:
    """How the daemon's work is spread.

    Attributes:
        readahead: pairs beyond a ring's slots that may be downloaded.
        concurrency: objects that one worker downloads at a time.
        most_concurrency: the same where it waits for the store.
        most_pairs: pairs that one worker may have at a time.
    """

    workers: int
    readahead: int
    concurrency: int
    most_concurrency: int
    most_pairs: int


def shares(*, workers: int, concurrency: int, most_concurrency: int, rings: int, mean_pair_bytes: float) -> Shares:
    """Spread ``concurrency`` downloads over the workers, with enough pairs in hand to keep them busy.

    Args:
        most_concurrency: downloads where the workers wait for the store; fewer of large objects, of which so many would
            fill the memory.
    """
    readahead = max(1, min(concurrency, int(READAHEAD_BYTES / max(1.0, mean_pair_bytes))))
    each = max(2, -(-concurrency // workers))
    most_each = max(each, min(-(-most_concurrency // workers), int(2 * WINDOW_BYTES / max(1.0, mean_pair_bytes))))
    # Pairs that wait for room in any ring must never take the place of pairs that could be decoded now.
    most = max(each, -(-most_each // 2)) + -(-rings * readahead // workers) + SPARE_PAIRS
    return Shares(workers, readahead, each, most_each, most)

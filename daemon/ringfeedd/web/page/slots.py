"""What lies in a ring's slots at one moment, in few enough cells to be drawn. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from ringfeed.cli.report import LaneStatus
from ringfeedd.ring.ring import Ring

MOST_CELLS: Final = 120
"""Cells that a ring is drawn with; a cell of a larger ring stands for several slots."""

STATES: Final = ("held", "published", "decoded", "downloading", "empty")
"""What a slot may be, in the order of the stream: in a batch of some reader; ready to be read; decoded, but an earlier
pair is still missing; with a worker; none of these."""

_Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class SlotView:
    """The slots of a ring, from the one of its floor on.

    Attributes:
        floor: number of the first pair that may still be read; it lies in slot ``floor % slots``.
        cells: for each cell, which state most of its slots have, as an index into `STATES`.
        counts: slots by state.
        ahead: pairs that are downloaded ahead, without a slot yet.
    """

    floor: int
    slots: int
    cells: tuple[int, ...]
    counts: dict[str, int]
    ahead: int


def look_at_slots(stream: Ring, lanes: Iterable[LaneStatus], most_cells: int = MOST_CELLS) -> SlotView:
    """Sort a ring's slots into cells.

    Args:
        lanes: those whose pairs are in use.
    """
    slots, floor = stream.slots, stream.floor
    published = min(max(stream.published - floor, 0), slots)
    number = min(slots, most_cells)
    edges: _Counts = -(
        -np.arange(number + 1, dtype=np.int64) * slots // number
    )  # a slot lies in cell slot * number // slots
    held = np.zeros(number, np.int64)
    for first, end in _union((lane.taken - lane.held_pairs - floor, lane.taken - floor) for lane in lanes):
        held += _within(edges, min(max(first, 0), published), min(max(end, 0), published))
    in_ring = _within(edges, 0, published) - held
    decoded, _ = _spread(stream.ready, floor, published, slots, number)
    downloading, ahead = _spread(stream.in_flight, floor, published, slots, number)
    counts = np.stack((held, in_ring, decoded, downloading))
    counts = np.vstack((counts, np.maximum(edges[1:] - edges[:-1] - counts.sum(axis=0), 0)))
    totals = dict(zip(STATES, counts.sum(axis=1).tolist(), strict=True))
    return SlotView(floor, slots, tuple(counts.argmax(axis=0).tolist()), totals, ahead)


def _within(edges: _Counts, first: int, end: int) -> _Counts:
    """How many slots of each cell lie from ``first`` to before ``end``."""
    clipped: _Counts = np.clip(edges, first, end)
    return clipped[1:] - clipped[:-1]


def _union(spans: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The spans without their overlaps."""
    reached = None
    for first, end in sorted(spans):
        begin = first if reached is None else max(first, reached)
        if end > begin:
            yield begin, end
        reached = end if reached is None else max(end, reached)


def _spread(seqs: Collection[int], floor: int, published: int, slots: int, cells: int) -> tuple[_Counts, int]:
    """How many of the pairs lie in each cell, and how many have no slot yet."""
    offsets = np.fromiter(seqs, np.int64, len(seqs)) - floor
    there = offsets[(offsets >= published) & (offsets < slots)]
    return np.bincount(there * cells // slots, minlength=cells), int((offsets >= slots).sum())

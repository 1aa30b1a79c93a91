"""Which pairs of a listing the disk tier keeps, where they lie, and what a worker is told of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from ringfeedd.cache.policy import Indices, Keys

ABSENT: Final = -1
"""The place of a pair that the tier does not keep."""

WANTED: Final = -2
"""The place of a pair that is to be stored as it passes."""


class DiskOrder(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What a worker is to do with the disk tier for one pair.

    Attributes:
        pair_id, version: its key.
        place: where it lies; negative where it does not.
        size: bytes to read there.
        store: store it, unless it is read from there.
    """

    pair_id: int
    version: int
    place: int
    size: int
    store: bool


@dataclass(frozen=True, slots=True)
class DiskUse:
    """How full the tier is.

    Attributes:
        room: bytes that it may take.
        used: bytes that its segments take.
        pairs: that it holds.
        chosen: pairs of the catalog that it is to hold.
        wrong: entries that were not whole when they were read, since the start.
    """

    room: int = 0
    used: int = 0
    pairs: int = 0
    chosen: int = 0
    wrong: int = 0


class DiskShare:
    """One listing's pairs in the tier; 20 bytes a pair.

    Attributes:
        places: (pairs,) int64, or `ABSENT`, or `WANTED`.
        sizes: (pairs,) uint32, bytes of the entries.
        chosen: pairs that the tier is to hold; ``held``: those of them that it holds.
    """

    def __init__(self, keys: Keys, chosen: Indices) -> None:
        self.ids, self.versions = keys.ids, keys.versions
        self.places = np.full(len(keys), ABSENT, np.int64)
        self.places[chosen] = WANTED
        self.sizes = np.zeros(len(keys), np.uint32)
        self.chosen = len(chosen)
        self.held = 0

    def set(self, pairs: npt.NDArray[np.bool_], places: Indices, sizes: Indices) -> None:
        """Take note of where pairs lie."""
        self.places[pairs], self.sizes[pairs] = places, sizes
        self.count()

    def forget(self, pairs: npt.NDArray[np.bool_], place: int = WANTED) -> None:
        """Take note that some of these pairs are not there any more."""
        self.places[pairs & (self.places >= 0)] = place
        self.count()

    def count(self) -> None:
        """Count the pairs that are there."""
        self.held = int(np.count_nonzero(self.places >= 0))

    @property
    def keys(self) -> Keys:
        """The keys of the pairs that are there."""
        return Keys(self.ids, self.versions, np.zeros(len(self.ids), np.uint64), self.places >= 0)

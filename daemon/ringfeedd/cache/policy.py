"""Which pairs a tier keeps, and which entries of one listing are still good for the next. Pure.

Each tier keeps a fixed share of the catalog, chosen by a hash of the id, and evicts nothing while its size stands. So
every epoch hits exactly that share, whatever its order is. An LRU of the same size would hit nothing: in a shuffled
pass, each pair is as likely as any other to be the next.

Pairs stand in one order, by `spread`. Memory keeps the first of them and disk the last, so that both together keep as
many as they can. Another size, or another listing, only moves the difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

Words: TypeAlias = npt.NDArray[np.uint64]
Indices: TypeAlias = npt.NDArray[np.int64]

_MASK: Final = 2**64 - 1
_STEP: Final = 0x9E37_79B9_7F4A_7C15
_FIRST: Final = 0xBF58_476D_1CE4_E5B9
_SECOND: Final = 0x94D0_49BB_1331_11EB
_SALT: Final = 0x7269_6E67_6361_6368
"""The train/test split is decided by the id's hash itself. With this, a tier's share is independent of it."""


class Columns(Protocol):
    """What a listing says of the objects of one side; see `ringfeedd.catalog.catalog.ObjectColumns`."""

    @property
    def size(self) -> npt.NDArray[np.uint64]:
        """(pairs,) bytes."""
        ...

    @property
    def generation(self) -> npt.NDArray[np.uint64]:
        """(pairs,), 0 where the store gives none."""
        ...

    @property
    def crc32c(self) -> npt.NDArray[np.uint32]:
        """(pairs,)."""
        ...

    @property
    def has_crc32c(self) -> npt.NDArray[np.bool_]:
        """(pairs,)."""
        ...


@dataclass(frozen=True, slots=True)
class Keys:
    """What names the content of each pair of a listing: 16 bytes a pair.

    Attributes:
        ids: (pairs,) hashes of the ids.
        versions: (pairs,) hashes of sizes, generations and checksums of both objects.
        sizes: (pairs,) bytes of both objects together, as they are stored in the bucket.
        lasting: (pairs,) bool: another content would have another version. Pairs without a generation and a checksum
            are not kept.
    """

    ids: Words
    versions: Words
    sizes: Words
    lasting: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, ids: Words, sides: Sequence[Columns]) -> Keys:
        """Compute the keys of a listing.

        Args:
            ids: (pairs,) hashes of the ids.
            sides: the columns of images and of labels.
        """
        versions = np.full(len(ids), _SALT, np.uint64)
        sizes = np.zeros(len(ids), np.uint64)
        lasting = np.ones(len(ids), np.bool_)
        for side in sides:
            checksums = np.where(side.has_crc32c, side.crc32c.astype(np.uint64) + np.uint64(1), np.uint64(0))
            for word in (side.size, side.generation, checksums):
                versions = _mix(versions ^ word.astype(np.uint64))
            sizes += side.size
            lasting &= (side.generation != 0) | side.has_crc32c
        return cls(ids, versions, sizes, lasting)

    def __len__(self) -> int:
        return len(self.ids)


def _mix(words: Words) -> Words:
    """Spread each word's bits over all 64: the finaliser of SplitMix64."""
    mixed = words + np.uint64(_STEP)  # wraps round, as arrays do without a warning
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(_FIRST)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(_SECOND)
    return mixed ^ (mixed >> np.uint64(31))


def _mix_one(word: int) -> int:
    mixed = word + _STEP & _MASK
    mixed = (mixed ^ mixed >> 30) * _FIRST & _MASK
    mixed = (mixed ^ mixed >> 27) * _SECOND & _MASK
    return mixed ^ mixed >> 31


def spread(ids: Words) -> Words:
    """Return each pair's place in the order in which tiers choose, as a number below 2**64."""
    return _mix(ids ^ np.uint64(_SALT))


def first_pairs(keys: Keys, count: int) -> Indices:
    """Return the rows of the ``count`` pairs that a tier of equal entries keeps; a smaller tier keeps the first."""
    return _order(keys)[:count]


def last_pairs(keys: Keys, room: int, *, overhead: int) -> Indices:
    """Return the rows of the pairs that a tier of ``room`` bytes keeps, ascending.

    Args:
        overhead: bytes of an entry besides its two objects.
    """
    order = _order(keys)[::-1]
    ends = np.cumsum(keys.sizes[order].astype(np.float64) + overhead)  # 2**64 bytes would wrap round
    return np.sort(order[: int(np.searchsorted(ends, room, side="right"))])


def _order(keys: Keys) -> Indices:
    """Return the rows that may be kept, by `spread`."""
    rows = np.flatnonzero(keys.lasting)
    return rows[np.argsort(spread(keys.ids[rows]), kind="stable")]


def matches(keys: Keys, ids: Words, versions: Words) -> Indices:
    """Return for each pair the number of its entry among those known; -1 where there is none, or of another version.

    Args:
        ids, versions: (entries,) of the entries; of several with the same id, the last one counts.
    """
    found = np.full(len(keys), -1, np.int64)
    if not len(ids) or not len(keys):
        return found
    by_id = np.argsort(ids, kind="stable")
    last = np.searchsorted(ids[by_id], keys.ids, side="right") - 1
    entries = by_id[np.maximum(last, 0)]
    same = (last >= 0) & (ids[entries] == keys.ids) & (versions[entries] == keys.versions) & keys.lasting
    found[same] = entries[same]
    return found


def seal(words: Sequence[int]) -> int:
    """Return the checksum of an entry's words, which is written after them."""
    check = _SALT
    for word in words:
        check = _mix_one(check ^ word)
    return check or 1


def sealed(entries: Words) -> npt.NDArray[np.bool_]:
    """Return which rows of ``(entries, words + 1)`` were written to their end: the last word is the others' `seal`."""
    check = np.full(len(entries), _SALT, np.uint64)
    for word in range(entries.shape[1] - 1):
        check = _mix(check ^ entries[:, word])
    check[check == 0] = 1
    whole: npt.NDArray[np.bool_] = check == entries[:, -1]
    return whole

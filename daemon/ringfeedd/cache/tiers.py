"""Both tiers, as one ring uses them: where a pair comes from, and what becomes of it where it comes from the store."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from ringfeedd.cache.disk import DiskTier
from ringfeedd.cache.disk_share import DiskOrder, DiskShare, DiskUse
from ringfeedd.cache.memory import NO_ROW, MemoryShare, MemoryTier, MemoryUse, Sizes
from ringfeedd.cache.policy import Columns, Keys, Words

if TYPE_CHECKING:
    from ringfeedd.cache.segments import Entry


LISTINGS: Final = 3
"""That may be read at a time: before a change, after it, and one that waits."""


class Listing(Protocol):
    """What the tiers need of a catalog; its identity is the object's own."""

    @property
    def hashes(self) -> Words:
        """(pairs,) of the ids."""
        ...

    @property
    def images(self) -> Columns:
        """The columns of the images."""
        ...

    @property
    def labels(self) -> Columns:
        """The columns of the labels."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class _Shares:
    listing: Listing
    memory: MemoryShare | None
    disk: DiskShare | None


class _NoListing:
    """A listing of no pairs."""

    hashes: Words = np.zeros(0, np.uint64)
    images: Columns
    labels: Columns


NOTHING_KEPT: Final = _Shares(_NoListing(), None, None)


class Tiers:
    """The tiers of one daemon; `RingTiers` is a ring's side of them."""

    def __init__(self, memory: MemoryTier | None = None, disk: DiskTier | None = None) -> None:
        self.memory, self.disk = memory, disk
        self._shares: list[_Shares] = []

    def __repr__(self) -> str:
        return f"Tiers({self.memory!r}, {self.disk!r})"

    def serve(self, listing: Listing) -> None:
        """Choose the pairs of a listing that are kept; the latest `LISTINGS` may be read from then on."""
        if any(shares.listing is listing for shares in self._shares):
            return
        also = self._shares[1 - LISTINGS :]
        keys = Keys.of(listing.hashes, (listing.images, listing.labels))
        memory = disk = None
        if self.memory is not None:
            memory = self.memory.serve(keys, also=[one.memory for one in also if one.memory is not None])
        if self.disk is not None:
            disk = self.disk.serve(keys, also=[one.disk for one in also if one.disk is not None])
        self._shares = [*also, _Shares(listing, memory, disk)]

    def of(self, listing: Listing) -> _Shares:
        """Return the shares of a listing that is served."""
        for shares in self._shares:
            if shares.listing is listing:
                return shares
        return NOTHING_KEPT

    def look(self, now: float) -> None:
        """Do what is to be done from time to time; ``now`` in seconds, monotonic."""
        if self.disk is not None:
            self.disk.look(now)

    def disk_failed(self, reason: str, now: float) -> None:
        """Take note that a worker could not store a pair."""
        if self.disk is not None:
            self.disk.failed(reason, now)

    def counts(self) -> dict[str, int]:
        """Return the daemon's counts of both tiers, by the names of `ringfeed.shm.counters.DaemonCounts`."""
        memory = MemoryUse() if self.memory is None else self.memory.use()
        disk = DiskUse() if self.disk is None else self.disk.use()
        return {
            "cache_rows": memory.rows,
            "cache_rows_filled": memory.filled,
            "cache_row_bytes": memory.row_bytes,
            "cache_disk_chosen": disk.chosen,
            "cache_disk_pairs": disk.pairs,
            "cache_disk_bytes": disk.used,
            "cache_wrong_entries": memory.wrong + disk.wrong,
        }

    def close(self) -> None:
        """Give everything back; to be called once no worker runs."""
        if self.memory is not None:
            self.memory.close()
        if self.disk is not None:
            self.disk.close()


@dataclass
class Hits:
    """What the tiers have saved one ring since the start.

    Attributes:
        memory, disk: pairs that came from there.
        bytes: that were not downloaded for them.
    """

    memory: int = 0
    disk: int = 0
    bytes: int = 0


class RingTiers:
    """One ring's side of the tiers.

    Attributes:
        hits: see `Hits`.
        released: pairs that waited for an earlier one and need not any more; to be dispatched, and cleared, by the
            caller.
    """

    def __init__(self, tiers: Tiers, ring: int) -> None:
        self._tiers, self._ring = tiers, ring
        self._asked: dict[int, tuple[_Shares, int]] = {}
        self._kept_soon: dict[tuple[int, int], int] = {}
        self._waiting: dict[int, list[int]] = {}
        self.hits = Hits()
        self.released: list[int] = []

    def __repr__(self) -> str:
        return f"RingTiers({self.hits}, {len(self._asked)} under way)"

    @property
    def tiers(self) -> Tiers:
        """Those of the daemon."""
        return self._tiers

    def serve(self, listing: Listing) -> None:
        """See `Tiers.serve`."""
        self._tiers.serve(listing)

    def copies(self, listing: Listing, seqs: Sequence[int], pairs: Sequence[int]) -> list[tuple[int, int] | None]:
        """Return, for each pair, its row of the memory tier, and the sum that the row must have.

        None where the pair is not there. The sum is 0 where it needs no comparison. The end of each job is told by
        `copied`, `not_copied` or `ended`.

        Args:
            seqs: the pairs' numbers in the ring.
        """
        shares = self._tiers.of(listing)
        if shares.memory is None or self._tiers.memory is None:
            return [None] * len(seqs)
        found = self._tiers.memory.copies(self._ring, shares.memory, seqs, pairs)
        for seq, pair, row in zip(seqs, pairs, found, strict=True):
            if row is not None:
                self._asked[seq] = (shares, pair)
        return found

    def order(self, seq: int, listing: Listing, pair: int) -> tuple[int, DiskOrder | None]:
        """Return the row of the memory tier that is to hold a pair, or -1, and what the disk tier has to do with it."""
        shares = self._tiers.of(listing)
        row, disk = NO_ROW, None
        if shares.memory is not None and self._tiers.memory is not None:
            row = self._tiers.memory.fill(self._ring, seq, shares.memory, pair)
        if shares.disk is not None and self._tiers.disk is not None:
            disk = self._tiers.disk.order(shares.disk, pair)
        if row != NO_ROW or disk is not None:
            self._asked[seq] = (shares, pair)
            if row != NO_ROW or (disk is not None and disk.place < 0):
                self._kept_soon[id(shares), pair] = seq
        return row, disk

    def waits(self, seq: int, listing: Listing, pair: int) -> bool:
        """Return whether a pair is on its way into a tier for an earlier place of the ring.

        Then it is not fetched again: it will be among `released`. Only earlier places are waited for, since they come
        to their end without this one.
        """
        earlier = self._kept_soon.get((id(self._tiers.of(listing)), pair))
        if earlier is None or earlier >= seq:
            return False
        self._waiting.setdefault(earlier, []).append(seq)
        return True

    def _end(self, seq: int) -> tuple[_Shares, int] | None:
        """Forget a pair that is under way, and wake those that wait for it."""
        asked = self._asked.pop(seq, None)
        if self._kept_soon and asked is not None and self._kept_soon.get(key := (id(asked[0]), asked[1])) == seq:
            del self._kept_soon[key]
        if self._waiting and seq in self._waiting:  # also where another place has overtaken this one
            self.released += self._waiting.pop(seq)
        return asked

    def copied(self, seqs: Iterable[int]) -> dict[int, Sizes]:
        """Take note that pairs were copied; return the sizes of those that were not given up meanwhile."""
        ended = {seq: asked for seq in seqs if (asked := self._end(seq)) is not None}
        if self._tiers.memory is None:
            return {}
        self.hits.memory += len(ended)
        for shares, some in groupby(ended.values(), key=itemgetter(0)):
            self.hits.bytes += _bytes_of(shares, [pair for _, pair in some])
        return dict(zip(ended, self._tiers.memory.copied(self._ring, ended), strict=True))

    def not_copied(self, seq: int) -> None:
        """Take note of a row that was not whole, or with which a worker died."""
        if self._end(seq) is not None and self._tiers.memory is not None:
            self._tiers.memory.not_copied(self._ring, seq)

    def decoded(
        self, seq: int, *, sizes: Sizes, from_disk: bool, wrong: bool, stored: Entry | None, total: int | None
    ) -> None:
        """Take note of a pair that lies in its slot.

        Args:
            sizes: image height and width, label height and width, in pixels.
            from_disk, wrong, stored, total: see `ringfeedd.worker.protocol.Decoded`.
        """
        if (asked := self._end(seq)) is None:
            return
        shares, pair = asked
        if self._tiers.disk is not None and shares.disk is not None:
            if wrong:
                self._tiers.disk.wrong(shares.disk, pair)
            if stored is not None:
                self._tiers.disk.stored(shares.disk, pair, stored)
        if from_disk:
            self.hits.disk += 1
            self.hits.bytes += _bytes_of(shares, [pair])
        if self._tiers.memory is not None:
            if total is None:
                self._tiers.memory.ended(self._ring, seq)
            else:
                self._tiers.memory.filled(self._ring, seq, sizes, total)

    def is_copying(self, seq: int) -> bool:
        """Return whether a pair is being copied out of the memory tier."""
        return self._tiers.memory is not None and self._tiers.memory.is_copying(self._ring, seq)

    def ended(self, seq: int) -> bool:
        """Take note that a pair came to nothing; return whether it was to be copied."""
        if self._end(seq) is None or self._tiers.memory is None:
            return False
        return self._tiers.memory.ended(self._ring, seq)


def _bytes_of(shares: _Shares, pairs: list[int]) -> int:
    images, labels = shares.listing.images.size, shares.listing.labels.size
    return sum(map(images.item, pairs)) + sum(map(labels.item, pairs))

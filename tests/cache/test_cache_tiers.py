"""A ring's side of the tiers: a pair on its way into one is fetched once, and no place waits for a later one."""

from __future__ import annotations

import random

import numpy as np
import pytest
from test_cache_disk import keys

from ringfeedd.cache.disk import DiskTier
from ringfeedd.cache.tiers import RingTiers, Tiers


class Listing:
    """Of some pairs, all of the same size."""

    def __init__(self, pairs: int) -> None:
        self.hashes = keys(range(pairs)).ids
        self.images = self.labels = self
        self.size = np.full(pairs, 500, np.uint64)
        self.generation = np.ones(pairs, np.uint64)
        self.crc32c = np.zeros(pairs, np.uint32)
        self.has_crc32c = np.zeros(pairs, np.bool_)


@pytest.fixture
def ring(tmp_path):
    disk = DiskTier(tmp_path, ["root"], size=1 << 20)
    disk.open()
    tiers = Tiers(None, disk)
    listing = Listing(20)
    tiers.serve(listing)
    ring = RingTiers(tiers, 0)
    ring.listing = listing
    yield ring
    tiers.close()


def test_a_later_place_waits_for_the_same_pair(ring):
    ring.order(5, ring.listing, 1)
    assert ring.waits(9, ring.listing, 1)
    assert not ring.waits(9, ring.listing, 2)
    ring.ended(5)
    assert ring.released == [9]
    assert not ring.waits(9, ring.listing, 1)


def test_an_earlier_place_waits_for_no_later_one(ring):
    ring.order(9, ring.listing, 1)
    assert not ring.waits(5, ring.listing, 1)


@pytest.mark.parametrize("seed", range(20))
def test_every_place_that_waits_is_released(ring, seed):
    """Whatever is handed out, lost, handed out again and ended, in any order."""
    drawn = random.Random(seed)
    under_way: set[int] = set()
    waiting: set[int] = set()
    free = list(range(200))
    for _ in range(600):
        if under_way and drawn.random() < 0.5:
            seq = drawn.choice(sorted(under_way))
            under_way.discard(seq)
            ring.ended(seq)
            waiting -= set(ring.released)
            free += ring.released
            ring.released.clear()
        elif free:
            seq = free.pop(drawn.randrange(min(len(free), 20)))
            pair = drawn.randrange(4)
            if ring.waits(seq, ring.listing, pair):
                waiting.add(seq)
            else:
                ring.order(seq, ring.listing, pair)
                under_way.add(seq)
    for seq in sorted(under_way):
        ring.ended(seq)
    assert waiting <= set(ring.released)

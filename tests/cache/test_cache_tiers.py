"""A ring's side of the tiers: a pair on its way into one is fetched once, and no place waits for a later one."""

from __future__ import annotations

import gc
import random
import tracemalloc

import numpy as np
import pytest
from test_cache_disk import keys

from ringfeedd.cache.disk import DiskTier
from ringfeedd.cache.memory import MemoryTier
from ringfeedd.cache.rows import RowGeometry
from ringfeedd.cache.segments import Entry
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


def test_both_tiers_take_few_bytes_a_pair(tmp_path):
    """All that they allocate, with every pair in both of them."""
    pairs = 5000
    listing = Listing(pairs)
    stored = Entry(0, 1000, 0)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        memory = MemoryTier("tiersbytes", RowGeometry(1, 1), pairs, ["of"])
        disk = DiskTier(tmp_path, ["root"], size=1 << 40)
        disk.open()
        memory.start()
        memory._reserving.join()
        tiers = Tiers(memory, disk)
        tiers.serve(listing)
        ring = RingTiers(tiers, 0)
        for pair in range(pairs):
            ring.order(pair, listing, pair)
            ring.decoded(pair, sizes=(1, 1, 1, 1), from_disk=False, wrong=False, stored=stored, total=1)
        tiers.look(0.0)  # as the daemon does four times a second: what is to be written to the index goes there
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    use = memory.use()
    tiers.close()
    assert (use.filled, disk.use().pairs) == (pairs, pairs)
    assert 20 * pairs <= grown <= 64 * pairs

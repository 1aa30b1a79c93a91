"""What workers are told to do for a ring's pairs, with and without tiers, and which pairs are queued again."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from ring_fixtures import FakePair, fake_revision

from ringfeed.shm.counters import RingCounts
from ringfeedd.cache.tiers import Hits
from ringfeedd.ring.revisions import Revisions
from ringfeedd.ring.ring import Ring
from ringfeedd.ring.timeline import Timeline
from ringfeedd.supervisor.dispatch import Dispatch
from ringfeedd.worker.protocol import Dropped


class FakeTiers:
    """Holds every fourth pair in memory; every pair whose index is odd waits for an earlier place."""

    def __init__(self) -> None:
        self.hits = Hits(memory=3, disk=2, bytes=100)
        self.released: list[int] = []
        self.copying = {0}
        self.gone: list[int] = []

    def serve(self, _catalog: object) -> None:
        pass

    def copies(self, _catalog: object, seqs: list[int], pairs: list[int]) -> list[tuple[int, int] | None]:
        return [(pair // 4, 99) if pair % 4 == 0 else None for _, pair in zip(seqs, pairs, strict=True)]

    def waits(self, _seq: int, _catalog: object, pair: int) -> bool:
        return pair % 2 == 1

    def order(self, _seq: int, _catalog: object, pair: int) -> tuple[int, None]:
        return pair, None

    def ended(self, seq: int) -> bool:
        self.released.append(seq + 1)
        return seq == 4

    def is_copying(self, seq: int) -> bool:
        return seq in self.copying

    def not_copied(self, seq: int) -> None:
        self.gone.append(seq)

    def copied(self, seqs: list[int]) -> dict[int, tuple[int, int, int, int]]:
        self.released += [seq + 1 for seq in seqs]
        return dict.fromkeys(seqs, (1, 2, 3, 4))


@pytest.fixture
def dispatch():
    ring = Ring("r", slots=16, readahead=0, timeline=Timeline(fake_revision(50)))
    return SimpleNamespace(it=Dispatch(ring, Revisions(ring)), ring=ring, tiers=FakeTiers())


def test_without_tiers_every_pair_is_fetched(dispatch):
    jobs, copies = dispatch.it.jobs(dispatch.ring.jobs(3))
    assert [(job.seq, job.pair, job.row, job.disk) for job in jobs] == [
        (seq, FakePair(1000 + seq), -1, None) for seq in range(3)
    ]
    assert copies == []
    assert not dispatch.it.lost(1, quarantine=True)


def test_tiers_say_where_each_pair_comes_from(dispatch):
    dispatch.it.use_tiers(dispatch.tiers)
    jobs, copies = dispatch.it.jobs(dispatch.ring.jobs(7))
    assert [(copy.seq, copy.row, copy.total) for copy in copies] == [(0, 250, 99), (4, 251, 99)]
    assert [(job.seq, job.pair, job.row) for job in jobs] == [(2, FakePair(1002), 1002), (6, FakePair(1006), 1006)]


@pytest.mark.parametrize("end", ["ended", "copied", "lost"])
def test_a_pair_that_waited_is_queued_again(dispatch, end):
    """However the pair that it waited for came to its end."""
    dispatch.it.use_tiers(dispatch.tiers)
    dispatch.it.jobs(dispatch.ring.jobs(8))
    if end == "ended":
        dispatch.it.ended(Dropped(0, 2, {}))
    elif end == "copied":
        dispatch.it.copied([2])
    else:
        dispatch.it.lost(2, quarantine=False)
    assert [job.seq for job in dispatch.ring.jobs(1)] == [3]
    assert dispatch.tiers.released == []


def test_a_row_that_killed_is_copied_once(dispatch):
    dispatch.it.use_tiers(dispatch.tiers)
    assert dispatch.it.lost(0, quarantine=True)
    assert dispatch.tiers.gone == [0]
    assert dispatch.it.lost(4, quarantine=True)
    assert dispatch.tiers.gone == [0]


def test_what_the_tiers_saved_is_counted(dispatch):
    counts = RingCounts()
    dispatch.it.count(counts)
    assert counts.memory_hits == 0
    dispatch.it.use_tiers(dispatch.tiers)
    dispatch.it.count(counts)
    assert (counts.memory_hits, counts.disk_hits, counts.cache_saved_bytes) == (3, 2, 100)

"""The worker's backlog alone: every pair comes out once, in order within its ring, and never at or above the limit."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ringfeedd.catalog.catalog import Pair
from ringfeedd.errors import BadPairError
from ringfeedd.fetch.policy import Fetched
from ringfeedd.storage import ObjectInfo
from ringfeedd.worker.backlog import Backlog, PendingPair
from ringfeedd.worker.protocol import CopyJob, PairJob

RINGS = 2


def job(seq: int) -> PairJob:
    return PairJob(seq, Pair(str(seq), ObjectInfo("i", 1), ObjectInfo("l", 1)))


def test_a_pair_waits_for_room_in_its_ring():
    backlog = Backlog(1)
    for seq in (0, 1, 2):
        backlog.add(0, CopyJob(seq, seq, 0), at_hand=True)
    assert not backlog.decodable
    backlog.raise_limit(0, 2)
    assert [backlog.next_decode().seq for _ in range(2)] == [0, 1]
    assert backlog.next_decode() is None
    assert len(backlog) == 3  # none is answered yet


def test_no_ring_waits_for_the_pairs_of_another():
    backlog = Backlog(2)
    for ring in (0, 1):
        backlog.raise_limit(ring, 100)
        for seq in range(3):
            backlog.add(ring, job(seq), at_hand=False)
    came = [backlog.next_download() for _ in range(6)]
    assert [pair.ring for pair in came] == [0, 1, 0, 1, 0, 1]
    assert backlog.next_download() is None


def test_a_cancelled_pair_is_passed_by():
    backlog = Backlog(1)
    backlog.add(0, job(0), at_hand=False)
    backlog.add(0, job(1), at_hand=False)
    backlog.add(0, CopyJob(2, 0, 0), at_hand=True)
    backlog.add(0, CopyJob(9, 0, 0), at_hand=True)
    assert [pair.seq for pair in backlog.cancel(0, 5)] == [0, 1, 2]
    assert backlog.cancel(0, 5) == []
    backlog.raise_limit(0, 100)
    assert backlog.next_download() is None
    assert backlog.next_decode().seq == 9
    assert backlog.get(0, 1) is None


def test_the_store_is_waited_for_with_room():
    backlog = Backlog(1)
    assert not backlog.waits_for_store
    backlog.add(0, job(5), at_hand=False)
    assert not backlog.waits_for_store
    backlog.raise_limit(0, 6)
    assert backlog.waits_for_store


def test_a_failure_after_the_download_keeps_its_retries():
    pair = PendingPair(0, job(3))
    assert pair.failed(BadPairError("gone", cause="missing", attempts=2, retries={"reset": 1})).retries == {"reset": 1}
    pair.fetched = Fetched(b"", b"", retries={"http_503": 4})
    assert pair.failed(BadPairError("no picture", cause="decode")).retries == pair.retries == {"http_503": 4}


class AnyOrder(RuleBasedStateMachine):
    """Orders, downloads and decodes in any order, compared with plain sets."""

    def __init__(self) -> None:
        super().__init__()
        self.backlog = Backlog(RINGS)
        self.next_seq, self.limits = [0] * RINGS, [0] * RINGS
        self.open: set[tuple[int, int]] = set()
        self.under_way: list[PendingPair] = []

    @rule(ring=st.integers(0, RINGS - 1), at_hand=st.booleans())
    def add(self, ring, at_hand):
        seq = self.next_seq[ring]
        self.next_seq[ring] += 1
        self.backlog.add(ring, CopyJob(seq, 0, 0) if at_hand else job(seq), at_hand=at_hand)
        self.open.add((ring, seq))

    @rule()
    def begin_a_download(self):
        pair = self.backlog.next_download()
        if pair is None:
            return
        assert (pair.ring, pair.seq) in self.open
        self.under_way.append(pair)

    @rule(data=st.data(), good=st.booleans())
    def end_a_download(self, data, good):
        mine = [pair for pair in self.under_way if not pair.dropped]
        if not mine:
            return
        pair = data.draw(st.sampled_from(mine))
        self.under_way.remove(pair)
        if good:
            self.backlog.at_hand(pair)
        else:
            self._answer(pair)

    @rule(again=st.booleans())
    def decode(self, again):
        pair = self.backlog.next_decode()
        if pair is None:
            assert not self.backlog.decodable
            return
        assert pair.seq < self.limits[pair.ring]
        if again:
            self.backlog.download_after_all(pair)
        else:
            self._answer(pair)

    def _answer(self, pair):
        self.backlog.remove(pair)
        self.open.remove((pair.ring, pair.seq))  # KeyError: answered twice

    @rule(ring=st.integers(0, RINGS - 1), by=st.integers(0, 4))
    def raise_limit(self, ring, by):
        self.limits[ring] += by
        self.backlog.raise_limit(ring, self.limits[ring])

    @rule(ring=st.integers(0, RINGS - 1), back=st.integers(0, 6))
    def cancel(self, ring, back):
        below = self.next_seq[ring] - back
        dropped = {(pair.ring, pair.seq) for pair in self.backlog.cancel(ring, below)}
        assert dropped == {one for one in self.open if one[0] == ring and one[1] < below}
        self.open -= dropped

    @invariant()
    def nothing_is_lost(self):
        assert len(self.backlog) == len(self.open)
        assert all(self.backlog.get(*one) is not None for one in self.open)

    def teardown(self):
        for ring in range(RINGS):
            self.backlog.raise_limit(ring, self.next_seq[ring])
        for pair in self.under_way:
            if not pair.dropped:
                self.backlog.at_hand(pair)
        while (pair := self.backlog.next_download()) is not None:
            self.backlog.at_hand(pair)
        while (pair := self.backlog.next_decode()) is not None:
            self._answer(pair)
        assert not self.open


AnyOrder.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None, derandomize=True)
TestAnyOrder = AnyOrder.TestCase

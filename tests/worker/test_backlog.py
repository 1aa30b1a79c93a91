"""The worker's backlog alone: every pair comes out once, in order within its ring, and never at or above the limit."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ringfeedd.catalog.catalog import Pair
from ringfeedd.errors import BadPairError
from ringfeedd.fetch.policy import Fetched
from ringfeedd.storage import ObjectInfo
from ringfeedd.worker.backlog import COPIED_AT_ONCE, Backlog, CopyRun, PendingPair
from ringfeedd.worker.protocol import CopyJob, PairJob

RINGS = 2


def job(seq: int) -> PairJob:
    return PairJob(seq, Pair(str(seq), ObjectInfo("i", 1), ObjectInfo("l", 1)))


def test_a_pair_waits_for_room_in_its_ring():
    backlog = Backlog(1)
    for seq in (0, 1, 2):
        backlog.add(0, job(seq), at_hand=True)
    assert not backlog.decodable
    backlog.raise_limit(0, 2)
    assert [backlog.next_decode().seq for _ in range(2)] == [0, 1]
    assert backlog.next_decode() is None
    assert [backlog.get(0, seq).seq for seq in range(3)] == [0, 1, 2]  # none is answered yet


def test_copies_wait_for_room_and_come_in_runs():
    """Each run is as long as it may be; what is decoded between two copies comes between them."""
    backlog = Backlog(1)
    backlog.raise_limit(0, 3)
    backlog.add_copies(0, [CopyJob(seq, seq, 0) for seq in range(COPIED_AT_ONCE + 4)])
    backlog.add(0, job(COPIED_AT_ONCE + 4), at_hand=True)
    backlog.add_copies(0, [CopyJob(COPIED_AT_ONCE + 5, 0, 0)])
    assert came(backlog) == [0, 1, 2]
    backlog.raise_limit(0, 100)
    run, rest = backlog.next_decode(), came(backlog)
    assert [copy.seq for copy in run.copies] == list(range(3, 3 + COPIED_AT_ONCE))
    assert rest == list(range(3 + COPIED_AT_ONCE, COPIED_AT_ONCE + 6))


def came(backlog: Backlog) -> list[int]:
    """The numbers of all pairs that can be decoded or copied, in order."""
    seqs = []
    while (one := backlog.next_decode()) is not None:
        seqs += [copy.seq for copy in one.copies] if isinstance(one, CopyRun) else [one.seq]
    return seqs


def test_no_ring_waits_for_the_pairs_of_another():
    backlog = Backlog(2)
    for ring in (0, 1):
        backlog.raise_limit(ring, 100)
        for seq in range(3):
            backlog.add(ring, job(seq), at_hand=False)
    begun = [backlog.next_download() for _ in range(6)]
    assert [pair.ring for pair in begun] == [0, 1, 0, 1, 0, 1]
    assert backlog.next_download() is None


def test_a_cancelled_pair_is_passed_by():
    backlog = Backlog(1)
    backlog.add(0, job(0), at_hand=False)
    backlog.add(0, job(1), at_hand=False)
    backlog.raise_limit(0, 4)
    backlog.add_copies(0, [CopyJob(seq, 0, 0) for seq in (2, 3, 4, 9)])
    dropped, copies = backlog.cancel(0, 5)
    assert [pair.seq for pair in dropped] == [0, 1]
    assert sorted(copies) == [2, 3, 4]
    assert backlog.cancel(0, 5) == ([], [])
    backlog.raise_limit(0, 100)
    assert backlog.next_download() is None
    assert came(backlog) == [9]
    assert backlog.get(0, 1) is None


class Begun:
    """A download with a request under way, or with none."""

    def __init__(self, *, idle: bool) -> None:
        self.idle = idle


def test_idle_pairs_needed_last_are_given_back():
    """What is at hand or under way stays, and whatever was given back may come again."""
    backlog = Backlog(1)
    for seq in (0, 1, 4, 5, 2, 3, 6, 7):  # some came back from another worker
        backlog.add(0, job(seq), at_hand=seq == 7)
    first, second = backlog.next_download(), backlog.next_download()
    first.download, second.download = Begun(idle=True), Begun(idle=False)
    assert (backlog.taken, backlog.missing) == (7, 7)
    assert [pair.seq for pair in backlog.give_back(4)] == [4, 5, 6]
    assert [pair.seq for pair in backlog.give_back(0)] == [0, 2, 3]
    assert (backlog.taken, backlog.missing) == (7, 1)  # the one that is under way
    assert backlog.next_download() is None
    backlog.add(0, job(2), at_hand=False)
    assert backlog.next_download().seq == 2


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
        self.copies: set[tuple[int, int]] = set()
        self.under_way: list[PendingPair] = []

    @rule(ring=st.integers(0, RINGS - 1), at_hand=st.booleans())
    def add(self, ring, at_hand):
        seq = self.next_seq[ring]
        self.next_seq[ring] += 1
        self.backlog.add(ring, job(seq), at_hand=at_hand)
        self.open.add((ring, seq))

    @rule(ring=st.integers(0, RINGS - 1), count=st.integers(1, COPIED_AT_ONCE + 1))
    def add_copies(self, ring, count):
        seqs = range(self.next_seq[ring], self.next_seq[ring] + count)
        self.next_seq[ring] += count
        self.backlog.add_copies(ring, [CopyJob(seq, 0, 0) for seq in seqs])
        self.copies |= {(ring, seq) for seq in seqs}

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
        if isinstance(pair, CopyRun):
            self._copied(pair)
            return
        assert pair.seq < self.limits[pair.ring]
        if again:
            self.backlog.download_after_all(pair)
        else:
            self._answer(pair)

    def _copied(self, run):
        seqs = [copy.seq for copy in run.copies]
        assert len(seqs) <= COPIED_AT_ONCE
        assert seqs == sorted(seqs)
        assert all(seq < self.limits[run.ring] for seq in seqs)
        for seq in seqs:
            self.copies.remove((run.ring, seq))  # KeyError: answered twice

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
        pairs, copies = self.backlog.cancel(ring, below)
        dropped = {(pair.ring, pair.seq) for pair in pairs}
        assert dropped == {one for one in self.open if one[0] == ring and one[1] < below}
        self.open -= dropped
        assert {(ring, seq) for seq in copies} == {one for one in self.copies if one[0] == ring and one[1] < below}
        self.copies -= {(ring, seq) for seq in copies}

    @invariant()
    def nothing_is_lost(self):
        assert all(self.backlog.get(*one) is not None for one in self.open)

    def teardown(self):
        for ring in range(RINGS):
            self.limits[ring] = self.next_seq[ring]
            self.backlog.raise_limit(ring, self.next_seq[ring])
        for pair in self.under_way:
            if not pair.dropped:
                self.backlog.at_hand(pair)
        while (pair := self.backlog.next_download()) is not None:
            self.backlog.at_hand(pair)
        while (pair := self.backlog.next_decode()) is not None:
            (self._copied if isinstance(pair, CopyRun) else self._answer)(pair)
        assert not self.open
        assert not self.copies


AnyOrder.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None, derandomize=True)
TestAnyOrder = AnyOrder.TestCase

"""The ring's decisions, in any order of events, against a model that keeps every pair's story."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from order_alone import OrderAlone

from ringfeedd.order import make_order
from ringfeedd.ring.ring import LEAST_AHEAD, MAX_DRAWS, Job, Ring
from ringfeedd.ring.timeline import Timeline

SEED = 7


def make_ring(*, slots: int = 8, readahead: int = 4, length: int = 20, mode: str = "shuffle") -> Ring:
    order = make_order(mode, length=length, seed=SEED)
    return Ring("train", slots=slots, readahead=readahead, timeline=Timeline(OrderAlone(order)))


class AnyOrderOfEvents(RuleBasedStateMachine):
    """The model: what each worker was given, what lies in each slot, and where the order stands since the last seek."""

    @initialize(
        slots=st.integers(2, 9),
        readahead=st.integers(0, 6),
        length=st.integers(1, 25),
        mode=st.sampled_from(["shuffle", "sequential", "random"]),
    )
    def begin(self, slots: int, readahead: int, length: int, mode: str) -> None:
        self.ring = make_ring(slots=slots, readahead=readahead, length=length, mode=mode)
        self.order = make_order(mode, length=length, seed=SEED)
        self.length = length
        self.base = (0, 0, 0)
        self.with_workers: dict[int, Job] = {}
        self.decoded: dict[int, Job] = {}
        self.attempts: dict[int, int] = {}
        self.bad: dict[tuple[int, int], bool] = {}
        self.numbers = (0, 0, 0)

    def wanted(self, seq: int) -> bool:
        return seq >= self.ring.published

    def expected_index(self, seq: int, attempt: int) -> int:
        return self.order.index(*self.place(seq), attempt)

    def place(self, seq: int) -> tuple[int, int]:
        base_seq, epoch, position = self.base
        epochs, position = divmod(position + seq - base_seq, self.length)
        return epoch + epochs, position

    def expected_draw(self, seq: int, failed: int) -> Job | None:
        """The first draw after the failed one that was not tried in this epoch, else one that may come another time."""
        epoch, _ = self.place(seq)
        draws = [(self.expected_index(seq, attempt), attempt) for attempt in range(failed + 1, MAX_DRAWS)]
        for hopeless in (lambda index: (epoch, index) in self.bad, lambda index: self.bad.get((epoch, index), False)):
            for index, attempt in draws:
                if not hopeless(index):
                    return Job(seq, index, attempt)
        return None

    @rule(most=st.integers(0, 12))
    def dispatch(self, most: int) -> None:
        head = self.ring.head
        jobs = self.ring.jobs(most)
        assert len(jobs) <= most
        fresh = [job for job in jobs if job.seq >= head]
        assert [job.seq for job in fresh] == list(range(head, head + len(fresh)))
        passed_over = [job.seq for job in self.ring.passed_over]
        self.ring.passed_over.clear()
        for job in fresh:
            index, another = self.expected_index(job.seq, 0), self.expected_draw(job.seq, 0)
            bad = self.bad.get((self.place(job.seq)[0], index), False) and another is not None
            assert bad == (job.seq in passed_over)
            self.attempts[job.seq] = another.attempt if bad else 0
        for job in jobs:
            assert self.wanted(job.seq), "a pair that nobody wants was handed out"
            assert job.seq not in self.with_workers, "two workers have one pair"
            assert job.seq < self.ring.limit + self.ring.readahead
            assert self.ring.read or job.seq < max(self.ring.limit, head)
            if self.bad.get((self.place(job.seq)[0], self.expected_index(job.seq, self.attempts[job.seq])), False):
                # it failed at another place meanwhile
                another = self.expected_draw(job.seq, self.attempts[job.seq])
                self.attempts[job.seq] = another.attempt if another else self.attempts[job.seq]
            assert job == Job(job.seq, self.expected_index(job.seq, job.attempt), self.attempts[job.seq])
            self.with_workers[job.seq] = job

    def pick(self, data, *, decodable: bool) -> Job | None:
        seqs = [seq for seq in self.with_workers if not decodable or seq < self.ring.limit]
        return self.with_workers.pop(data.draw(st.sampled_from(sorted(seqs)))) if seqs else None

    @rule(data=st.data())
    def a_worker_finishes(self, data) -> None:
        job = self.pick(data, decodable=True)
        if job is not None:
            wanted = self.wanted(job.seq)
            assert self.ring.finish(job.seq) == (job if wanted else None)
            if wanted:
                self.decoded[job.seq] = job

    @rule(data=st.data(), lasting=st.booleans())
    def a_pair_cannot_be_had(self, data, lasting: bool) -> None:
        job = self.pick(data, decodable=False)
        if job is None:
            return
        if not self.wanted(job.seq):
            assert self.ring.replace(job.seq, lasting=lasting) is None
            return
        epoch, _ = self.place(job.seq)
        self.bad[epoch, job.index] = self.bad.get((epoch, job.index), False) or lasting
        expected = self.expected_draw(job.seq, job.attempt)
        if expected is None:
            with pytest.raises(RuntimeError, match="pairs drawn for one place"):
                self.ring.replace(job.seq, lasting=lasting)
            self.with_workers[job.seq] = job  # a daemon would stop the ring
            return
        assert self.ring.replace(job.seq, lasting=lasting) == expected
        self.attempts[job.seq] = expected.attempt

    @rule(data=st.data())
    def a_worker_dies(self, data) -> None:
        job = self.pick(data, decodable=False)
        if job is not None:
            assert self.ring.lost(job.seq) == self.wanted(job.seq)

    @rule(data=st.data())
    def a_cancelled_pair_is_dropped(self, data) -> None:
        stale = sorted(seq for seq in self.with_workers if not self.wanted(seq))
        if stale:
            seq = data.draw(st.sampled_from(stale))
            del self.with_workers[seq]
            self.ring.forget(seq)

    @rule()
    def publish(self) -> None:
        before = self.ring.published
        count = self.ring.publish()
        assert self.ring.published == before + count
        for seq in range(before, self.ring.published):
            assert seq in self.decoded, "a pair was published before it was in its slot"
        assert self.ring.published not in self.decoded, "a pair that lies ready was not published"

    @rule(ahead=st.integers(0, 30))
    def release(self, ahead: int) -> None:
        floor = self.ring.floor + ahead
        jumped = floor > self.ring.published
        assert self.ring.release(floor) == (ahead > 0)
        assert self.ring.floor == floor
        if jumped:
            assert self.ring.published == floor

    @rule(data=st.data())
    def readers_come_further(self, data) -> None:
        self.ring.see_front(
            data.draw(st.integers(self.ring.floor, self.ring.published + 3)), read=data.draw(st.booleans())
        )

    @rule(behind=st.integers(0, 5))
    def release_never_goes_back(self, behind: int) -> None:
        assert not self.ring.release(self.ring.floor - behind)

    @rule(epoch=st.integers(0, 1 << 40), data=st.data())
    def seek(self, epoch: int, data) -> None:
        position = data.draw(st.integers(0, self.length - 1))
        self.ring.seek(epoch, position)
        self.base = (self.ring.published, epoch, position)
        self.bad.clear()
        assert self.ring.floor == self.ring.published == self.ring.head
        assert self.ring.seq(epoch, position) == self.ring.published
        assert self.ring.place(self.ring.published) == (self.ring.base)

    @rule()
    def everything_handed_out_comes_to_an_end(self) -> None:
        for _ in range(2 * (self.ring.slots + self.ring.readahead) + 2 + len(self.with_workers)):
            self.dispatch(100)
            for seq in [seq for seq in self.with_workers if seq < self.ring.limit or not self.wanted(seq)]:
                job = self.with_workers.pop(seq)
                if not self.wanted(seq) and seq >= self.ring.limit:
                    self.ring.forget(seq)
                elif self.ring.finish(seq):
                    self.decoded[seq] = job
            self.publish()
        assert self.ring.limit == self.ring.floor + self.ring.slots
        assert self.ring.published >= min(self.ring.limit, self.ring.horizon)
        assert self.ring.jobs(100) == []

    @invariant()
    def the_three_numbers_are_in_order_and_never_go_back(self) -> None:
        numbers = (self.ring.floor, self.ring.published, self.ring.head)
        assert list(numbers) == sorted(numbers)
        assert all(now >= before for now, before in zip(numbers, self.numbers, strict=True))
        self.numbers = numbers

    @invariant()
    def no_slot_may_be_written_that_is_read_or_that_a_stale_worker_may_still_write(self) -> None:
        ring = self.ring
        assert ring.limit - ring.slots <= ring.floor, "a pair may be decoded over one that is still read"
        for stale in (seq for seq in self.with_workers if not self.wanted(seq)):
            assert ring.limit <= stale + ring.slots, "two workers may write into one slot"

    @invariant()
    def what_is_fetched_ahead_is_an_epoch_or_a_few_pairs(self) -> None:
        ring, front = self.ring, max(self.ring.front, self.ring.floor)
        most = ring.limit + (ring.readahead if ring.read else 0)
        assert min(most, front + self.length) <= ring.horizon <= most
        assert ring.head <= max(self.numbers[2], front + max(self.length, LEAST_AHEAD))

    @invariant()
    def need_tells_what_jobs_would_give(self) -> None:
        need = self.ring.need(read=True)
        assert need.ready >= 0
        assert need.ready <= need.stock <= need.room or self.ring.limit < self.ring.published
        assert self.ring.head + need.now + need.ahead == max(self.ring.head, self.ring.horizon)

    @invariant()
    def what_workers_have_is_in_flight(self) -> None:
        assert len(self.ring.in_flight) >= sum(self.wanted(seq) for seq in self.with_workers)


TestAnyOrderOfEvents = AnyOrderOfEvents.TestCase
TestAnyOrderOfEvents.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_pairs_that_come_back_are_given_in_order():
    """Whatever the order in which workers give them back: readers wait for the first."""
    ring = make_ring(slots=8, readahead=4)
    given = ring.jobs(12)
    for seq in (7, 3, 11, 0, 5):
        assert ring.lost(seq)
    assert ring.jobs(3) == [given[0], given[3], given[5]]
    assert ring.lost(3)
    assert ring.jobs(9) == [given[3], given[7], given[11]]


def test_failures_do_not_change_the_streams_order():
    length = 20
    ring, order = make_ring(length=length), make_order("shuffle", length=length, seed=SEED)
    indices = []
    for turn in range(200):
        for job in reversed(ring.jobs(5)):
            if turn % 3 == 0 and ring.lost(job.seq):
                continue
            if job.seq < ring.limit:
                ring.finish(job.seq)
                indices.append((job.seq, job.index))
            else:
                ring.lost(job.seq)
        ring.publish()
        ring.release(ring.published)
    assert len(indices) > 100
    for seq, index in indices:
        assert index == order.index(seq // length, seq % length)


def test_a_place_without_good_draws_stops_the_ring():
    """Every draw for it fails."""
    ring = make_ring(length=1000)
    (job,) = ring.jobs(1)
    for attempt in range(1, MAX_DRAWS):
        assert ring.replace(job.seq).attempt == attempt
        assert [again.attempt for again in ring.jobs(1)] == [attempt]
    with pytest.raises(RuntimeError, match=f"{MAX_DRAWS} pairs drawn for one place"):
        ring.replace(job.seq)


def test_read_ahead_beyond_the_limit_is_bounded():
    ring = make_ring(slots=8, readahead=4, length=100)
    assert [job.seq for job in ring.jobs(1000)] == list(range(12))
    assert (ring.limit, ring.head) == (8, 12)
    assert ring.jobs(1000) == []


def test_a_jump_awaits_the_slots_of_late_workers():
    """A slot of a pair in flight is closed until its worker has answered."""
    ring = make_ring(slots=8, readahead=4, length=100)
    ring.jobs(12)
    ring.release(50)
    assert (ring.published, ring.limit) == (50, 8)
    for seq in range(12):
        assert ring.finish(seq) is None
    assert ring.limit == 58


def test_repr_reads_like_a_sentence():
    ring = make_ring(length=5)
    for job in ring.jobs(7):
        ring.finish(job.seq)
    ring.publish()
    ring.release(3)
    assert repr(ring) == "Ring('train', epoch 1, position 0, published 5, held 2/8, 0 in flight)"


@pytest.mark.parametrize("mode", ["shuffle", "random"])
def test_a_bad_pair_is_tried_once_an_epoch(mode):
    """As itself or as another's replacement; and the pairs that stand at each place are those of trying it again."""
    length, bad = 40, {3, 17, 21, 22, 30}
    ring, order = make_ring(slots=50, readahead=0, length=length, mode=mode), make_order(mode, length=length, seed=SEED)
    tried: list[tuple[int, int]] = []
    came: dict[int, Job] = {}
    passed_over = []
    while len(came) < 5 * length:
        for job in ring.jobs(1):
            if job.index in bad:
                tried.append((job.seq // length, job.index))
                ring.replace(job.seq)
            else:
                came[job.seq] = ring.finish(job.seq)
        ring.publish()
        ring.release(ring.published)
        passed_over += ring.passed_over
        ring.passed_over.clear()
    assert len(tried) == len(set(tried))
    assert mode != "shuffle" or {index for epoch, index in tried if epoch == 3} == bad
    assert passed_over, "a pair failed as a replacement before its own place came"
    for seq, job in came.items():
        draws = (order.index(*divmod(seq, length), attempt) for attempt in range(MAX_DRAWS))
        assert job.index == next(index for index in draws if index not in bad)


def test_a_transient_failure_keeps_its_own_place():
    length = 10
    ring = make_ring(slots=2 * length, length=length, mode="sequential")
    ring.jobs(1)
    replacement = ring.replace(0, lasting=False)
    ring.jobs(1)
    ring.replace(0, lasting=False)
    assert replacement.index in [job.index for job in ring.jobs(length) if job.attempt == 0]
    assert ring.passed_over == []


@pytest.mark.parametrize("length", [1, 5, 20, 600])
def test_small_sets_are_fetched_an_epoch_ahead(length):
    """Or a few pairs, once so many were read."""
    ring = make_ring(slots=512, readahead=1024, length=length)
    ready = [job.seq for job in ring.jobs(2000)]
    assert ready == list(range(length))
    for read in range(1, 1000):
        for seq in ready:
            if seq < ring.limit:
                ring.finish(seq)
        ready = [seq for seq in ready if seq >= ring.limit]
        ring.publish()
        assert ring.published >= read, "the reader waits for ever"
        ring.see_front(read)
        ring.release(read)
        ready += [job.seq for job in ring.jobs(2000)]
        assert ring.head == read + max(length, min(read, LEAST_AHEAD))


def test_without_a_reader_nothing_exceeds_the_slots():
    ring = make_ring(slots=8, readahead=16, length=100)
    ring.see_front(0, read=False)
    assert len(ring.jobs(1000)) == 8
    ring.see_front(0)
    assert len(ring.jobs(1000)) == 16

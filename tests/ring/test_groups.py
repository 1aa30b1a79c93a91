"""Groups: jobs come, read, die, come back and leave in any order, against a reference that only follows plans."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from ring_fixtures import fake_revision

from ringfeed.epochs import Epochs
from ringfeed.plan import Block, Place, Plan
from ringfeed.shm.lane import Accepted, Refused, Request
from ringfeed.shm.layout import MAX_SEQ, Leaving, Start
from ringfeedd.ring.admission import Seek, Wait
from ringfeedd.ring.groups import Groups
from ringfeedd.ring.revisions import Revisions
from ringfeedd.ring.ring import Ring
from ringfeedd.ring.timeline import Timeline

LINGER_S = 100.0
LINGER_BLOCKING_S = 10.0
SLOTS = 24
SHAPES = {"solo": (1, 3, True), "pair": (2, 2, False), "trio": (3, 4, True)}
"""World size, batch size, drop_last of the groups that take part."""


def make_ring(length: int = 31, slots: int = SLOTS) -> Ring:
    return Ring("train", slots=slots, readahead=0, timeline=Timeline(fake_revision(length)))


def make_request(
    group: str, rank: int, start: Start = Start.AUTO, at: tuple[int, int] = (0, 0), **changes: Any
) -> Request:
    world_size, batch_size, drop_last = SHAPES.get(group, (1, 2, True))
    request = Request(group, rank, world_size, batch_size, drop_last, start, at, anonymous=False, pid=1000 + rank)
    return replace(request, **changes)


def fill(ring: Ring) -> None:
    """Decode and publish all that the ring lets in."""
    for job in ring.jobs(1000):
        ring.finish(job.seq)
    ring.publish()


# The reference: a rank follows its own plan and nothing else.


@dataclass
class Rank:
    plan: Plan
    place: Place
    lane: int | None = None
    away_since: float = 0.0
    left: bool = False
    held: deque[int] = field(default_factory=deque)
    before: Place | None = None

    @property
    def next_seq(self) -> int:
        return self.plan.block(self.place).seq

    @property
    def released(self) -> int:
        return self.held[0] if self.held else self.next_seq

    def read(self, published: int, epochs: Epochs) -> Block | None:
        """Like a consumer: it looks for a changed catalog once the block that it knows is published."""
        if self.plan.block(self.place).end > published:
            return None
        self.plan = replace(self.plan, epochs=epochs)
        block = self.plan.block(self.place)
        if block.end > published:
            return None
        self.held.append(block.seq)
        self.before, self.place = self.place, block.next
        return block

    def go(self, now: float, leaving: Leaving) -> None:
        self.lane, self.away_since, self.left = None, now, leaving is Leaving.LEAVE
        if leaving is not Leaving.NO:
            self.held.clear()  # a killed one's are kept, for its job to go on from a state before them

    def surely_kept(self, now: float) -> bool:
        return self.lane is not None or (not self.left and now - self.away_since < LINGER_BLOCKING_S)

    def surely_given_up(self, now: float) -> bool:
        return self.lane is None and (self.left or now - self.away_since >= LINGER_S)


class Reference:
    def __init__(self, group: object, place: Place, request: Request, epochs: Epochs, now: float) -> None:
        self.group = group
        self.delivered: set[int] = set()
        plans = (replace(request, rank=rank).plan(epochs) for rank in range(request.world_size))
        self.ranks = [Rank(plan, place, away_since=now) for plan in plans]
        self.start = place

    def first_round(self, rank: Rank, ring: Ring) -> Place:
        """Round by round from the group's start, or the floor's epoch's, to the first that is not passed over."""
        floor = ring.place(ring.floor)
        here = self.start
        if floor.epoch > here.epoch:
            here = Place(floor.seq - floor.position, floor.epoch, 0)
        while rank.plan.block(here).seq < ring.floor:
            here = rank.plan.block(here).next
        return here


class ComingAndGoing(RuleBasedStateMachine):
    @initialize(length=st.integers(13, 40))
    def begin(self, length: int) -> None:
        self.ring = make_ring(length)
        self.revisions = Revisions(self.ring)
        self.announced = self.ring.epochs
        self.groups = Groups(linger_s=LINGER_S, linger_blocking_s=LINGER_BLOCKING_S, gather_s=0.0)
        self.references: dict[str, Reference] = {}
        self.now = 0.0
        self.lanes = iter(range(10_000))
        fill(self.ring)

    def live(self) -> list[tuple[str, Rank]]:
        return [(name, r) for name, ref in self.references.items() for r in ref.ranks if r.lane is not None]

    def step(self) -> None:
        """One turn, as the service does it."""
        for _, rank in self.live():
            self.groups.progress(rank.lane, self.ring, taken=rank.next_seq, released=rank.released)
        self.groups.expire(self.now, self.ring)
        self.forget_the_gone()
        self.change_catalog()
        floor = self.groups.floor()
        ranks = [rank for reference in self.references.values() for rank in reference.ranks]
        assert len(self.groups) == len(self.references)
        assert floor is None or floor in {r.released for r in ranks if not r.surely_given_up(self.now)}
        if floor is not None:
            self.ring.release(floor)
        elif not len(self.groups):
            self.ring.seek(0, 0)
        fill(self.ring)
        list(self.groups.offers(self.ring.published))

    def change_catalog(self) -> None:
        if (epoch := self.revisions.due(self.groups)) is not None:
            self.announced = Epochs(tuple((c.since_epoch, c.epoch_length) for c in self.revisions.after(epoch)))
            self.revisions.begin(epoch)
            self.groups.change(self.ring)
        if not len(self.groups) and len(self.announced.spans) > 1:
            self.announced = Epochs.all(self.revisions.newest.order.length)
            self.revisions.settle()

    @rule(length=st.integers(13, 40))
    def refresh(self, length: int) -> None:
        self.revisions.offer(fake_revision(length, fingerprint=f"{length}"), self.groups)

    def forget_the_gone(self) -> None:
        there = {group.name: group for group in self.groups}
        self.references = {n: ref for n, ref in self.references.items() if there.get(n) is ref.group}

    @rule(name=st.sampled_from(sorted(SHAPES)), data=st.data())
    def attach(self, name: str, data) -> None:
        rank = data.draw(st.integers(0, SHAPES[name][0] - 1))
        reference = self.references.get(name)
        alive = reference is not None and any(r.lane is not None for r in reference.ranks)
        starts = [Start.AUTO, Start.EPOCH, Start.NOW] + [Start.AT] * (not alive)
        start = data.draw(st.sampled_from(starts))
        at = (data.draw(st.integers(0, 4)), data.draw(st.integers(0, self.ring.epochs.length(0) - 1)))
        request = make_request(name, rank, start, at if start is Start.AT else (0, 0))
        lane = next(self.lanes)
        answer = self.groups.attach(lane, request, self.ring, self.now)
        if isinstance(answer, Wait):
            assert not self.live(), (
                "a group that nobody reads holds up nobody for ever, but others may be asked to wait"
            )
            self.now += LINGER_BLOCKING_S
            self.step()
            answer = self.groups.attach(lane, request, self.ring, self.now)
        if isinstance(answer, Seek):
            assert not len(self.groups), "only an idle ring may go elsewhere"
            if not self.revisions.changing:  # as the service does: what is over cannot be gone back to
                self.announced = self.ring.epochs
            self.ring.seek(answer.epoch, answer.position)
            answer = self.groups.attach(lane, request, self.ring, self.now)
        self.forget_the_gone()
        if isinstance(answer, Refused):
            taken = name in self.references and self.references[name].ranks[rank].lane is not None
            epochs = self.ring.epochs
            nowhere = start is Start.AT and at[1] >= epochs.length(at[0])  # since a shorter catalog has come in
            behind = start is Start.AT and not nowhere and self.ring.seq(*at) < self.ring.floor
            assert taken or behind or nowhere, answer.reason
            assert answer.reason.count("; ") == 1, "a refusal says what happened and what to do"
            return
        assert isinstance(answer, Accepted)
        self.accepted(request, lane, answer)

    def accepted(self, request: Request, lane: int, answer: Accepted) -> None:
        name = request.group
        if name not in self.references:
            group = next(group for group in self.groups if group.name == name)
            self.references[name] = Reference(group, answer.place, request, self.announced, self.now)
            assert answer.place.seq >= self.ring.floor
            if request.start is Start.AT:
                assert (answer.place.epoch, answer.place.position) == request.at
            if request.start is Start.EPOCH:
                assert answer.place.position == 0
        rank = self.references[name].ranks[request.rank]
        rank.plan = replace(rank.plan, epochs=self.announced)
        expected = rank.place
        if rank.plan.block(expected).seq < self.ring.floor:
            assert not rank.surely_kept(self.now), "a place that is kept was passed over"
            expected = self.references[name].first_round(rank, self.ring)
        # Not the same place: at an epoch's end, whose rest is dropped, the next block is the next epoch's first.
        assert rank.plan.block(answer.place) == rank.plan.block(expected), "a rank goes on at its next pair"
        rank.place, rank.lane, rank.left = answer.place, lane, False
        rank.held.clear()
        rank.plan = replace(rank.plan, epochs=self.announced)

    @rule(data=st.data(), batches=st.integers(1, 4))
    def read(self, data, batches: int) -> None:
        if not self.live():
            return
        name, rank = data.draw(st.sampled_from(self.live()))
        for _ in range(batches):
            block = rank.read(self.ring.published, self.announced)
            if block is None:
                return
            assert rank.held[-1] >= self.ring.floor, "a pair was read that may be overwritten"
            self.note_delivered(name, block)

    def note_delivered(self, name: str, block: Block) -> None:
        assert self.ring.place(block.seq) == Place(block.seq, block.epoch, block.position), "the two sides differ"
        assert block.position + block.pairs <= self.ring.epochs.length(block.epoch)
        pairs = set() if block.repeated else set(range(block.seq, block.end))
        assert not self.references[name].delivered & pairs, "a pair was given to a group twice"
        self.references[name].delivered |= pairs

    @rule(data=st.data())
    def take_back(self, data) -> None:
        """The batch that was read last was looked at, and is still held: the next one is the same."""
        looked = [(name, rank) for name, rank in self.live() if rank.held and rank.before is not None]
        if looked:
            name, rank = data.draw(st.sampled_from(looked))
            block = rank.plan.block(rank.before)
            if block.seq == rank.held[-1] and block.next == rank.place:
                self.groups.progress(rank.lane, self.ring, taken=rank.next_seq, released=rank.released)
                rank.held.pop()
                rank.place, rank.before = rank.before, None
                self.references[name].delivered -= set() if block.repeated else set(range(block.seq, block.end))

    @rule(data=st.data(), keep=st.integers(0, 2))
    def release(self, data, keep: int) -> None:
        if self.live():
            _, rank = data.draw(st.sampled_from(self.live()))
            while len(rank.held) > keep:
                rank.held.popleft()

    @rule(data=st.data())
    def break_the_epoch_off(self, data) -> None:
        if self.live():
            _, rank = data.draw(st.sampled_from(self.live()))
            if rank.place.position:  # it has read something of it
                rank.place = rank.plan.epoch_start(rank.place)

    @rule(data=st.data(), leaving=st.sampled_from(Leaving))
    def go(self, data, leaving: Leaving) -> None:
        if self.live():
            _, rank = data.draw(st.sampled_from(self.live()))
            self.groups.progress(rank.lane, self.ring, taken=rank.next_seq, released=rank.released)
            assert str(1000 + rank.plan.rank) in self.groups.gone(rank.lane, leaving, self.now)
            rank.go(self.now, leaving)

    @rule(seconds=st.sampled_from([0.0, 1.0, 9.0, 60.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.step()

    @rule()
    def nobody_waits_for_ever(self) -> None:
        """Once places have expired, every rank that is there and gives its batches back gets its next ones."""
        self.now += LINGER_S
        read = {rank.lane: 0 for _, rank in self.live()}
        for _ in range(60):
            self.step()
            for name, rank in self.live():
                rank.held.clear()
                while (block := rank.read(self.ring.published, self.announced)) is not None:
                    read[rank.lane] += 1
                    self.note_delivered(name, block)
                    rank.held.clear()
        assert all(count >= 3 for count in read.values())

    @invariant()
    def the_floor_never_passes_what_may_still_be_read(self) -> None:
        for reference in self.references.values():
            for rank in reference.ranks:
                if rank.surely_kept(self.now):
                    assert self.groups.floor() <= rank.released
                    assert self.ring.floor <= rank.released


TestComingAndGoing = ComingAndGoing.TestCase
TestComingAndGoing.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


# One property at a time.


def attached(groups: Groups, ring: Ring, group: str, rank: int, lane: int, **changes: Any) -> Accepted:
    answer = groups.attach(lane, make_request(group, rank, **changes), ring, 0.0)
    assert isinstance(answer, Accepted)
    return answer


@pytest.fixture
def ring() -> Ring:
    ring = make_ring()
    fill(ring)
    return ring


@pytest.fixture
def groups() -> Groups:
    return Groups(linger_s=LINGER_S, linger_blocking_s=LINGER_BLOCKING_S, gather_s=0.0)


def test_a_killed_jobs_batch_is_kept(groups, ring):
    """For one that goes on from the state before it."""
    plan = make_request("solo", 0).plan(ring.epochs)
    attached(groups, ring, "solo", 0, 0)
    attached(groups, ring, "other", 0, 1)
    in_hand = plan.block(Place(0, 0, 0)).next
    groups.progress(0, ring, taken=plan.block(in_hand).next.seq, released=in_hand.seq)
    groups.gone(0, Leaving.NO, 0.0)
    groups.progress(1, ring, taken=20, released=20)
    ring.release(groups.floor())
    answer = groups.attach(2, make_request("solo", 0, Start.AT, (0, in_hand.position)), ring, 1.0)
    assert answer == Accepted(in_hand)
    groups.gone(2, Leaving.KEEP_PLACE, 2.0)
    ring.release(groups.floor())
    assert ring.floor == in_hand.seq, "it took nothing, and still stands there"


def test_a_surviving_and_a_new_rank_begin_together(ring):
    groups = Groups(gather_s=1.0)
    anew, lived_on = (make_request("pair", rank, Start.AT, (0, 4 * rank)) for rank in (0, 1))
    lived_on = replace(lived_on, resuming=True)
    assert isinstance(groups.attach(0, anew, ring, 0.0), Wait)
    assert isinstance(groups.attach(1, lived_on, ring, 0.5), Wait)
    assert groups.attach(0, anew, ring, 1.0) == Accepted(Place(0, 0, 0))
    assert groups.attach(1, lived_on, ring, 1.0) == Accepted(Place(4, 0, 4))


def test_continuing_without_a_place_begins_at_the_beginning(groups, ring):
    request = make_request("solo", 0, Start.EPOCH, resuming=True)  # none of ours writes this
    assert groups.attach(0, request, ring, 0.0) == Accepted(Place(0, 0, 0))


def test_a_refused_or_unanswered_rank_keeps_no_place(ring):
    groups = Groups(gather_s=1.0)
    attached(groups, ring, "other", 0, 0)
    groups.progress(0, ring, taken=20, released=20)
    ring.release(groups.floor())

    def ask(rank: int, position: int, now: float) -> object:
        return groups.attach(1 + rank, make_request("pair", rank, Start.AT, (0, position)), ring, now)

    assert isinstance(ask(0, 4, 0.0), Wait)
    refused = ask(0, 4, 1.0)
    assert isinstance(refused, Refused)
    assert "position 4 lies behind" in refused.reason
    assert isinstance(ask(1, 8, 2.0), Wait), "its job has another state now"
    groups.withdraw(make_request("pair", 1, Start.AT, (0, 8)))
    assert isinstance(ask(1, 24, 3.0), Wait)
    assert ask(0, 24, 3.5) == Accepted(Place(24, 0, 24))


def test_a_shrinking_listing_waits_for_a_late_group(groups, ring):
    """The group would be empty with it; the listing waits until that group has gone."""
    revisions = Revisions(ring)
    revisions.offer(fake_revision(20, fingerprint="20"), groups)
    revisions.begin(revisions.due(groups))
    revisions.offer(fake_revision(5, fingerprint="5"), groups)  # waits: the first pairs may still be read
    assert revisions.due(groups) is None
    ring.seek(3, 0)
    attached(groups, ring, "trio", 0, 0, start=Start.AT, at=(3, 0))  # rounds of 12 pairs
    assert revisions.due(groups) is None
    assert not ring.changing
    groups.gone(0, Leaving.LEAVE, 0.0)
    groups.expire(LINGER_S, ring)
    assert revisions.due(groups) is not None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rank": 2}, "rank 2 is out of range for world_size=2"),
        ({"world_size": 0}, "rank 0 is out of range"),
        ({"world_size": 1 << 63}, "is out of range"),
        ({"batch_size": 7}, "needs a ring of at least 28 slots"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": 1 << 63}, "needs a ring of at least"),
        ({"group": ""}, "the group's name must have 1 to 128 bytes"),
        ({"at": (0, 31)}, "epoch 0, position 31 does not exist"),
        ({"at": (1 << 63, 0)}, "does not exist"),
        ({"at": (2**64 - 1, 2**64 - 1)}, "does not exist"),
    ],
)
def test_an_impossible_request_is_refused_with_a_sentence(groups, ring, changes, words):
    answer = groups.attach(0, replace(make_request("pair", 0, Start.AT), **changes), ring, 0.0)
    assert isinstance(answer, Refused)
    assert words in answer.reason
    assert len(groups) == 0


def test_a_round_always_dropped_is_refused(groups):
    answer = groups.attach(0, make_request("trio", 0), make_ring(length=11), 0.0)
    assert isinstance(answer, Refused)
    assert "drop_last=True would drop them all" in answer.reason


def test_two_ranks_of_one_number_learn_the_holder(groups, ring):
    attached(groups, ring, "pair", 1, lane=0)
    answer = groups.attach(1, make_request("pair", 1), ring, 0.0)
    assert isinstance(answer, Refused)
    assert "attached already, by process 1001 on lane 0" in answer.reason


def test_a_rank_of_another_shape_is_refused(groups, ring):
    """While its group lives."""
    attached(groups, ring, "pair", 0, lane=0)
    answer = groups.attach(1, replace(make_request("pair", 1), batch_size=3), ring, 0.0)
    assert isinstance(answer, Refused)
    assert "use the same in every rank" in answer.reason


def test_a_rank_out_of_step_waits(groups, ring):
    """For the end of its group, of which the other ranks may come to the same state."""
    attached(groups, ring, "pair", 0, lane=0)
    out_of_step = groups.attach(1, make_request("pair", 1, Start.AT, (0, 6)), ring, 0.0)
    assert isinstance(out_of_step, Wait)
    assert "all of them start from the same state" in out_of_step.reason
    in_step = groups.attach(1, make_request("pair", 1, Start.AT, (0, 8)), ring, 0.0)
    assert in_step == Accepted(Place(8, 0, 8))


def test_a_killed_ranks_place_continues_at_its_pair(groups, ring):
    """The next pair that it had not taken."""
    for rank in range(2):
        attached(groups, ring, "pair", rank, lane=rank)
    groups.progress(0, ring, taken=4, released=0)
    groups.progress(1, ring, taken=6, released=2)
    groups.gone(1, Leaving.NO, 0.0)
    assert groups.expire(LINGER_BLOCKING_S - 1, ring) == []
    assert attached(groups, ring, "pair", 1, lane=2).place == Place(4, 0, 4)
    assert groups.floor() == 0


def test_a_blocking_place_is_kept_for_seconds(groups, ring):
    """Another place is kept for minutes."""
    attached(groups, ring, "solo", 0, lane=0)
    attached(groups, ring, "pair", 0, lane=1)
    attached(groups, ring, "pair", 1, lane=2)
    groups.gone(0, Leaving.NO, 0.0)
    assert groups.expire(LINGER_BLOCKING_S, ring) == [], "nobody waits for its slots yet"
    for lane in (1, 2):
        groups.progress(lane, ring, taken=SLOTS + 2, released=SLOTS + 2)
    assert groups.floor() == 0
    (told,) = groups.expire(LINGER_BLOCKING_S, ring)
    assert "the place of rank 0 of group 'solo'" in told
    assert groups.floor() > 0


@pytest.mark.parametrize("sought", [False, True])
def test_a_rank_that_left_first_was_here(groups, ring, sought):
    """The group begins again with the next rank, which another run of the job may have sent; its words are true."""
    attached(groups, ring, "pair", 0, lane=0)
    groups.progress(0, ring, taken=31, released=31)
    groups.gone(0, Leaving.LEAVE, 0.0)
    if sought:
        assert isinstance(groups.attach(1, make_request("pair", 1, Start.AT, (7, 0)), ring, 0.0), Seek)
    assert attached(groups, ring, "pair", 1, lane=1).place == Place(0, 0, 0)
    ((_, absence),) = groups.absences(1.0)
    assert (absence.rank, absence.came) == (0, True)
    assert groups.floor() == 0, "its slots are kept, as it may be of a new run"


def test_a_paused_skipping_group_holds_no_other_up(groups, ring):
    """Where none blocks, those that skip wait for each other, as long as they read."""
    attached(groups, ring, "solo", 0, lane=0, skips=True)
    attached(groups, ring, "other", 0, lane=1, skips=True)
    groups.progress(1, ring, taken=SLOTS + 2, released=SLOTS + 2)
    assert groups.floor() == 0
    assert groups.expire(0.0, ring) == []
    assert groups.expire(LINGER_BLOCKING_S - 0.1, ring) == []
    (told,) = groups.expire(LINGER_BLOCKING_S, ring)
    assert "group 'solo' (pid 1000) has paused, and others go on without it" in told
    assert groups.floor() > 0
    ring.release(groups.floor())
    groups.progress(0, ring, taken=ring.floor, released=ring.floor)
    groups.progress(1, ring, taken=2 * SLOTS, released=2 * SLOTS)
    assert groups.floor() < 2 * SLOTS, "it is waited for again"


def test_a_refused_run_keeps_its_predecessors_place(groups, ring):
    attached(groups, ring, "solo", 0, lane=0)
    attached(groups, ring, "pair", 0, lane=1)
    groups.gone(0, Leaving.KEEP_PLACE, 0.0)
    ring.release(5)
    answer = groups.attach(2, make_request("solo", 0, Start.AT, (0, 3)), ring, 0.0)
    assert isinstance(answer, Refused)
    assert [group.name for group in groups if group.name == "solo"] == ["solo"]
    assert groups.floor() == 0


def test_an_anonymous_groups_place_is_kept_for_nobody(groups, ring):
    attached(groups, ring, "solo", 0, lane=0, anonymous=True)
    groups.gone(0, Leaving.NO, 0.0)
    assert groups.expire(0.0, ring) == []
    assert len(groups) == 0


@pytest.mark.parametrize("taken", [31 * 3, MAX_SEQ - 1, MAX_SEQ, 2**63, 2**64 - 1])
def test_a_wild_word_of_one_consumer_moves_nothing(groups, ring, taken):
    attached(groups, ring, "solo", 0, lane=0)
    groups.progress(0, ring, taken=taken, released=2**64 - 1)
    assert groups.floor() == 0
    assert list(groups.offers(ring.published))


def test_a_skipped_epoch_is_reported_once(groups, ring):
    attached(groups, ring, "solo", 0, lane=0)
    assert dict(groups.offers(ring.published)) == {0: SLOTS // 3}
    groups.progress(0, ring, taken=31, released=31)
    ring.release(groups.floor())
    fill(ring)
    assert dict(groups.offers(ring.published)) == {0: SLOTS // 3}


def test_groups_that_start_together_both_read_epoch_0(groups, ring):
    """The whole epoch, while none of it is released."""
    first = attached(groups, ring, "solo", 0, lane=0, start=Start.EPOCH)
    groups.progress(0, ring, taken=9, released=0)
    second = attached(groups, ring, "pair", 0, lane=1, start=Start.EPOCH)
    assert first.place == second.place == Place(0, 0, 0)


def test_a_late_group_may_await_the_next_epoch(groups, ring):
    """If it wants a whole one."""
    attached(groups, ring, "solo", 0, lane=0)
    groups.progress(0, ring, taken=9, released=9)
    ring.release(groups.floor())
    assert attached(groups, ring, "pair", 0, lane=1, start=Start.EPOCH).place == Place(31, 1, 0)


def test_repr_counts_what_is_there(groups, ring):
    attached(groups, ring, "pair", 0, lane=0)
    attached(groups, ring, "solo", 0, lane=1)
    groups.gone(1, Leaving.KEEP_PLACE, 0.0)
    assert repr(groups) == "Groups(2 groups, 1 lanes, 1 lingering)"

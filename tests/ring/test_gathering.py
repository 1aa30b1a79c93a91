"""Ranks that bring places of their own: heard together, begun at the earliest, let in only where they lose nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import count

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from order_alone import OrderAlone

from ringfeed.epochs import Epochs
from ringfeed.plan import Place, Plan
from ringfeed.shm.lane import Accepted, Refused, Request
from ringfeed.shm.layout import Leaving, Start
from ringfeedd.order import make_order
from ringfeedd.ring.admission import Seek, Wait
from ringfeedd.ring.group import PredecessorPlace
from ringfeedd.ring.groups import Groups
from ringfeedd.ring.rendezvous import GATHER_S, Rendezvous
from ringfeedd.ring.ring import Ring
from ringfeedd.ring.timeline import Timeline

LINGER_S = 100.0
LENGTH = 31


def make_ring(length: int = LENGTH, slots: int = 24) -> Ring:
    order = make_order("sequential", length=length, seed=0)
    return Ring("train", slots=slots, readahead=0, timeline=Timeline(OrderAlone(order)))


def fill(ring: Ring) -> None:
    for job in ring.jobs(1000):
        ring.finish(job.seq)
    ring.publish()


def asking(group: str, rank: int, at: tuple[int, int], *, world: int = 2, batch: int = 2, resuming: bool = False):
    return Request(group, rank, world, batch, False, Start.AT, at, anonymous=False, pid=1000 + rank, resuming=resuming)


# The gathering.


def test_a_group_begins_at_its_ranks_earliest_place():
    """Once all of them have asked."""
    gathering = Rendezvous()
    assert gathering.place(asking("g", 0, (1, 8)), now=0.0) is None
    assert gathering.place(asking("g", 1, (1, 4)), now=0.1) == (1, 4)


def test_absent_ranks_are_awaited_for_a_bounded_time():
    gathering = Rendezvous()
    assert gathering.place(asking("g", 0, (1, 8)), now=5.0) is None
    assert gathering.place(asking("g", 0, (1, 8)), now=5.0 + GATHER_S) == (1, 8)


def test_a_rank_that_asks_again_counts_once():
    """With its latest place."""
    gathering = Rendezvous()
    gathering.place(asking("g", 0, (0, 4)), now=0.0)
    assert gathering.place(asking("g", 0, (2, 0)), now=0.1) is None
    assert gathering.place(asking("g", 1, (2, 4)), now=0.2) == (2, 0)


def test_groups_after_a_restart_await_each_other():
    """Even when they are complete."""
    gathering = Rendezvous()
    assert gathering.place(asking("late", 0, (3, 0), world=1, resuming=True), now=0.0) is None
    assert gathering.place(asking("early", 0, (1, 0), world=1, resuming=True), now=0.9) is None
    assert gathering.place(asking("late", 0, (3, 0), world=1, resuming=True), now=GATHER_S) == (3, 0)
    assert gathering.earliest() == (1, 0)


def test_a_group_with_a_state_delays_no_other():
    """Groups that resume do."""
    gathering = Rendezvous()
    gathering.place(asking("g", 0, (1, 0)), now=0.0)
    assert not gathering.resuming
    gathering.place(asking("h", 0, (1, 0), resuming=True), now=0.0)
    assert gathering.resuming
    gathering.forget("h")
    assert not gathering.resuming


def test_a_group_that_never_returned_is_not_awaited():
    gathering = Rendezvous()
    gathering.place(asking("gone", 0, (0, 0), resuming=True), now=0.0)
    gathering.place(asking("g", 0, (5, 0)), now=1000.0)
    assert not gathering.resuming


def test_repr_counts_groups_and_ranks():
    gathering = Rendezvous()
    gathering.place(asking("g", 0, (0, 0), world=3), now=0.0)
    gathering.place(asking("g", 1, (0, 0), world=3), now=0.0)
    assert repr(gathering) == "Gathering(1 groups, 2 ranks)"


# Inheriting.


def former(group: str, rank: int, at: tuple[int, int], lives=lambda: True, **shape) -> PredecessorPlace:
    return PredecessorPlace(asking(group, rank, at, **shape), at, at, lives)


@pytest.fixture
def inherited():
    """Rank 0 of ``g`` a round ahead of rank 1, and ``h`` three rounds behind."""
    ring, groups = make_ring(), Groups(linger_s=LINGER_S, gather_s=0.0)
    ring.seek(1, 4)
    places = [former("g", 0, (1, 20)), former("g", 1, (1, 16)), former("h", 0, (1, 4), world=1)]
    groups.inherit(places, ring, 0.0)
    fill(ring)
    return ring, groups


def test_earlier_readers_places_are_kept_from_the_earliest(inherited):
    ring, groups = inherited
    assert groups.floor() == ring.seq(1, 4)
    assert groups.expire(10 * LINGER_S, ring) == []
    assert len(groups) == 2


def test_each_earlier_reader_continues_at_its_own_place(inherited):
    """Whichever comes first."""
    ring, groups = inherited
    places = {("g", 1): (1, 16), ("h", 0): (1, 4), ("g", 0): (1, 20)}
    for lane, ((group, rank), at) in enumerate(places.items()):
        request = asking(group, rank, at, world=2 if group == "g" else 1, resuming=True)
        answer = groups.attach(lane, request, ring, 0.0)
        assert isinstance(answer, Accepted)
        assert (answer.place.epoch, answer.place.position) == at


def test_a_reader_that_died_is_awaited_only_briefly(inherited):
    """No longer than the linger."""
    ring, _ = inherited
    groups, alive = Groups(linger_s=LINGER_S, gather_s=0.0), [True]
    groups.inherit([former("g", 0, (1, 4), lives=lambda: alive[0], world=1)], ring, 0.0)
    assert groups.expire(5 * LINGER_S, ring) == []
    alive[0] = False
    assert groups.expire(5 * LINGER_S, ring) == []
    assert "is given up" in groups.expire(6 * LINGER_S, ring)[0]
    assert len(groups) == 0


def test_an_earlier_place_off_round_has_no_claim():
    ring, groups = make_ring(), Groups(gather_s=0.0)
    groups.inherit([former("g", 0, (0, 0)), former("g", 1, (0, 3))], ring, 0.0)
    (group,) = groups
    assert [member.former is not None for member in group.members] == [True, False]


# A daemon that restarts under its readers, against a reference that only counts.


@dataclass
class Reader:
    """The reference: a rank, what it took, and whether a process of its lives."""

    group: str
    plan: Plan
    at: tuple[int, int]
    lane: int | None = None
    alive: bool = True
    took: int = 0

    def request(self) -> Request:
        plan = self.plan
        return asking(self.group, plan.rank, self.at, world=plan.world_size, batch=plan.batch_size, resuming=True)


class Restarting(RuleBasedStateMachine):
    """Some daemons, one after the other; their readers come back in any order, and some never do."""

    @initialize(shapes=st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), min_size=1, max_size=3))
    def begin(self, shapes: list[tuple[int, int]]) -> None:
        self.now, self.lanes = 0.0, count()
        self.serve()
        self.readers = [
            Reader(f"g{number}", Plan(Epochs.all(LENGTH), world, rank, batch, drop_last=False), (0, 0))
            for number, (world, batch) in enumerate(shapes)
            for rank in range(world)
        ]
        self.delivered: dict[str, set[tuple[int, int]]] = {reader.group: set() for reader in self.readers}
        self.everybody_comes()

    def serve(self) -> None:
        self.ring, self.groups = make_ring(), Groups(linger_s=LINGER_S, linger_blocking_s=5.0, gather_s=0.0)

    def step(self) -> None:
        for reader in self.readers:
            if reader.lane is not None:
                seq = reader.plan.block(self.place(reader)).seq
                self.groups.progress(reader.lane, self.ring, taken=seq, released=seq)
        self.groups.expire(self.now, self.ring)
        if (floor := self.groups.floor()) is not None:
            self.ring.release(floor)
        fill(self.ring)

    def place(self, reader: Reader) -> Place:
        return Place(self.ring.seq(*reader.at), *reader.at)

    def come(self, reader: Reader) -> None:
        lane = next(self.lanes)
        answer = self.groups.attach(lane, reader.request(), self.ring, self.now)
        if isinstance(answer, Seek):
            assert not len(self.groups), "only an idle ring may go elsewhere"
            self.ring.seek(answer.epoch, answer.position)
            answer = self.groups.attach(lane, reader.request(), self.ring, self.now)
        assert isinstance(answer, Accepted), f"{reader} was expected, and is told {answer}"
        assert (answer.place.epoch, answer.place.position) == reader.at, "it goes on at its next pair"
        assert reader.plan.block(answer.place).seq >= self.ring.floor
        reader.lane = lane

    def everybody_comes(self) -> None:
        for reader in self.readers:
            if reader.alive and reader.lane is None:
                self.come(reader)
        self.step()

    @rule(data=st.data(), batches=st.integers(1, 6))
    def read(self, data, batches: int) -> None:
        attached = [reader for reader in self.readers if reader.lane is not None]
        if not attached:
            return
        reader = data.draw(st.sampled_from(attached))
        for _ in range(batches):
            block = reader.plan.block(self.place(reader))
            if block.end > self.ring.published:
                break
            pairs = {(block.epoch, block.position + i) for i in range(0 if block.repeated else block.pairs)}
            assert block.seq >= self.ring.floor, "a pair was read that may be overwritten"
            assert not pairs & self.delivered[reader.group], "a pair was given twice"
            self.delivered[reader.group] |= pairs
            reader.at = (block.next.epoch, block.next.position)
        self.step()

    @rule(data=st.data())
    def one_dies(self, data) -> None:
        alive = [reader for reader in self.readers if reader.alive]
        if len(alive) > 1:
            reader = data.draw(st.sampled_from(alive))
            reader.alive = False
            if reader.lane is not None:
                self.groups.gone(reader.lane, Leaving.NO, self.now)
                reader.lane = None
            self.step()

    @precondition(lambda self: all(r.lane is not None for r in self.readers if r.alive))
    @rule()
    def the_daemon_is_killed_and_served_again(self) -> None:
        self.serve()
        places = [PredecessorPlace(r.request(), r.at, r.at, lambda r=r: r.alive) for r in self.readers if r.alive]
        first = min(place.at for place in places)
        self.ring.seek(*first)
        self.groups.inherit(places, self.ring, self.now)
        assert (self.ring.base.epoch, self.ring.base.position) == first, "the ring begins at the earliest"
        assert self.groups.floor() == min(
            r.plan.block(self.place(r)).seq for r in self.readers if r.alive or self.kept(r)
        )
        for reader in self.readers:
            reader.lane = None
        self.step()

    def kept(self, dead: Reader) -> bool:
        """A dead rank of a group that lives: the place is kept from where its group begins."""
        alive = [r.at for r in self.readers if r.alive and r.group == dead.group]
        if alive:
            dead.at = min(alive)
        return bool(alive)

    @rule(data=st.data())
    def one_comes_back(self, data) -> None:
        away = [reader for reader in self.readers if reader.alive and reader.lane is None]
        if away:
            self.come(data.draw(st.sampled_from(away)))
            self.step()

    @rule()
    def a_stranger_behind_the_floor_is_not_let_in_silently(self) -> None:
        here = self.ring.place(self.ring.floor)
        if any(r.alive for r in self.readers) and self.ring.floor > self.ring.base.seq:
            at = (here.epoch, here.position - 1) if here.position else (here.epoch - 1, LENGTH - 1)
            request = asking("stranger", 0, at, world=1)
            answer = self.groups.attach(next(self.lanes), request, self.ring, self.now)
            assert isinstance(answer, Refused)
            assert "lies behind" in answer.reason
            waiting = replace(request, wait=True)
            assert isinstance(self.groups.attach(next(self.lanes), waiting, self.ring, self.now), Wait)

    @rule(seconds=st.sampled_from([0.0, 4.0, 60.0, 200.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.step()

    @invariant()
    def the_floor_never_passes_one_who_lives(self) -> None:
        for reader in self.readers:
            if reader.alive:
                assert self.ring.floor <= reader.plan.block(self.place(reader)).seq

    @invariant()
    def together_the_ranks_have_taken_all_that_lies_behind_the_slowest(self) -> None:
        for group, delivered in self.delivered.items():
            ranks = [reader for reader in self.readers if reader.group == group]
            if all(reader.alive for reader in ranks):
                epoch, position = min(reader.at for reader in ranks)
                behind = {divmod(n, LENGTH) for n in range(epoch * LENGTH + position)}
                assert behind <= delivered


TestRestarting = Restarting.TestCase
TestRestarting.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)

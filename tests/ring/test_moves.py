"""Ranks that go to another epoch one after another: each comes there in the end, whatever the others do meanwhile."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from consumers import LINGER_S, House
from hypothesis import given, settings
from hypothesis import strategies as st

from ringfeed.shm.lane import Refused
from ringfeed.shm.layout import Leaving, Start
from ringfeedd.ring.admission import Wait
from ringfeedd.ring.moves import LEFTOVER_S
from ringfeedd.ring.rendezvous import GATHER_S, WORKERS_GATHER_S

WORLD = 4
SLOTS = 24
PATIENCE_S = 50.0
"""A consumer gives up after 60 s."""


class Walker:
    """A consumer that goes from epoch to epoch, step by step: a rank by `set_epoch`, or a worker of its DataLoader."""

    def __init__(self, house: House, rank: int, all_: list[Walker], *, workers: bool, chance: random.Random) -> None:
        self.house, self.rank, self.all, self.workers, self.chance = house, rank, all_, workers, chance
        self.lane: int | None = None
        self.began: list[tuple[int, int]] = []

    def __repr__(self) -> str:
        return f"Walker({self.rank}, began {self.began})"

    def walk(self, epochs: list[int]) -> Iterator[None]:
        for loop, epoch in enumerate(epochs, 1):
            while any(len(walker.began) < loop - 1 for walker in self.all):  # as ranks that sum gradients do
                yield
            yield from self.come(epoch, loop)
            self.began.append(self.place)
            yield from self.read(self.chance.randint(1, 3))
            if self.workers:
                while any(len(walker.began) < loop for walker in self.all[: WORLD // self.workers]):
                    yield  # a loader ends its workers once it has had the first one's batch, at the earliest
                yield from self.end()

    def come(self, epoch: int, loop: int) -> Iterator[None]:
        if self.workers:
            yield from self.ask(Start.AT, epoch, loop)
        elif self.lane is None:
            yield from self.ask(Start.AUTO, 0, loop)
        if self.place != (epoch, 0):
            self.leave(Leaving.LEAVE)
            yield
            yield from self.ask(Start.AT, epoch, loop)

    def ask(self, start: Start, epoch: int, loop: int) -> Iterator[None]:
        kin = (
            {"owner": 1 + self.rank % (WORLD // self.workers), "loop": loop, "workers": self.workers}
            if self.workers
            else {}
        )
        while isinstance(answer := self.house.ask(self.rank, world=WORLD, start=start, epoch=epoch, **kin), Wait):
            yield
        assert not isinstance(answer, Refused), answer.reason
        self.lane = answer[0]
        yield

    def read(self, batches: int) -> Iterator[None]:
        """Take batches, of which the first is kept until the second is taken."""
        for taken in range(batches):
            member = self.house.groups._lanes[self.lane][1]
            while member.plan.block(member.place).end > self.house.ring.published:
                yield
            following = member.plan.block(member.plan.block(member.place).next).seq
            self.house.groups.progress(
                self.lane, self.house.ring, taken=following, released=following if taken else member.released
            )
            yield

    def end(self) -> Iterator[None]:
        """End as a worker does: killed after a while, or in order, with its place kept."""
        for _ in range(self.chance.choice([0, 0, 3])):
            yield
        self.leave(self.chance.choice([Leaving.KEEP_PLACE, Leaving.NO]))
        yield

    def leave(self, leaving: Leaving) -> None:
        self.house.go(self.lane, leaving)
        self.lane = None

    @property
    def place(self) -> tuple[int, int]:
        place = self.house.groups._lanes[self.lane][1].place
        return place.epoch, place.position


@pytest.mark.parametrize("workers", [0, 2, 4])
@settings(max_examples=100, deadline=None)
@given(
    epochs=st.lists(st.integers(0, 9), min_size=1, max_size=4),
    turns=st.lists(st.tuples(st.integers(0, WORLD - 1), st.sampled_from([0.0, 0.1, 2 * GATHER_S])), max_size=60),
    seed=st.integers(0, 100),
)
def test_each_rank_comes_to_each_chosen_epoch(workers, epochs, turns, seed):
    if workers == 2:  # of two ranks: the workers of one may have read of an epoch when the other's begin it again
        epochs = [epoch for epoch, before in zip(epochs, [-1, *epochs], strict=False) if epoch != before]
    house, chance = House(slots=SLOTS, gather_s=GATHER_S), random.Random(seed)
    walkers: list[Walker] = []
    walkers += [Walker(house, rank, walkers, workers=workers, chance=chance) for rank in range(WORLD)]
    walks = [walker.walk(epochs) for walker in walkers]
    for number, seconds in turns:
        house.now += seconds
        house.turn()
        next(walks[number], None)
    left, since, stood = dict(enumerate(walks)), house.now, None
    while left:
        house.now += 0.5
        house.turn()
        left = {number: walk for number, walk in left.items() if next(walk, left) is not left}
        stands = [(walker.began, walker.lane) for walker in walkers], house.ring.published
        if repr(stands) != stood:
            since, stood = house.now, repr(stands)
        assert house.now - since < PATIENCE_S, walkers
    assert [walker.began for walker in walkers] == WORLD * [[(epoch, 0) for epoch in epochs]]


@pytest.fixture
def house() -> House:
    return House(slots=SLOTS, gather_s=GATHER_S)


def go_to(house: House, rank: int, epoch: int, **options: int):
    return house.ask(rank, start=Start.AT, epoch=epoch, **options)


@pytest.mark.parametrize("first", [0, 1])
def test_the_last_rank_to_move_still_comes(house, first):
    """The first one's slots are not all that is kept where both of them go."""
    lanes = [house.come(rank)[0] for rank in (0, 1)]
    moved = []
    for rank in (first, 1 - first):
        house.go(lanes[rank], Leaving.LEAVE)
        house.turn()
        _, place = go_to(house, rank, 7)
        moved.append((place.epoch, place.position))
    assert moved == [(7, 0), (7, 0)]


def test_a_rank_away_meanwhile_comes_too(house):
    """It has left before the first one goes, and asks when the last one has gone."""
    lanes = [house.come(rank, world=3)[0] for rank in range(3)]
    house.go(lanes[0], Leaving.LEAVE)
    for rank in (2, 1, 0):
        if rank:
            house.go(lanes[rank], Leaving.LEAVE)
        _, place = go_to(house, rank, 7, world=3)
        assert (place.epoch, place.position) == (7, 0)
        house.turn()


def test_a_rank_that_never_follows_lapses(house):
    lanes = [house.come(rank)[0] for rank in (0, 1)]
    house.go(lanes[1], Leaving.LEAVE)
    lane, place = go_to(house, 1, 7)
    house.go(lanes[0], Leaving.LEAVE)
    house.turn()
    assert house.groups.floor() == place.seq
    house.read(lane, 2)
    house.now += LINGER_S
    house.turn()
    assert house.groups.floor() > place.seq


def test_a_state_within_a_round_awaits_the_others(house):
    """One of another number of ranks: no round of this group begins there before all of them do."""
    lanes = [house.come(rank)[0] for rank in (0, 1)]
    house.go(lanes[0], Leaving.LEAVE)
    assert isinstance(go_to(house, 0, 0, position=6), Wait)
    house.go(lanes[1], Leaving.LEAVE)
    assert isinstance(go_to(house, 0, 0, position=6), Wait)
    places = [go_to(house, rank, 0, position=6)[1] for rank in (1, 0)]
    assert [(place.epoch, place.position) for place in places] == [(0, 6), (0, 6)]


# A DataLoader's workers.

TWO = {"owner": 1, "workers": 2}


def test_a_late_worker_begins_where_others_do(house):
    """It has not been told of the epoch: the first worker that was is of the same iteration, and has read of it."""
    assert isinstance(go_to(house, 1, 3, loop=1, **TWO), Wait)
    house.now += WORKERS_GATHER_S
    lane, _ = go_to(house, 1, 3, loop=1, **TWO)
    house.read(lane, 1)
    assert house.come(0, start=Start.FOLLOWING, loop=1, **TWO)[1] == (3, 0)


def test_a_worker_awaits_its_loaders_other_workers(house):
    """They may stand a round behind it, and take seconds to start."""
    assert isinstance(go_to(house, 1, 0, position=8, loop=1, **TWO), Wait)
    house.now += 2 * GATHER_S
    assert isinstance(go_to(house, 1, 0, position=8, loop=1, **TWO), Wait)
    assert go_to(house, 0, 0, position=4, loop=1, **TWO)[1].position == 4
    assert go_to(house, 1, 0, position=8, loop=1, **TWO)[1].position == 8


@pytest.mark.parametrize("rank", [0, 1])
def test_an_earlier_iterations_worker_is_awaited(house, rank):
    """It is being killed, and reads as the same rank or as another one."""
    lane, _ = house.come(0, start=Start.FOLLOWING, loop=1, **TWO)
    waits = go_to(house, rank, 7, loop=2, **TWO)
    assert isinstance(waits, Wait)
    assert "process 0 still reads as rank 0" in waits.reason
    house.go(lane)
    places = [go_to(house, number, 7, loop=2, **TWO) for number in (1 - rank, rank)]
    places[0] = go_to(house, 1 - rank, 7, loop=2, **TWO)
    assert [place.epoch for _, place in places] == [7, 7]


def test_an_earlier_worker_is_not_awaited_long(house):
    house.come(0, start=Start.FOLLOWING, loop=1, **TWO)
    assert isinstance(house.ask(0, start=Start.FOLLOWING, loop=2, **TWO), Wait)
    house.now += LEFTOVER_S
    refused = house.ask(0, start=Start.FOLLOWING, loop=2, **TWO)
    assert isinstance(refused, Refused)
    assert "attached already, by process 0" in refused.reason

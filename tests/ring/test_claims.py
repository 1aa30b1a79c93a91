"""Who goes on at a place that was left, and who begins at a whole epoch with all ranks of its group."""

from __future__ import annotations

import os

import pytest
from consumers import BATCH, LENGTH, LINGER_S, House
from hypothesis import given
from hypothesis import strategies as st

from ringfeed.shm.lane import Refused
from ringfeed.shm.layout import Leaving, Start
from ringfeed.shm.origin import process_number
from ringfeedd.ring.admission import Wait

WHOLE = (Start.AUTO, Start.EPOCH)


@pytest.fixture
def house() -> House:
    return House()


@pytest.mark.parametrize("start", [*WHOLE, Start.FOLLOWING])
@given(read=st.tuples(st.integers(0, 25), st.integers(0, 25)), leaving=st.sampled_from(Leaving))
def test_a_job_started_again_begins_whole_and_together(start, read, leaving):
    house = House()
    lanes = [house.come(rank, start=start, owner=1 + rank, run=1)[0] for rank in (0, 1)]
    for lane, batches in zip(lanes, read, strict=True):
        house.read(lane, batches)
    for lane in lanes:
        house.go(lane, leaving)
    again = [house.come(rank, start=start, owner=11 + rank, run=2)[1] for rank in (1, 0)]
    assert again == [(0, 0), (0, 0)]


def test_a_request_of_unknown_origin_begins_whole_too(house):
    lane, _ = house.come(0, world=1)
    house.read(lane, 3)
    house.go(lane)
    assert house.come(0, world=1)[1] == (0, 0)


def test_a_restarted_job_among_others_begins_next_epoch(house):
    other, _ = house.come(0, group="other", world=1)
    lanes = [house.come(rank)[0] for rank in (0, 1)]
    for lane in (*lanes, other):
        house.read(lane, 4)
    for lane in lanes:
        house.go(lane)
    assert [house.come(rank)[1] for rank in (0, 1)] == [(1, 0), (1, 0)]


def test_a_restarted_job_may_ask_to_begin_now(house):
    other, _ = house.come(0, group="other", world=1)
    lane, _ = house.come(0, world=1)
    house.read(lane, 4)
    house.read(other, 2)
    house.go(lane)
    house.turn()
    assert house.come(0, world=1, start=Start.NOW)[1] == (0, 4)


@pytest.mark.parametrize("start", WHOLE)
def test_a_rank_continues_at_its_place_among_others(house, start):
    lanes = [house.come(rank, start=start, owner=1 + rank)[0] for rank in (0, 1)]
    house.read(lanes[0], 3)
    house.read(lanes[1], 5)
    house.go(lanes[0])
    assert house.come(0, start=start, owner=11)[1] == (0, 3 * 2 * BATCH)


def test_a_process_may_continue_where_it_left(house):
    lane, _ = house.come(0, world=1, owner=7)
    house.read(lane, 3)
    house.go(lane, Leaving.KEEP_PLACE)
    assert house.come(0, world=1, owner=7)[1] == (0, 3 * BATCH)


def test_a_new_run_begins_whole_among_old_ranks(house):
    """Ranks die one by one, and the new ones come meanwhile: none of them begins where a dead one stood."""
    old = [house.come(rank, run=1)[0] for rank in (0, 1)]
    for lane in old:
        house.read(lane, 3)
    house.go(old[0])
    assert house.come(0, run=2)[1] == (1, 0)
    house.go(old[1])
    assert house.come(1, run=2)[1] == (1, 0)


def test_a_new_run_with_a_state_waits(house):
    """Until the old one has ended."""
    old = [house.come(rank, run=1)[0] for rank in (0, 1)]
    for lane in old:
        house.read(lane, 3)
    house.turn()
    house.go(old[0])
    waits = house.ask(0, run=2, start=Start.AT)
    assert isinstance(waits, Wait)
    assert "rank 1 of group 'job' (process 1) is of an earlier run" in waits.reason
    house.go(old[1])
    assert house.come(0, run=2, start=Start.AT)[1] == (0, 0)


def test_a_rank_of_unknown_run_joins_its_group(house):
    """The main process is rank 0, and it starts the others by multiprocessing, which tell."""
    assert house.come(0)[1] == house.come(1, run=7)[1] == (0, 0)
    assert len(house.groups) == 1


# A DataLoader's workers.


def worker(house: House, number: int, loop: int, owner: int = 1) -> tuple[int, tuple[int, int]]:
    return house.come(number, world=4, start=Start.FOLLOWING, owner=owner, loop=loop, workers=2)


def test_workers_of_the_next_loop_begin_after_all(house):
    """One of them had a batch and two had none; the fourth had not even come."""
    first = [worker(house, number, loop=1)[0] for number in (0, 1, 2)]
    house.read(first[0], 1)
    for lane, leaving in zip(first, (Leaving.KEEP_PLACE, Leaving.NO, Leaving.KEEP_PLACE), strict=True):
        house.go(lane, leaving)
    assert [worker(house, number, loop=2)[1] for number in (3, 1, 0, 2)] == 4 * [(1, 0)]


def test_an_unread_loop_is_begun_again(house):
    for number in (0, 1):
        house.go(worker(house, number, loop=1)[0], Leaving.KEEP_PLACE)
    assert [worker(house, number, loop=2)[1] for number in range(4)] == 4 * [(0, 0)]


def test_a_late_worker_reads_the_others_epoch(house):
    lanes = [worker(house, number, loop=1)[0] for number in (0, 1)]
    for lane in lanes:
        house.read(lane, LENGTH // (4 * BATCH))
        house.go(lane, Leaving.KEEP_PLACE)
    assert [worker(house, number, loop=1)[1] for number in (2, 3)] == 2 * [(0, 0)]


def test_a_late_ranks_workers_read_the_others_epoch(house):
    """Sub-ranks 0 and 2 are the workers of rank 0, which has given its first blocks back; 1 and 3 are rank 1's."""
    for number in (0, 2):
        house.read(worker(house, number, loop=1, owner=1)[0], 3)
    house.turn()
    assert house.ring.floor == BATCH, "of the first round rank 0's own block is gone"
    assert [worker(house, number, loop=1, owner=2)[1] for number in (3, 1)] == 2 * [(0, 0)]


@pytest.mark.parametrize("taken", [1, 2])
def test_a_worker_killed_with_first_batches_read_none(house, taken):
    lanes = [worker(house, number, loop=1)[0] for number in (0, 2)]
    member = house.groups._lanes[lanes[0]][1]
    place = member.place
    for _ in range(taken):
        place = member.plan.block(place).next
    house.groups.progress(lanes[0], house.ring, taken=member.plan.block(place).seq, released=0)
    for lane in lanes:
        house.go(lane)
    assert [worker(house, number, loop=2)[1] for number in (2, 0)] == 2 * [(0, 0)]


def test_similar_loops_are_told_apart_by_their_workers(house):
    """The random numbers that tell loops apart are alike where a user seeds them before each epoch."""
    for epoch in range(3):
        for number in range(4):
            lane, place = worker(house, number, loop=42)
            assert place == (epoch, 0)
            house.read(lane, LENGTH // (4 * BATCH))
            house.go(lane, Leaving.KEEP_PLACE)


def test_two_ranks_that_break_off_begin_together(house):
    """Sub-ranks 0 and 2 are the workers of one rank, 1 and 3 those of the other, which breaks off later."""
    lanes = {number: worker(house, number, loop=1, owner=1 + number % 2)[0] for number in range(4)}
    for number in (0, 1, 3):
        house.read(lanes[number], 2)
    for number in (0, 2):
        house.go(lanes[number], Leaving.KEEP_PLACE)
    assert [worker(house, number, loop=2, owner=1)[1] for number in (0, 2)] == 2 * [(1, 0)]
    for number in (1, 3):
        house.go(lanes[number])
    assert [worker(house, number, loop=3, owner=2)[1] for number in (3, 1)] == 2 * [(1, 0)]


def test_a_loop_without_place_begins_a_kept_epoch(house):
    """Its place was given up; it begins with the next epoch that is kept."""
    other, _ = house.come(0, group="other", world=1)
    lane, _ = worker(house, 0, loop=1)
    house.go(lane, Leaving.KEEP_PLACE)
    house.read(other, LENGTH // BATCH + 3)
    house.turn()
    house.now += LINGER_S
    assert [worker(house, number, loop=2)[1] for number in (1, 0)] == 2 * [(2, 0)]


def test_a_loop_keeps_its_epoch_over_a_restart(house):
    """A look at an epoch was followed by a restart of the daemon, which took the kept places along."""
    for number, epoch in ((2, 3), (0, 3), (1, 0)):
        assert house.come(number, world=4, start=Start.FOLLOWING, epoch=epoch, workers=2, owner=1)[1] == (3, 0)


def test_a_processs_number_is_its_own():
    assert process_number(os.getpid()) == process_number(os.getpid()) != process_number(os.getppid())
    assert process_number(2**22 + 1) == 0, "there is no such process"


def test_a_process_gives_up_its_own_places_only(house):
    """Those of one that is still attached go with it; another process's rank of the same group keeps its own."""
    lanes = [house.come(rank, start=Start.FOLLOWING, owner=owner)[0] for rank, owner in ((0, 7), (1, 8))]
    house.go(lanes[0], Leaving.KEEP_PLACE)
    assert isinstance(house.ask(0, start=Start.GIVE_UP, group="other", owner=7), Refused)
    assert isinstance(house.ask(0, start=Start.GIVE_UP, owner=0), Refused)
    assert not any(member.given_up for group in house.groups for member in group.members)
    assert isinstance(house.ask(0, start=Start.GIVE_UP, owner=7), Refused)
    assert [member.given_up for group in house.groups for member in group.members] == [True, False]
    assert isinstance(house.ask(0, start=Start.GIVE_UP, owner=8), Refused)
    house.turn()
    assert len(house.groups) == 1, "rank 1 is attached"
    house.go(lanes[1], Leaving.KEEP_PLACE)
    house.turn()
    assert len(house.groups) == 0


def test_absent_ranks_places_go_with_the_last_reader(house):
    lane, _ = house.come(0, start=Start.FOLLOWING, owner=7)
    house.go(lane, Leaving.KEEP_PLACE)
    house.ask(0, start=Start.GIVE_UP, owner=7)
    house.turn()
    assert len(house.groups) == 0


def test_a_worker_that_comes_again_keeps_its_place(house):
    lane, _ = house.come(0, world=1, start=Start.FOLLOWING, owner=7)
    house.ask(0, world=1, start=Start.GIVE_UP, owner=7)
    house.go(lane, Leaving.KEEP_PLACE)
    lane, _ = house.come(0, world=1, start=Start.FOLLOWING, owner=7)
    house.go(lane, Leaving.KEEP_PLACE)
    house.turn()
    assert house.groups.lingering == 1

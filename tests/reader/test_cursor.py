"""Where a reader stands, decided without a ring."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringfeed.epochs import Epochs
from ringfeed.plan import Place, Plan
from ringfeed.reader.place.cursor import Cursor, Turn

LENGTH, BATCH = 10, 2


def plan(length=LENGTH, *, world=1, rank=0, drop_last=True):
    return Plan(Epochs.all(length), world, rank, BATCH, drop_last)


def cursor(length=LENGTH, *, position=0, may_join_midway=True, **shape):
    return Cursor(plan(length, **shape), Place(position, 0, position), may_join_midway=may_join_midway)


def take(cursor, blocks):
    """Begin an iteration as a reader does; return its epoch and the positions of its first blocks."""
    if (following := cursor.rest_to_skip) is not None:
        cursor.skip(following)
    _, epoch = cursor.begin()
    positions = []
    while len(positions) < blocks and cursor.block.epoch == epoch:
        positions.append(cursor.block.position)
        if cursor.take():
            cursor.begin_look()
        else:
            cursor.look = None
    return epoch, positions


def test_iterations_give_one_epoch_after_another():
    stands = cursor()
    assert [take(stands, 100) for _ in range(3)] == [(epoch, [0, 2, 4, 6, 8]) for epoch in range(3)]
    assert stands.iteration == 3


def test_the_rest_of_an_interrupted_epoch_is_skipped():
    stands = cursor()
    take(stands, 3)
    assert stands.broken_off
    assert (stands.state_place.epoch, stands.state_place.position) == (0, 6)
    assert take(stands, 100)[0] == 1


def test_only_a_look_is_taken_back():
    stands = cursor()
    take(stands, 1)
    assert stands.take_back()
    assert not stands.broken_off
    assert take(stands, 100) == (0, [0, 2, 4, 6, 8])
    take(stands, 2)
    assert not stands.take_back()


def test_a_block_without_batch_is_still_next():
    stands = cursor()
    take(stands, 2)
    stands.take()
    stands.undo()
    assert stands.block.position == 4
    assert stands.broken_off


def test_after_a_lost_first_block_another_is_first():
    stands = cursor()
    stands.begin()
    assert stands.take()
    stands.lose()
    assert stands.take()


@pytest.mark.parametrize(("taken", "epoch", "place", "begins"), [(0, 0, None, 0), (2, 1, None, 1), (2, 0, (0, 0), 0)])
def test_a_chosen_epoch_moves_only_if_not_next(taken, epoch, place, begins):
    stands = cursor()
    if taken:
        take(stands, taken)
    assert stands.choose(epoch) == place
    if place is None:
        assert stands.state_place.epoch == begins
        assert take(stands, 1)[0] == begins


def test_an_epoch_with_a_short_rest_gives_nothing():
    """Less than a round is left."""
    stands = cursor(11, position=10)
    iteration = stands.iteration
    assert stands.choose(0) is None
    assert stands.iteration > iteration
    assert take(stands, 100) == (0, [])
    assert take(stands, 1) == (1, [0])


@pytest.mark.parametrize(("at", "known"), [((0, 4), True), ((1, 0), True), ((0, 0), False), ((2, 0), False)])
def test_only_this_place_and_next_start_are_known(at, known):
    stands = cursor()
    take(stands, 2)
    assert (stands.leave_for(at) is not None) == known
    assert stands.iteration == 2


def test_skipped_blocks_break_off_no_later_epoch():
    stands = cursor()
    take(stands, 2)
    assert stands.pass_over(7) == 4
    assert stands.broken_off
    assert stands.pass_over(13) == 6
    assert not stands.broken_off


@pytest.mark.parametrize(("position", "may_join_midway", "steps"), [(0, True, 5), (4, True, 3), (4, False, 5)])
def test_an_epoch_joined_midway_is_shorter_once(position, may_join_midway, steps):
    stands = cursor(position=position, may_join_midway=may_join_midway)
    assert stands.steps == steps
    take(stands, 100)
    assert stands.steps == 5


def test_other_lengths_change_where_the_next_epoch_begins():
    stands = cursor()
    take(stands, 100)
    stands.change(Plan(Epochs(((0, LENGTH), (1, 4))), 1, 0, BATCH, drop_last=True))
    assert take(stands, 100) == (1, [0, 2])


@given(length=st.integers(8, 40), ranks=st.integers(1, 3), workers=st.integers(1, 3), drop_last=st.booleans())
def test_turns_use_the_order_up_without_a_gap(length, ranks, workers, drop_last):
    """What a loader's workers yield in turn, on all ranks, ends where its state says."""
    world = ranks * workers
    whole = Plan(Epochs.all(length), world, 0, BATCH, drop_last)
    if whole.empty:
        return
    place, used = Place(0, 0, 0), 0
    while place.epoch == 0:
        for worker in range(workers):
            turn = range(worker * ranks, (worker + 1) * ranks)
            blocks = [Plan(whole.epochs, world, rank, BATCH, drop_last).block(place) for rank in turn]
            used += sum(block.pairs for block in blocks if not block.repeated)
            if (stands := Turn(whole, turn).stands_after(place)) is not None and stands.epoch == 0:
                assert stands.position == used
        place = whole.block(place).next

"""The plan's properties: all ranks together read each epoch once, in the same number of steps."""

from __future__ import annotations

import time

from hypothesis import given
from hypothesis import strategies as st

from ringfeed.epochs import Epochs
from ringfeed.plan import Block, Place, Plan

A_LONG_ABSENCE = 10**12


@st.composite
def shares(draw) -> tuple[Plan, Place]:
    """The plan of rank 0 of some group, and a place at which the group may begin."""
    length = draw(st.integers(1, 60))
    epochs = Epochs.all(length)
    for _ in range(draw(st.integers(0, 2))):
        epochs = epochs.change(epochs.spans[-1][0] + draw(st.integers(1, 3)), draw(st.integers(1, 60)))
    plan = Plan(epochs, draw(st.integers(1, 5)), 0, draw(st.integers(1, 6)), draw(st.booleans()))
    if plan.empty:
        plan = Plan(epochs, plan.world_size, 0, plan.batch_size, drop_last=False)
    epoch = draw(st.integers(0, 5))
    place = Place(draw(st.integers(0, 1000)), epoch, draw(st.integers(0, epochs.length(epoch) - 1)))
    return plan, place


def ranks(plan: Plan) -> list[Plan]:
    return [
        Plan(plan.epochs, plan.world_size, rank, plan.batch_size, plan.drop_last) for rank in range(plan.world_size)
    ]


def blocks_of_epoch(plan: Plan, place: Place, epoch: int) -> tuple[list[Block], Place]:
    """A rank's blocks of ``epoch`` from ``place`` on, and where the first round after them begins."""
    blocks = []
    while (block := plan.block(place)).epoch == epoch:
        blocks.append(block)
        place = block.next
    return blocks, place


def first_epoch(plan: Plan, place: Place) -> int:
    return plan.block(place).epoch


@given(shares())
def test_ranks_blocks_partition_an_epoch(share):
    """Or all of it except the dropped tail."""
    plan, place = share
    for _ in range(3):
        epoch = first_epoch(plan, place)
        start = place.position if place.epoch == epoch else 0
        read: list[int] = []
        for rank in ranks(plan):
            blocks, after = blocks_of_epoch(rank, place, epoch)
            read += [b.position + i for b in blocks if not b.repeated for i in range(b.pairs)]
        left = plan.epochs.length(epoch) - start
        expected = left - left % plan.round_pairs if plan.drop_last else left
        assert sorted(read) == list(range(start, start + expected))
        place = after


@given(shares())
def test_every_rank_takes_the_number_of_steps_predicted(share):
    plan, place = share
    epoch = first_epoch(plan, place)
    position = place.position if place.epoch == epoch else 0
    taken = [len(blocks_of_epoch(rank, place, epoch)[0]) for rank in ranks(plan)]
    assert set(taken) == {plan.steps_left(epoch, position)}


@given(shares())
def test_a_blocks_place_matches_its_computation(share):
    """seq, epoch and position of every block."""
    plan, place = share

    def seq(epoch: int, position: int) -> int:
        """Counted one epoch after the other."""
        lengths = [plan.epochs.length(n) for n in range(max(epoch, place.epoch))]
        return place.seq - sum(lengths[: place.epoch]) - place.position + sum(lengths[:epoch]) + position

    for rank in ranks(plan):
        here = place
        for _ in range(8):
            block = rank.block(here)
            assert block.seq == seq(block.epoch, block.position)
            assert block.position + block.pairs <= plan.epochs.length(block.epoch)
            assert block.next.seq == seq(block.next.epoch, block.next.position)
            here = block.next


@given(shares())
def test_a_ranks_blocks_move_forwards_and_never_overlap(share):
    plan, place = share
    for rank in ranks(plan):
        block, here = rank.block(place), place
        for _ in range(12):
            here = block.next
            following = rank.block(here)
            assert block.end <= following.seq
            assert here.seq >= block.end or block.repeated
            assert block.end <= here.seq
            block = following


@given(shares())
def test_only_a_short_last_round_repeats_a_pair(share):
    """It has fewer pairs than ranks."""
    plan, place = share
    epoch = first_epoch(plan, place)
    position = place.position if place.epoch == epoch else 0
    length = plan.epochs.length(epoch)
    in_last = (length - position) % plan.round_pairs
    for rank in ranks(plan):
        blocks, _ = blocks_of_epoch(rank, place, epoch)
        assert not any(block.repeated for block in blocks[:-1])
        too_few = not plan.drop_last and 0 < in_last < plan.world_size
        assert blocks[-1].repeated == (too_few and rank.rank >= in_last)
        if blocks[-1].repeated:
            assert (blocks[-1].pairs, blocks[-1].position) == (1, length - 1)


@given(shares())
def test_a_partial_round_is_spread_evenly(share):
    """No rank has two pairs more than another."""
    plan, place = share
    epoch = first_epoch(plan, place)
    last = [blocks_of_epoch(rank, place, epoch)[0][-1] for rank in ranks(plan)]
    own = [0 if block.repeated else block.pairs for block in last]
    assert max(own) - min(own) <= 1


def naive_skip(plan: Plan, place: Place, seq: int) -> Place:
    while (block := plan.block(place)).seq < seq:
        place = block.next
    return place


@given(shares(), st.data())
def test_skip_to_ends_where_single_rounds_would(share, data):
    plan, place = share
    seq = data.draw(st.integers(max(0, place.seq - 50), place.seq + 500))
    for rank in ranks(plan):
        assert rank.skip_to(place, seq) == naive_skip(rank, place, seq)


def test_skip_to_is_as_fast_over_trillions():
    plan = Plan(Epochs.all(1000), 2, 1, 4, drop_last=True)
    began = time.process_time()
    place = plan.skip_to(Place(3, 0, 3), A_LONG_ABSENCE)
    assert time.process_time() - began < 0.05
    block = plan.block(place)
    assert A_LONG_ABSENCE <= block.seq < A_LONG_ABSENCE + 2 * plan.round_pairs
    assert (place.seq - place.position, place.position % plan.round_pairs) == (place.epoch * 1000, 0)


def test_a_plan_that_drops_every_epoch_is_empty():
    assert Plan(Epochs.all(7), 2, 0, 4, drop_last=True).empty
    assert not Plan(Epochs.all(8), 2, 0, 4, drop_last=True).empty
    assert not Plan(Epochs.all(7), 2, 0, 4, drop_last=False).empty


@given(shares(), st.integers(0, 400))
def test_going_forward_and_distance_are_inverse(share, pairs):
    plan, place = share
    start = (place.epoch, place.position)
    end = plan.epochs.forward(start, pairs)
    assert plan.epochs.distance(start, end) == pairs
    assert plan.epochs.distance(end, start) == -pairs
    assert end[1] < plan.epochs.length(end[0])


def test_a_plan_may_lose_a_later_catalogs_epochs():
    """It says so when it would drop every epoch of a later catalog."""
    assert Plan(Epochs.all(8).change(3, 7), 2, 0, 4, drop_last=True).empty

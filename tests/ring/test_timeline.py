"""The timeline alone: which listing gives the pairs of an epoch, and how long that epoch is."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from order_alone import OrderAlone

from ringfeedd.order import make_order
from ringfeedd.ring.timeline import Timeline


def listing(length: int) -> OrderAlone:
    return OrderAlone(make_order("sequential", length=length, seed=0))


def test_one_listing_gives_all_epochs():
    only = listing(5)
    timeline = Timeline(only)
    assert [timeline.of(epoch) for epoch in (0, 1, 10**6)] == [only] * 3
    assert (len(timeline), timeline.last_change, timeline.epochs.length(7)) == (1, 0, 5)


def test_a_change_leaves_earlier_epochs_as_they_are():
    timeline = Timeline(first := listing(5))
    timeline.change(3, second := listing(8))
    assert [timeline.of(epoch) for epoch in (0, 2, 3, 4)] == [first, first, second, second]
    assert list(timeline) == [first, second]
    timeline.renew(third := listing(8))
    assert [timeline.of(2), timeline.of(3), timeline.newest] == [first, third, third]
    timeline.restart(timeline.newest)
    assert timeline.of(0) is third
    assert timeline.epochs.length(0) == 8


def test_a_change_with_epoch_zero_leaves_nothing():
    timeline = Timeline(listing(5))
    timeline.change(0, second := listing(8))
    assert list(timeline) == [second]
    assert timeline.of(0) is second
    assert timeline.epochs.spans == ((0, 8),)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(first=st.integers(1, 50), second=st.integers(1, 50), change=st.integers(1, 20), epoch=st.integers(0, 40))
def test_listings_and_lengths_agree(first, second, change, epoch):
    timeline = Timeline(listing(first))
    timeline.change(change, listing(second))
    assert timeline.of(epoch).order.length == timeline.epochs.length(epoch)

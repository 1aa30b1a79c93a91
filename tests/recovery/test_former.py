"""A former daemon's readers, as the next one sees them."""

from __future__ import annotations

import pytest
from ring_fixtures import make_descriptor, make_service, served_ring, small_geometry, step, turning

import ringfeed
from ringfeed.shm.layout import Leaving
from ringfeedd.recovery.predecessor import read_predecessors
from ringfeedd.shm.memory import Access, RingMemory


@pytest.fixture
def reading():
    """A ring, and a reader of it that has read for a while."""
    with served_ring() as served, turning(served), ringfeed.attach(served.name, batch_size=4) as reader:
        next(iter(reader))
        yield served, reader


def test_a_readers_early_end_costs_only_its_place(reading):
    """It ends before it has come to the next daemon, which goes on."""
    served, reader = reading
    predecessors = read_predecessors(served.name)
    memory = RingMemory(make_descriptor(served.name, small_geometry(), 50), Access())
    try:
        now = 0.0
        service = make_service(memory, clock=lambda: now)
        service.expect(predecessors)
        service.begin(served.pool)
        step(service)
        assert len(service.groups) == 1
        reader._delivery.attachment.detach(Leaving.NO)  # as if it had been killed, between two looks
        now += 1.0
        step(service)  # which lets go of the former daemon's segment, and asks once more who lives
        assert len(service.expected) == 0
        now += 1000.0
        step(service)
        assert len(service.groups) == 0
    finally:
        memory.unlink()
        memory.give_back()


def test_a_released_segment_has_no_processes(reading):
    served, _ = reading
    (former,) = read_predecessors(served.name)
    assert former.lives
    former.control.close()
    assert not former.lives

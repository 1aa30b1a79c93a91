"""Doorbells that somebody floods with tokens: they tell nothing any more, and stop and busy nobody."""

from __future__ import annotations

import struct
import time
import uuid
from pathlib import Path

import pytest
from ring_fixtures import served_ring, turning

import ringfeed
from ringfeed.shm import layout
from ringfeed.shm.semaphore import FLOOD, MAX_TOKENS, Doorbell, semaphore_path, unlink_doorbell

NEARLY_INT_MAX = 2**31 - 2


@pytest.fixture
def bell():
    name = f"/t{uuid.uuid4().hex[:10]}"
    yield Doorbell.create(name, mode=0o600, gid=-1)
    unlink_doorbell(name)


def flood(name: str, tokens: int = NEARLY_INT_MAX) -> None:
    """Post as many tokens as in minutes; glibc keeps the number in the first four bytes."""
    with Path(semaphore_path(name)).open("r+b") as file:
        file.write(struct.pack("<I", tokens))


def test_a_flood_is_drained_in_bounded_steps(bell):
    name = bell._semaphore.name
    flood(name)
    began = time.monotonic()
    for _ in range(5):
        bell.drain()
    assert time.monotonic() - began < 1
    assert bell.wait()
    bell.ring()  # which fails at 2**31 - 1
    flood(name, 3)
    bell.drain()
    assert not bell.take()


def test_a_flooded_bell_takes_little_of_a_core(bell):
    flood(bell._semaphore.name)
    began, busy, waits = time.monotonic(), time.process_time(), 0
    while time.monotonic() - began < 0.5:
        assert bell.wait()
        waits += 1
    assert bell.flooded
    assert time.process_time() - busy < 0.25
    assert waits < 20 * FLOOD  # a wait during which the machine was busy begins the count anew
    flood(bell._semaphore.name, 0)
    assert not bell.wait(0.01)
    assert not bell.flooded


def test_an_innocent_reader_reads_with_flooded_bells():
    with served_ring(slots=16, lanes=1, epoch_length=48) as served:
        generation = served.memory.descriptor.generation
        names = [layout.space_name(served.name, generation), layout.lane_bell_name(served.name, generation, 0)]
        began = time.monotonic()
        with turning(served):
            for name in names:
                flood(name)
            with ringfeed.attach(served.name, batch_size=4) as reader:
                for name in names:
                    flood(name)
                assert sum(len(batch.ids) for batch in reader) == 48
        assert time.monotonic() - began < 5
        assert served.memory.space._semaphore.value >= MAX_TOKENS

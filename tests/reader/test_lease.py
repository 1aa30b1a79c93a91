"""Leases: slots are given back in order, when the last array is gone, from whatever thread, and never by a fork."""

from __future__ import annotations

import contextlib
import dis
import gc
import itertools
import os
import sys
import threading
from collections.abc import Iterator
from types import CodeType, FrameType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringfeed.reader.lease import Lease, Leases

PAIRS = 4


class Told:
    """What the daemon would be told, in order."""

    def __init__(self) -> None:
        self.seqs: list[int] = []
        self.leases = Leases(self.seqs.append, seq=0)
        self.next = 0

    def take(self) -> Lease:
        lease = self.leases.take(self.next, self.next + PAIRS)
        self.next += PAIRS
        return lease

    def take_array(self) -> np.ndarray:
        array = np.zeros((PAIRS, 2))
        self.take().hold(array)
        return array


@pytest.fixture
def told() -> Told:
    return Told()


@given(order=st.permutations(range(8)))
def test_releases_report_the_oldest_lease_still_held(order):
    """Whatever their order."""
    told = Told()
    leases = [told.take() for _ in order]
    held = set(order)
    for number in order:
        leases[number].release()
        held.discard(number)
        oldest = PAIRS * min(held, default=len(order))
        assert told.leases.oldest == oldest
        assert told.leases.count == len(held)
        assert (told.seqs[-1] if told.seqs else 0) == oldest
    assert told.seqs == sorted(set(told.seqs))


def test_a_lease_lasts_as_long_as_any_view(told):
    """Of any of its arrays."""
    lease = told.take()
    image, label = np.zeros((PAIRS, 8, 8, 3)), np.zeros((PAIRS, 8, 8))
    lease.hold(image, label)
    view = image[1:3].transpose(0, 3, 1, 2)[0]
    del image
    assert told.seqs == []
    del label
    assert told.seqs == [], "a slice of the image lives"
    del view
    assert told.seqs == [PAIRS]


def test_a_second_release_changes_nothing(told):
    array = told.take_array()
    first = told.leases._open[0]
    first.release()
    first.release()
    del array
    assert told.seqs == [PAIRS]


def test_a_released_lease_leaves_no_cycle(told):
    gc.collect()
    gc.disable()
    try:
        for _ in range(10):
            told.take_array()
        assert gc.collect() == 0
    finally:
        gc.enable()


def test_the_collector_returns_an_array_in_a_cycle(told):
    cycle = [told.take_array()]
    cycle.append(cycle)
    del cycle
    gc.collect()
    assert told.seqs == [PAIRS]


def test_an_end_during_anothers_report_is_reported_too():
    arrays: list[np.ndarray] = []
    seqs: list[int] = []

    def tell(seq: int) -> None:
        seqs.append(seq)
        arrays.clear()  # what the collector may do in the middle of any line

    leases = Leases(tell, seq=0)
    first = leases.take(0, 4)
    second = leases.take(4, 8)
    arrays.append(np.zeros(2))
    second.hold(arrays[0])
    first.release()
    assert seqs == [4, 8]


def test_ends_in_many_threads_are_reported_in_order(told):
    arrays = [[told.take_array() for _ in range(200)] for _ in range(8)]
    start = threading.Barrier(len(arrays))

    def drop(mine: list[np.ndarray]) -> None:
        start.wait()
        while mine:
            mine.pop()

    threads = [threading.Thread(target=drop, args=(mine,)) for mine in arrays]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert told.leases.oldest == told.next == told.seqs[-1]
    assert told.seqs == sorted(set(told.seqs))
    assert told.leases.count == 0


def test_skipped_blocks_are_released_with_the_earlier_lease(told):
    """At once without one, and behind a lease when it ends."""
    told.leases.skip(100)
    assert told.seqs == [100]
    told.next = 100
    lease = told.take()
    told.leases.skip(200)
    assert told.seqs == [100]
    lease.release()
    assert told.seqs == [100, 200]


def test_a_forks_dropped_arrays_report_nothing():
    reading, writing = os.pipe()
    leases = Leases(lambda seq: os.write(writing, b"told %d\n" % seq) and None, seq=0)
    array = np.zeros(4)
    leases.take(0, 4).hold(array)
    child = os.fork()
    if child == 0:
        del array
        gc.collect()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    os.set_blocking(reading, False)
    with pytest.raises(BlockingIOError):
        os.read(reading, 100)
    del array
    assert os.read(reading, 100) == b"told 4\n"
    os.close(reading)
    os.close(writing)


@contextlib.contextmanager
def interrupt(code: CodeType, at: int) -> Iterator[list[int]]:
    """Raise in a function as Ctrl-C may, the ``at``-th time; yields what is left of that number.

    Python looks for signals after a call, where a loop begins again, and before a function's first line.
    """
    left, before, former = [at], [""], sys.gettrace()

    def trace(frame: FrameType, event: str, _: object) -> object:
        if frame.f_code is not code:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            looks = before[0] in ("RESUME", "CALL", "JUMP_BACKWARD")
            before[0] = dis.opname[code.co_code[frame.f_lasti]]
            left[0] -= looks
            if looks and not left[0]:
                raise KeyboardInterrupt
        return trace

    sys.settrace(trace)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            yield left
    finally:
        sys.settrace(former)


def test_interrupt_of_an_end_stops_no_later_one():
    for at in itertools.count(1):
        told = Told()
        first, second = told.take(), told.take()
        with interrupt(Leases.settle.__code__, at) as left:
            first.release()
        second.release()
        assert told.seqs[-1] == told.leases.oldest == 2 * PAIRS, f"interrupted at {at}"
        if left[0] > 0:
            break
    assert at > 5


def test_interrupted_end_is_told_at_the_next_occasion():
    for at in itertools.count(1):
        told = Told()
        lease = told.take()
        with interrupt(Leases.settle.__code__, at) as left:
            lease.release()
        told.leases.settle()
        assert told.seqs[-1] == PAIRS, f"interrupted at {at}"
        if left[0] > 0:
            break


def test_close_waits_for_a_thread_that_is_telling():
    telling, go_on, seqs = threading.Event(), threading.Event(), []

    def tell(seq: int) -> None:
        telling.set()
        assert go_on.wait(60)
        seqs.append(seq)

    leases = Leases(tell, seq=0)
    lease = leases.take(0, 4)
    thread = threading.Thread(target=lease.release)
    thread.start()
    assert telling.wait(60)
    assert not leases.close(blocking=False)
    closing = threading.Thread(target=leases.close)
    closing.start()
    assert seqs == []
    go_on.set()
    closing.join(60)
    assert seqs == [4]
    thread.join(60)
    leases.take(4, 8).release()
    assert seqs == [4]


def test_close_within_telling_does_not_wait_for_itself():
    leases = Leases(lambda _: closed.append(leases.close()), seq=0)
    closed: list[bool] = []
    leases.take(0, 4).release()
    assert closed == [True]


def test_repr_tells_how_many_are_held_from_where(told):
    _kept = [told.take_array(), told.take_array()]
    assert repr(told.leases) == "Leases(2 held, from 0)"

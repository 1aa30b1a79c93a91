"""Rings that share the workers: hungry ones equally, the emptiest first, unread ones from what is left over."""

from __future__ import annotations

import random
import time
from collections import deque
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
from house import Daemon, Output, trainer, wait_until, write_folder
from hypothesis import given
from hypothesis import strategies as st
from order_alone import OrderAlone

import ringfeed
from ringfeed.cli.status import ring_status
from ringfeedd.config import Config, resolve
from ringfeedd.order import make_order
from ringfeedd.ring.fairness import FIRST_PAIRS, NOTHING, Need, divide
from ringfeedd.ring.ring import Ring
from ringfeedd.ring.timeline import Timeline
from ringfeedd.supervisor.state import Surroundings
from ringfeedd.supervisor.supervisor import SHARE_WAIT_S, Supervisor
from ringfeedd.worker.turns import PairTurns

needs = st.builds(
    lambda again, now, ahead, ready, under_way, more, read: Need(
        again, now, ahead, ready + under_way, ready, ready + under_way + more, read
    ),
    st.integers(0, 20),
    st.integers(0, 500),
    st.integers(0, 200),
    st.integers(0, 300),
    st.integers(0, 300),
    st.integers(0, 500),
    st.booleans(),
)


@given(places=st.integers(0, 600), needs=st.lists(needs, min_size=1, max_size=4))
def test_no_place_is_given_twice_or_in_vain(places, needs):
    """And none is kept back, but from rings that nobody reads while a reader is short of pairs."""
    shares = divide(places, needs)
    wants = [need.again + need.now + need.ahead for need in needs]
    assert all(0 <= share <= want for share, want in zip(shares, wants, strict=True))
    if any(need.hungry for need in needs):
        wants = [want if need.read else need.again + need.first for want, need in zip(wants, needs, strict=True)]
    assert sum(shares) == min(places, sum(wants))


@given(places=st.integers(0, 600), needs=st.lists(needs, min_size=2, max_size=4))
def test_no_read_ring_is_left_behind_fuller_ones(places, needs):
    after = [(need.stock + share, need, share) for need, share in zip(needs, divide(places, needs), strict=True)]
    for stock, need, share in after:
        if need.read and share < need.again + need.now:
            assert all(
                other_stock <= stock + 1 or other_share <= other.again
                for other_stock, other, other_share in after
                if other is not need
            )


def test_a_ring_that_wants_nothing_gets_nothing():
    assert divide(100, [NOTHING, NOTHING]) == [0, 0]
    assert divide(100, []) == []


@dataclass
class Stream:
    """A ring, and how many pairs of it its reader takes in a turn; -1: nobody reads."""

    ring: Ring
    appetite: int
    got: int = 0
    since: list[int] = field(default_factory=list)

    @property
    def read(self) -> bool:
        return self.appetite >= 0


def simulate(
    appetites: list[int], *, slots: int, places: int, decodes: int, turns: int, starts: list[int]
) -> list[Stream]:
    """Workers with so many places, which decode so many pairs a turn in the order in which they came."""
    order = make_order("shuffle", length=100_000, seed=0)
    streams = [
        Stream(Ring(str(n), slots=slots, readahead=20, timeline=Timeline(OrderAlone(order))), -1)
        for n in range(len(appetites))
    ]
    rng = random.Random(0)
    queue: deque[tuple[Stream, int]] = deque()
    for turn in range(turns):
        for stream, appetite, start in zip(streams, appetites, starts, strict=True):
            ring = stream.ring
            if turn == start:
                stream.appetite = appetite
            taken = min(max(0, stream.appetite), ring.published - ring.floor)
            ring.release(ring.floor + taken)
            ring.see_front(ring.floor)
            stream.got += taken
            stream.since.append(stream.got)
        shares = divide(places - len(queue), [stream.ring.need(read=stream.read) for stream in streams])
        for stream, share in zip(streams, shares, strict=True):
            queue += [(stream, job.seq) for job in stream.ring.jobs(share)]
        for _ in range(rng.randint(decodes - 1, decodes + 1)):
            found = next((at for at, (stream, seq) in enumerate(queue) if seq < stream.ring.limit), None)
            if found is None:
                break
            stream, seq = queue[found]
            del queue[found]
            stream.ring.finish(seq)
        for stream in streams:
            stream.ring.publish()
    return streams


@pytest.mark.parametrize("slots", [64, 2048])
def test_two_hungry_rings_get_equally_much(slots):
    """Also the one whose reader comes when the other ring has taken every place."""
    streams = simulate([50, 50], slots=slots, places=200, decodes=10, turns=400, starts=[0, 100])
    late = [stream.got - stream.since[140] for stream in streams]
    assert sum(late) >= 0.9 * 260 * 10
    assert min(late) > 0.4 * sum(late)
    assert streams[1].since[125] > 0, "its first pairs wait no longer than the pairs that workers have already"


def test_a_slow_reader_gets_all_it_asks_for():
    slow, hungry = simulate([2, 50], slots=2048, places=200, decodes=10, turns=400, starts=[0, 0])
    assert slow.got > 0.95 * 2 * 380
    assert slow.got + hungry.got > 0.9 * 400 * 10 - 200


def test_an_unread_ring_gets_its_first_pairs_only():
    unread, _ = simulate([0, 50], slots=2048, places=200, decodes=10, turns=300, starts=[10_000, 0])
    assert 0 < unread.ring.published <= FIRST_PAIRS


def test_leftovers_fill_a_ring_that_nobody_reads():
    unread, content = simulate([0, 5], slots=64, places=200, decodes=10, turns=300, starts=[10_000, 0])
    assert unread.ring.published == 64
    assert content.got > 0.95 * 5 * 290


def test_a_ring_without_share_holds_up_no_start():
    """Not before the others have pairs, and not at once: the share mostly comes."""
    train, test = (SimpleNamespace(name=name, ready=False, failed=None) for name in ("train", "test"))
    told: list[str] = []
    supervisor = Supervisor(resolve(Config(root="r")), Surroundings(say=told.append))
    supervisor.services[:] = [train, test]
    assert not supervisor._is_ready(100.0)
    train.ready = True
    assert not supervisor._is_ready(200.0)
    assert not supervisor._is_ready(199.0 + SHARE_WAIT_S)
    assert supervisor._is_ready(200.0 + SHARE_WAIT_S)
    supervisor._announce()
    assert told[0] == "ready: attach to train, test"
    assert told[1].startswith("ring test: no pair is published yet, because the readers of other rings take")
    test.ready = True
    assert supervisor._is_ready(201.0)


def test_rings_take_turns_within_a_worker():
    """Within a worker, whatever came first."""
    turns = PairTurns()
    for ring, pairs in ((0, 100), (2, 3)):
        for seq in range(pairs):
            turns.append(SimpleNamespace(ring=ring, seq=seq))
    came = []
    while turns:
        following = turns[0]
        item = turns.popleft()
        assert item is following
        came.append((item.ring, item.seq))
        if len(came) == 10:
            turns.append(SimpleNamespace(ring=1, seq=0))
    assert came[:8] == [(0, 0), (2, 0), (0, 1), (2, 1), (0, 2), (2, 2), (0, 3), (0, 4)]
    assert came.index((1, 0)) in (10, 11)
    assert [seq for ring, seq in came if ring == 0] == list(range(100))
    with pytest.raises(IndexError):
        turns.popleft()


HUNGRY = """
import sys, ringfeed
with ringfeed.attach(sys.argv[1], batch_size=16) as reader:
    while True:
        for batch in reader:
            if reader.statistics()["batches"] == 100:
                print("hungry", flush=True)
"""


def test_an_evaluator_reads_beside_a_hungry_trainer(tmp_path, ring):
    """More slots than the workers have places, so that the trainer's ring never stops asking."""
    root = write_folder(tmp_path / "root", 64)
    arguments = ("--size", "96x128", "--slots", "1024", "--workers", "1", "--concurrency", "8", "--test-ratio", "0.5")
    with Daemon(str(root), *arguments, ring=ring) as daemon:
        hungry = trainer(HUNGRY, f"{ring}-train")
        try:
            Output(hungry).wait_for("hungry")
            wait_until(lambda: ring_status(f"{ring}-train").filled_slots < 512)
            with ringfeed.attach(f"{ring}-test", batch_size=4, start="now") as reader:
                began, taken = time.monotonic(), 0
                while taken < 1500:  # more than can have been there before
                    for batch in reader:
                        taken += len(batch.ids)
                assert time.monotonic() - began < 240
        finally:
            hungry.kill()
            hungry.communicate()
        assert daemon.process.poll() is None

"""The Python blocks of `shm_layout.md` read a real ring, and requests begin where the page says."""

from __future__ import annotations

import contextlib

import pytest
from document import tables, timeouts
from document_reader import Consumer, NoDaemon, sequences
from ring_fixtures import Served, fake_revision, served_ring

from ringfeed.shm.layout import LANE_RESUMING, LANE_SKIPS, LANE_WAIT, Leaving, RingState, Start, State
from ringfeedd.ring.groups import DEFAULT_LINGER_BLOCKING_S
from ringfeedd.ring.rendezvous import GATHER_S

PAGE = sequences()


@pytest.fixture
def served():
    with served_ring() as served:
        yield served
    while OPEN:
        OPEN.pop().close()


OPEN: list[Consumer] = []
"""What `attach` opened, to be closed after the test."""


def request_of(group: str, **others: int) -> dict[str, int | str]:
    """A group of one, with batches of 4."""
    usual = {"RANK": 0, "WORLD_SIZE": 1, "BATCH_SIZE": 4, "START": Start.AUTO, "START_EPOCH": 0, "START_POSITION": 0}
    usual |= {"FLAGS": 0, "PID": 1, "OWNER": 0, "RUN": 0, "LOOP": 0, "WORKERS": 0}
    return {**usual, **others, "GROUP": group, "GROUP_LENGTH": len(group)}


def attach(served: Served, group: str, **others: int) -> Consumer:
    consumer = Consumer(served.name, served.turn)
    OPEN.append(consumer)
    PAGE.attach(consumer, request_of(group, **others))
    return consumer


def ids(first: int, end: int) -> list[str]:
    return [f"größe/{1000 + number}" for number in range(first, end)]


def read_epoch(consumer: Consumer) -> list[str]:
    found, epoch = [], consumer.block.epoch
    while consumer.block.epoch == epoch:
        found += PAGE.read(consumer)
        PAGE.release(consumer)
    return found


def test_documented_sequences_read_an_epoch_and_detach(served: Served):
    consumer = attach(served, "one")
    assert read_epoch(consumer) == ids(0, 50)
    assert read_epoch(consumer) == ids(0, 50)
    PAGE.detach(consumer, Leaving.LEAVE)
    served.turn()
    assert len(served.service.groups) == 0
    again = attach(served, "one")
    assert again.block.position == 0
    PAGE.detach(again, Leaving.LEAVE)


def test_the_documented_sequences_read_on_through_a_refresh(served: Served):
    consumer = attach(served, "growing", BATCH_SIZE=5)
    served.service.offer(fake_revision(60, fingerprint="a" * 32))
    assert read_epoch(consumer) == ids(0, 50)
    assert read_epoch(consumer) == ids(0, 60)
    PAGE.detach(consumer, Leaving.LEAVE)


def test_the_documented_attach_says_why_it_is_refused(served: Served):
    with pytest.raises(PAGE.Refused, match="batch_size=9"):
        attach(served, "greedy", BATCH_SIZE=9)
    served.turn()
    assert served.memory.lanes[0][0x800] == 0


def test_the_request_here_has_every_documented_word():
    documented = {row[2] for row in tables("Lane page")[0] if row[5].startswith("request")}
    assert documented == set(request_of("any"))


def test_a_constant_nonce_is_not_answered_twice(served: Served, monkeypatch):
    monkeypatch.setattr(Consumer, "random", lambda _: 4711)
    PAGE.detach(attach(served, "first"), Leaving.LEAVE)
    served.turn()
    with pytest.raises(PAGE.Refused):
        attach(served, "second")


def test_the_documented_wait_reads_pairs_before_a_stop(served: Served):
    consumer = attach(served, "last")
    served.memory.set(State.STATE, RingState.STOPPING)
    assert [PAGE.read(consumer) for _ in range(4)] == [ids(i, i + 4) for i in range(0, 16, 4)]
    with pytest.raises(PAGE.Gone):
        PAGE.read(consumer)
    PAGE.detach(consumer, Leaving.LEAVE)


def test_the_documented_resume_continues_at_the_next_pair(served: Served):
    consumer = attach(served, "lives", BATCH_SIZE=8)
    assert PAGE.read(consumer) == ids(0, 8)
    served.memory.set(State.STATE, RingState.STOPPING)
    served.memory._remove_descriptor()
    with pytest.raises(PAGE.Gone):
        [PAGE.read(consumer) for _ in range(9)]
    stood_at = consumer.place[2]
    with served_ring(name=served.name) as following:
        consumer.turn = following.turn
        there = PAGE.resume(consumer)
        assert there.request["FLAGS"] & LANE_RESUMING
        assert PAGE.read(there) == ids(stood_at, stood_at + 8)
        PAGE.detach(there, Leaving.LEAVE)


def test_the_documented_resume_refuses_another_ring(served: Served):
    consumer = attach(served, "strict")
    served.memory._remove_descriptor()
    with served_ring(name=served.name, seed=1) as following:
        consumer.turn = following.turn
        with pytest.raises(PAGE.Differs, match="seed"):
            PAGE.resume(consumer)
    with pytest.raises(NoDaemon):
        consumer.read_descriptor()
    PAGE.detach(consumer, Leaving.LEAVE)


def test_the_documented_skip_loses_whole_blocks_only(served: Served):
    """No pixel of a block that is read is lost."""
    skipping = attach(served, "skips", FLAGS=LANE_SKIPS)
    other = attach(served, "waited-for")
    assert PAGE.read_skipping(skipping) == ids(0, 4)
    for _ in range(6):
        PAGE.read(other)
        PAGE.release(other)
        served.turn()
    floor = served.service.ring.floor
    assert floor > skipping.block.first
    assert PAGE.read_skipping(skipping) == ids(floor, floor + 4)

    def overtake(seq: int) -> None:
        skipping.torn = lambda seq: None
        for _ in range(3):
            PAGE.read(other)
            PAGE.release(other)
            served.turn()

    first = skipping.block.first
    skipping.torn = overtake
    found = PAGE.read_skipping(skipping)
    assert found == ids(served.service.ring.floor, served.service.ring.floor + 4) != ids(first, first + 4)
    for consumer in (skipping, other):
        PAGE.detach(consumer, Leaving.LEAVE)


IDLE, BUSY, KEPT = "idle", "busy", "kept"
"""No group; another group that has released 8 pairs; the kept place of another group there."""


def another_group(served: Served, there: str) -> None:
    if there == IDLE:
        return
    other = attach(served, "other")
    for _ in range(2):
        PAGE.read(other)
        PAGE.release(other)
    served.turn()
    if there == KEPT:
        PAGE.detach(other, Leaving.KEEP_PLACE)


@pytest.mark.parametrize(
    ("there", "start", "begins"),
    [
        (IDLE, Start.AUTO, (0, 0)),
        (IDLE, Start.EPOCH, (0, 0)),
        (IDLE, Start.FOLLOWING, (0, 0)),
        (IDLE, Start.NOW, (0, 0)),
        (IDLE, (3, 20), (3, 20)),
        (BUSY, Start.AUTO, (0, 8)),
        (BUSY, Start.EPOCH, (1, 0)),
        (BUSY, Start.FOLLOWING, (1, 0)),
        (BUSY, Start.NOW, (0, 8)),
        (BUSY, (0, 12), (0, 12)),
        (KEPT, Start.AUTO, (0, 0)),
        (KEPT, Start.EPOCH, (0, 0)),
        (KEPT, Start.NOW, (0, 8)),
        (KEPT, (0, 4), (0, 4)),
    ],
)
def test_a_request_begins_where_the_document_says(served: Served, there, start, begins):
    another_group(served, there)
    before = served.seconds
    where = {"START": start} if isinstance(start, Start) else {"START": Start.AT}
    if not isinstance(start, Start):
        where |= {"START_EPOCH": start[0], "START_POSITION": start[1]}
    consumer = attach(served, "mine", **where)
    assert consumer.place[1:] == begins
    waited = there == KEPT and start is not Start.NOW
    assert (served.seconds - before >= DEFAULT_LINGER_BLOCKING_S) == waited
    assert served.seconds - before < DEFAULT_LINGER_BLOCKING_S + 2 * GATHER_S


@pytest.mark.parametrize(("flags", "outcome"), [(0, "refused"), (LANE_WAIT, "waits"), (LANE_SKIPS, (0, 8))])
def test_a_place_below_the_floor_behaves_as_documented(served: Served, flags, outcome):
    another_group(served, BUSY)
    behind = {"START": Start.AT, "START_POSITION": 4, "FLAGS": flags}
    if outcome == "refused":
        with pytest.raises(PAGE.Refused, match="lies behind ring"):
            attach(served, "mine", **behind)
    elif outcome == "waits":
        with served_until(served, 2 * timeouts()["ANSWER_TIMEOUT_S"]), pytest.raises(TimeoutError):
            attach(served, "mine", **behind)
        assert "until they have left" in served.memory.lanes[1].read_reason()
    else:
        assert attach(served, "mine", **behind).place[1:] == outcome


@contextlib.contextmanager
def served_until(served: Served, seconds: float):
    """Raise TimeoutError in the turn after so many seconds."""
    turn, end = served.turn, served.seconds + seconds

    def turn_until(passed: float = 1.0) -> None:
        if served.seconds > end:
            raise TimeoutError
        turn(passed)

    served.turn = turn_until
    yield
    served.turn = turn


def test_a_restarted_job_begins_with_an_epoch(served: Served):
    another_group(served, BUSY)
    PAGE.detach(attach(served, "mine"), Leaving.KEEP_PLACE)
    served.turn()
    assert attach(served, "mine").place[1:] == (1, 0)


def test_a_killed_process_continues_at_its_owners_place(served: Served):
    killed = attach(served, "mine", OWNER=7)
    PAGE.read(killed)
    PAGE.release(killed)
    killed.close()
    served.turn()
    assert attach(served, "mine", OWNER=7).place[1:] == (0, 4)


def test_the_documented_ranks_share_an_epoch(served: Served):
    ranks = [attach(served, "job", RANK=rank, WORLD_SIZE=3, BATCH_SIZE=2) for rank in range(3)]
    read: list[list[str]] = [[], [], []]
    while ranks[0].block.epoch == 0:
        for consumer, pairs in zip(ranks, read, strict=True):
            pairs.extend(PAGE.read(consumer))
            PAGE.release(consumer)
    assert [len(pairs) for pairs in read] == [17, 17, 17]
    assert read[2][-1] == read[1][-1], "two pairs were left, so rank 2 repeats rank 1's"
    assert sorted({*read[0], *read[1], *read[2]}) == sorted(ids(0, 50))


def test_a_request_without_the_lock_is_not_answered(served: Served):
    consumer = Consumer(served.name, served.turn)
    PAGE.open_ring(consumer)
    consumer.open_lane(0)
    OPEN.append(consumer)
    for word, value in request_of("early").items():
        consumer.lane[word] = value
    consumer.lane["NONCE"] = consumer.random()
    served.turn()
    assert consumer.try_lock(1)
    served.turn(60.0)
    assert consumer.answer_nonce(0) == 0

"""Whatever bytes stand in shared memory, a consumer gets a sentence, and the daemon goes on.

RINGFEED_FUZZ_EXAMPLES=100000 lets hypothesis try as many of each.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ring_fixtures import make_descriptor, served_ring, small_geometry

import ringfeed
from ringfeed.cli.status import ring_status
from ringfeed.errors import NotTrustedError, RingfeedError
from ringfeed.reader import attachment
from ringfeed.shm import layout, segment
from ringfeed.shm.counters import DaemonCounts
from ringfeed.shm.descriptor import Descriptor
from ringfeed.shm.lane import LanePage
from ringfeed.shm.layout import FIRST_LANE_LOCK_BYTE, PAGE_BYTES, Lane, State
from ringfeed.shm.semaphore import Doorbell
from ringfeedd.fetch.health import StoreHealth
from ringfeedd.recovery.predecessor import read_predecessors

fuzz = settings(
    max_examples=int(os.environ.get("RINGFEED_FUZZ_EXAMPLES", "60")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

words = st.one_of(
    st.integers(0, 4),
    st.integers(0, 200),
    st.sampled_from([2**16, 2**32, 2**48 - 1, 2**48, 2**63, 2**64 - 1]),
    st.integers(0, 2**64 - 1),
)
CONSUMERS_WORDS = [value for name, value in vars(Lane).items() if name.isupper() and value < 2048 and name != "NONCE"]
STEP_S = 2.0
"""Much more than a turn takes, and much less than a loop over what a wild word says."""


@pytest.fixture(scope="module")
def served():
    with served_ring(slots=8, lanes=2) as served:
        yield served


class WaitedInVainError(RingfeedError):
    """A wait that is right: the words say that something will come."""


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    waits = itertools.count()

    def wait(bell: Doorbell) -> bool:
        if next(waits) % 5 == 4:
            raise WaitedInVainError
        return bell.take()

    monkeypatch.setattr(attachment, "FREE_LANE_TIMEOUT_S", 0.0)
    monkeypatch.setattr(Doorbell, "wait", wait)


# The descriptor.

JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def paths(value, before=()):
    """Every place in a JSON value."""
    yield before
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inner:
        yield from paths(part, (*before, key))


@fuzz
@given(data=st.data(), junk=JUNK, cut=st.integers(0, 2000))
def test_a_descriptor_is_accepted_entirely_or_refused(data, junk, cut):
    """With a sentence."""
    facts = json.loads(make_descriptor("train", small_geometry()).to_json())
    *outer, key = data.draw(st.sampled_from([path for path in paths(facts) if path]))
    holder = facts
    for part in outer:
        holder = holder[part]
    holder[key] = junk
    text = json.dumps(facts).encode()
    for garbled in (text, text[:cut], text[:cut] + b"\xff" + text[cut:]):
        with contextlib.suppress(NotTrustedError):
            believed = Descriptor.from_json("train", garbled)
            assert 0 < believed.geometry.control_bytes < 1 << 80
            assert Descriptor.from_json("train", believed.to_json()) == believed


# The control segment, as a consumer sees it.


@contextlib.contextmanager
def garbled(served, writes):
    """The control segment with some words of the daemon's changed; put back afterwards."""
    control = served.memory._words
    before = {at: control[at] for at, _ in writes}
    try:
        for at, value in writes:
            control[at] = value
        yield
    finally:
        for at, value in before.items():
            control[at] = value


def words_of(served, first, last):
    return st.lists(st.tuples(st.integers(first >> 3, (last >> 3) - 1), words), max_size=6)


@fuzz
@given(data=st.data())
def test_any_control_segment_is_readable_or_a_sentence(served, data):
    """For status and attach."""
    geometry = served.memory.geometry
    parts = (words_of(served, 0, 300), words_of(served, 4096, 5200), words_of(served, 0, geometry.control_bytes))
    with garbled(served, data.draw(st.one_of(parts))):
        with contextlib.suppress(RingfeedError):
            ring_status(served.name).lines()
        with contextlib.suppress(RingfeedError):
            ringfeed.attach(served.name, batch_size=2, restart_s=0).close()
        look_for_formers(served)
    for page in served.memory.lanes:
        page.free()


def test_a_ring_beyond_all_epochs_has_no_status(served):
    with garbled(served, [(State.BASE_EPOCH >> 3, 2**64 - 1)]), pytest.raises(NotTrustedError, match="restart the"):
        ring_status(served.name)


def look_for_formers(served):
    """As a successor does; what it opens would otherwise stay open, thousands of examples long."""
    for former in read_predecessors(served.name):
        former.control.close()


ANSWER = [Lane.ANSWER, Lane.SEQ, Lane.EPOCH, Lane.POSITION, Lane.REASON_LENGTH]


@fuzz
@given(answer=st.lists(words, min_size=len(ANSWER), max_size=len(ANSWER)))
def test_any_answer_is_readable_or_a_sentence(served, answer):
    read = LanePage.read_answer

    def answered(page, nonce):
        for offset, value in zip(ANSWER, answer, strict=True):
            served.memory.lanes[0][offset] = value
        served.memory.lanes[0][Lane.ANSWER_NONCE] = nonce
        return read(page, nonce)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LanePage, "read_answer", answered)
        try:
            with contextlib.suppress(RingfeedError), ringfeed.attach(served.name, batch_size=2, restart_s=0) as reader:
                assert reader.joined_at == (answer[2], answer[3])
        finally:
            served.memory.lanes[0].free()


@fuzz
@given(data=st.data())
def test_any_slot_records_give_batches_or_a_sentence(served, data):
    """And any ids."""
    geometry = served.memory.geometry
    tables = words_of(served, geometry.slot_table_offset, geometry.slot_table_offset + 64 * geometry.slots)
    ids = words_of(served, geometry.id_table_offset, geometry.id_table_offset + 32)
    writes = data.draw(st.one_of(tables, ids, words_of(served, State.OFFSET, State.OFFSET + 64)))
    reader = attached(served)
    try:
        with garbled(served, writes), contextlib.suppress(RingfeedError):
            reader._delivery._restart_s = 0
            batch = next(iter(reader))
            assert len(batch.ids) == len(batch.image) == 2
            del batch
    finally:
        reader.close()
        served.turn()
        served.turn(1000.0)
        served.turn()


def attached(served):
    """A reader, by a daemon that turns whenever it asks."""
    read = LanePage.read_answer

    def turned(page, nonce):
        served.turn()
        return read(page, nonce)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LanePage, "read_answer", turned)
        return ringfeed.attach(served.name, batch_size=2)


# The lane pages, as the daemon sees them.


class Hostile:
    """A consumer that holds lane 1 and writes what it likes into its half of the page."""

    def __init__(self, served) -> None:
        self.served = served
        self.page = served.memory.lanes[1]
        self.fd = segment.open_lock(served.memory.descriptor.control)
        self.locked = False

    def lock(self) -> None:
        self.locked = segment.try_lock(self.fd, FIRST_LANE_LOCK_BYTE + 1) or self.locked

    def unlock(self) -> None:
        segment.unlock(self.fd, FIRST_LANE_LOCK_BYTE + 1)
        self.locked = False

    def close(self) -> None:
        os.close(self.fd)


@fuzz
@given(data=st.data())
def test_no_hostile_consumer_affects_the_others(data):
    """It neither stops nor stalls the daemon or another reader."""
    with served_ring(slots=8, lanes=2) as served:
        victim, hostile = attached(served), Hostile(served)
        try:
            for _ in range(data.draw(st.integers(1, 8))):
                act = data.draw(st.sampled_from(["ask", "ask", "write", "write", "text", "lock", "unlock"]))
                if act == "ask":
                    hostile.lock()
                    sensible = {Lane.WORLD_SIZE: 1, Lane.BATCH_SIZE: 1, Lane.GROUP_LENGTH: 4}
                    changed = data.draw(st.dictionaries(st.sampled_from(CONSUMERS_WORDS), words, max_size=3))
                    for offset, value in {**dict.fromkeys(CONSUMERS_WORDS, 0), **sensible, **changed}.items():
                        if not Lane.GROUP <= offset < Lane.GROUP + layout.GROUP_BYTES:
                            hostile.page[offset] = value
                    hostile.page[Lane.NONCE] = data.draw(st.integers(1, 2**63))
                elif act == "write":
                    hostile.page[data.draw(st.sampled_from([*CONSUMERS_WORDS, Lane.NONCE]))] = data.draw(words)
                elif act == "text":
                    text = data.draw(st.binary(max_size=2048))
                    hostile.page._bytes[: len(text)] = text
                else:
                    getattr(hostile, act)()
                began = time.monotonic()
                served.turn(data.draw(st.sampled_from([0.1, 1.0, 10.0])))
                look_for_formers(served)
                assert time.monotonic() - began < STEP_S
                assert served.service.failed is None
            hostile.unlock()
            for _ in range(4):
                served.turn(100.0)
            taken = victim.statistics()["batches"]
            for batch in victim:
                assert batch.valid.all()
                del batch
                served.turn()
            assert victim.statistics()["batches"] > taken
        finally:
            victim.close()
            hostile.close()


@fuzz
@given(data=st.data())
def test_no_word_a_member_writes_ends_the_daemon(data):
    """A member of the ring's group may map the whole control segment, the daemon's own words too."""
    with served_ring(slots=8, lanes=2) as served:
        hostile, victim = Hostile(served), attached(served)
        words_there, size = served.memory._words, served.memory.geometry.control_bytes
        lane = served.memory.geometry.lane_offset(0)
        places = st.one_of(
            st.integers(0, 1100), st.integers(lane >> 3, (size >> 3) - 1), st.integers(0, (size >> 3) - 1)
        )
        try:
            hostile.lock()
            for _ in range(data.draw(st.integers(1, 5))):
                for place, word in data.draw(st.dictionaries(places, words, max_size=6)).items():
                    words_there[place] = word
                if data.draw(st.booleans()):
                    at = data.draw(st.integers(0, size - 2048))
                    served.memory._bytes[at : at + 2048] = data.draw(st.randoms()).randbytes(2048)
                served.turn(data.draw(st.sampled_from([0.1, 1.0, 10.0])))
                served.service.report(DaemonCounts(workers=1), StoreHealth())
                served.service.refresh.refuse("no")
                look_for_formers(served)
                assert served.service.failed is None
            hostile.unlock()
        finally:
            with contextlib.suppress(RingfeedError):
                victim.close()
            hostile.close()


def test_the_daemon_counts_in_its_own_memory(served):
    reader = attached(served)
    page = served.memory.lanes[0]
    for place in (State.REFRESHES >> 3, State.PUBLISHED >> 3):
        served.memory._words[place] = 2**64 - 1
    page[Lane.POSTED] = 2**64 - 1
    served.service.refresh.refuse("no")
    served.service.report(DaemonCounts(workers=1), StoreHealth())
    assert served.memory._words[State.PUBLISHED >> 3] == served.service.ring.published
    assert served.memory._words[State.REFRESHES >> 3] == 1
    for batch in reader:
        assert batch.valid.all()
        del batch
        served.turn()
    assert 0 < page[Lane.POSTED] < 100
    reader.close()
    served.turn()


PROGRESS = [offset for offset in CONSUMERS_WORDS if offset >= Lane.TAKEN and offset != Lane.LEAVING]


@pytest.mark.parametrize("claim", [2**48, 2**63 - 1, 2**63, 2**64 - 1])
def test_no_progress_a_member_claims_ends_the_daemon(claim):
    """All words at once: each alone is bounded by the others, and the sums over them are the daemon's own."""
    with served_ring(slots=8, lanes=2) as served:
        for _ in range(3):  # what one has claimed stays counted
            reader, page = attached(served), served.memory.lanes[0]
            for offset in PROGRESS:
                page[offset] = claim
            served.turn(10.0)
            served.service.report(DaemonCounts(workers=1), StoreHealth())
            ring_status(served.name).lines()
            assert served.service.failed is None
            reader.close()
            served.turn(10.0)
            served.service.report(DaemonCounts(workers=1), StoreHealth())
        assert served.service.counters.delivered_pairs <= 3 * served.service.ring.published


@pytest.mark.parametrize("value", [-1, 2**64, 2**70])
def test_a_number_beyond_a_word_becomes_the_nearest(served, value):
    served.memory.set(State.HEARTBEAT_NS, value)
    assert served.memory._words[State.HEARTBEAT_NS >> 3] == (0 if value < 0 else 2**64 - 1)


def test_the_fuzz_knows_the_size_of_a_lane():
    assert max(CONSUMERS_WORDS) < PAGE_BYTES // 2

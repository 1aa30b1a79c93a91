"""First reads: when there are none, what ends them, and that nothing is left of them."""

from __future__ import annotations

import asyncio
import gc

import google_crc32c
import pytest
from gcs_fixtures import ManualClock

from ringfeedd.catalog import Pair
from ringfeedd.circuit import FAILURES_TO_DOUBT
from ringfeedd.fetch import Fetched, FetchPolicy, FirstFailure
from ringfeedd.first_reads import FirstReads, PairReads
from ringfeedd.sources import ObjectInfo, SourceError
from ringfeedd.traffic import Traffic

IMAGE, LABEL = b"image" * 100, b"label" * 30


def info(name, data):
    return ObjectInfo(name, len(data), 1, google_crc32c.value(data))


PAIR = Pair("1", info("i", IMAGE), info("l", LABEL))


class Store:
    """Keeps what was asked, to be answered by the test."""

    def __init__(self):
        self.asked, self.cancelled = {}, []

    def begin_read(self, name, _generation, _max_bytes, on_end):
        self.asked[name] = on_end
        return lambda _request=on_end: self.cancelled.append(name)  # which knows whom to tell, as a request does

    async def read(self, *_):
        raise AssertionError("these tests begin reads")


class Reads:
    def __init__(self, *, policy=None, **traffic):
        self.store, self.clock = Store(), ManualClock()
        self.clock.now = 0.0
        self.traffic = Traffic(self.store, clock=self.clock, **traffic)
        self.first = FirstReads(self.traffic, self.store.begin_read, policy or FetchPolicy(deadline_s=100.0))
        self.came = []

    def begin(self, pair=PAIR):
        return self.first.begin(pair, self.came.append)

    def idle(self):
        """Whether nothing of any pair is under way, by everybody's count."""
        return "0 in flight" in repr(self.traffic) and repr(self.first) == "FirstReads(0 pairs)"


def failed(cause="http_503", *, retryable=True):
    return SourceError(f"It failed: {cause}.", cause=cause, retryable=retryable)


def test_a_pair_that_comes_whole_is_two_requests_and_nothing_is_left_of_them():
    reads = Reads()
    reads.begin()
    reads.store.asked["l"](LABEL)
    assert not reads.came
    reads.store.asked["i"](IMAGE)
    assert reads.came == [Fetched(IMAGE, LABEL)]
    assert reads.idle()
    assert reads.traffic.statistics().requests == 2


def test_what_fails_counts_as_an_attempt_and_what_came_is_kept():
    reads = Reads(known=[info("known", b"1")])
    reads.clock.now = 7.0
    reads.begin()
    reads.store.asked["i"](failed())
    reads.store.asked["l"](LABEL)
    ((image, label),) = reads.came
    assert isinstance(image, FirstFailure)
    assert (image.error.cause, image.began, label) == ("http_503", 7.0, LABEL)
    assert reads.idle()


def test_bytes_that_are_not_those_that_were_listed_are_a_failure():
    reads = Reads()
    reads.begin()
    reads.store.asked["i"](b"x" + IMAGE[1:])
    reads.store.asked["l"](LABEL[1:])
    ((image, label),) = reads.came
    assert (image.error.cause, label.error.cause) == ("crc32c", "size")


def test_a_final_failure_ends_the_other_read():
    reads = Reads()
    reads.begin()
    reads.store.asked["l"](failed("missing", retryable=False))
    ((image, label),) = reads.came
    assert (image, label.error.cause, reads.store.cancelled) == (None, "missing", ["i"])
    assert reads.idle()


def test_a_refused_token_is_no_failure_and_the_object_is_asked_for_anew():
    reads = Reads()
    reads.begin()
    reads.store.asked["l"](LABEL)
    reads.store.asked["i"](failed("unauthorized", retryable=False))
    assert reads.came == [(None, LABEL)]
    assert reads.traffic.statistics().cause == ""


def test_what_is_stored_gzipped_is_left_to_be_unpacked():
    packed = b"\x1f\x8b" + IMAGE
    reads = Reads()
    reads.begin(Pair("1", info("i", packed), info("l", LABEL)))
    reads.store.asked["i"](packed)
    reads.store.asked["l"](LABEL)
    assert reads.came == [(packed, LABEL)]


def test_reads_are_cut_at_their_deadline():
    reads = Reads()
    reads.begin()
    reads.store.asked["l"](LABEL)
    reads.clock.now = 99.0
    reads.first.cut_late()
    assert not reads.came
    reads.clock.now = 101.0
    reads.first.cut_late()
    ((image, label),) = reads.came
    assert str(image.error) == "i was not there within 100 s."
    assert (image.error.cause, label, reads.store.cancelled) == ("deadline", LABEL, ["i"])
    assert reads.idle()


def test_nobody_is_told_of_what_was_cancelled():
    reads = Reads()
    begun = reads.begin()
    reads.store.asked["i"](IMAGE)
    begun.cancel()
    begun.cancel()
    assert (reads.came, reads.store.cancelled) == ([], ["l"])
    assert reads.idle()


@pytest.mark.parametrize("why", ["hedging", "ramp", "circuit", "size", "source"])
def test_where_there_is_something_to_wait_for_nothing_is_asked(why):
    policy = FetchPolicy(max_object_bytes=100) if why == "size" else None
    reads = Reads(hedge=why == "hedging", requests_per_s=5000.0, policy=policy, known=[info("known", b"1")])

    async def story():
        if why == "ramp":
            while reads.traffic._ramp.is_free(0.0):
                reads.traffic._ramp.take(0.0)
        if why == "circuit":
            for _ in range(FAILURES_TO_DOUBT):
                reads.traffic.failed(failed(), 0.0)
        if why == "source":
            reads.first._begin_read = lambda *_: None
        assert reads.begin() is None
        await reads.traffic.close()

    asyncio.run(story())
    assert reads.store.asked == {}
    assert reads.idle()


@pytest.mark.parametrize("where", ["i", "l"])
def test_a_source_that_stumbles_over_a_name_leaves_nothing_under_way(where):
    reads = Reads()
    begin_read = reads.first._begin_read

    def stumble(name, *rest):
        if name == where:
            raise UnicodeError(name)
        return begin_read(name, *rest)

    reads.first._begin_read = stumble
    with pytest.raises(UnicodeError):
        reads.begin()
    assert reads.idle()
    assert reads.store.cancelled == list(reads.store.asked)


def test_an_ended_pair_is_gone_at_once_and_waits_for_no_collection_with_its_bytes():
    reads = Reads()
    gc.collect()
    gc.disable()
    try:
        for _ in range(50):
            reads.begin()
            reads.store.asked.pop("i")(IMAGE)
            reads.store.asked.pop("l")(LABEL)
        assert len(reads.came) == 50
        assert not [one for one in gc.get_objects() if type(one) is PairReads]
    finally:
        gc.enable()

"""Fetching a pair: what is verified, what is tried again, what is given up, what is cut. In virtual time."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import random
import re
from collections import Counter

import google_crc32c
import pytest
from hypothesis import given
from hypothesis import strategies as st
from store_sim import SimClock
from transports import TRANSPORTS

from ringfeedd.catalog.catalog import Pair
from ringfeedd.catalog.listing import build_catalog
from ringfeedd.catalog.templates import KeyTemplates
from ringfeedd.errors import BadPairError
from ringfeedd.fakegcs import FakeGcs, Fault
from ringfeedd.fetch.client import StoreClient, fetch_pair
from ringfeedd.fetch.policy import Fetched, FetchPolicy
from ringfeedd.storage import ObjectInfo, SourceError, StoreSettings, open_source
from ringfeedd.storage.retry import Backoff
from ringfeedd.storage.transport.http_errors import MAX_RETRY_AFTER_S, retry_after_s

IMAGE, LABEL = b"\xff\xd8" + b"image" * 100, b"\x89PNG" + b"label" * 30
LATENCY_S = 0.01


class ScriptedSource:
    """Each read takes the next thing from its object's list: bytes, an error, or, for a body, its bytes per second."""

    root = "mem://set"

    def __init__(self, clock, image=(IMAGE,), label=(LABEL,)):
        self.clock = clock
        self.script = {"i": list(image), "l": list(label)}
        self.reads, self.times, self.under_way = Counter(), [], 0

    def begin_read(self, name, generation, max_bytes, on_end):
        self.reads[name] += 1
        self.times.append((name, self.clock.now))
        steps = self.script[name]
        step = steps.pop(0) if len(steps) > 1 else steps[0]
        if isinstance(step, ZeroDivisionError):
            raise step
        self.under_way += 1
        return ScriptedRead(self, step, on_end)


class ScriptedRead:
    def __init__(self, source, step, on_end):
        self.source, self.on_end, self.step, self.began = source, on_end, step, source.clock.now
        self.timer = source.clock.call_later(1e9 if isinstance(step, int) else LATENCY_S, self.end)

    @property
    def received(self):
        return int((self.source.clock.now - self.began) * self.step) if isinstance(self.step, int) else 0

    def end(self):
        self.source.under_way -= 1
        self.on_end(self.step)

    def cancel(self):
        if self.timer.callback is not None:
            self.timer.cancel()
            self.source.under_way -= 1


HANGS = 0


def info(name, data):
    return ObjectInfo(name, len(data), 1, google_crc32c.value(data))


def pair_of(image=IMAGE, label=LABEL):
    return Pair("id", info("i", image), info("l", label))


def failing(cause="http_503", *, retryable=True, retry_after_s=None):
    return SourceError(f"It failed: {cause}.", cause=cause, retryable=retryable, retry_after_s=retry_after_s)


class Story:
    """A client over a scripted source. Others are answered all the time, unless there is an outage."""

    def __init__(self, image=(IMAGE,), label=(LABEL,), *, pair=None, seed=0, others=True, **policy):
        self.clock = SimClock()
        self.source = ScriptedSource(self.clock, image, label)
        chosen = {"max_attempts": 4, "base_delay_s": 1.0, "max_delay_s": 5.0, "deadline_s": 1000.0, **policy}
        rng = random.Random(seed)
        self.client = StoreClient(self.source, FetchPolicy(**chosen), clock=self.clock, rng=rng)
        self.came = []
        self.others = others
        self._answer()
        self.download = self.client.fetch(pair or pair_of(), self.came.append)

    def _answer(self):
        if self.others:
            self.client.window.answered(self.clock.now, self.clock.now)
        self.clock.call_later(0.005, self._answer)

    def run(self, seconds=2000.0):
        end = self.clock.now + seconds
        while not self.came and self.clock.now < end:
            self.clock.run(1.0)
        return self

    @property
    def fetched(self):
        (came,) = self.came
        assert isinstance(came, Fetched)
        return came

    @property
    def error(self):
        (came,) = self.came
        assert isinstance(came, BadPairError)
        return came


def test_a_pair_without_trouble_is_two_reads():
    story = Story().run()
    assert story.fetched == Fetched(IMAGE, LABEL, attempts=1, retries={})
    assert story.source.reads == {"i": 1, "l": 1}
    assert story.source.times[0][1] == story.source.times[1][1]


def test_each_retried_failure_is_counted_by_its_cause():
    flipped = IMAGE[:50] + b"x" + IMAGE[51:]
    story = Story([failing("reset"), flipped, IMAGE[:-1], IMAGE], [failing("http_503"), LABEL]).run()
    assert (story.fetched.image, story.fetched.label, story.fetched.attempts) == (IMAGE, LABEL, 4)
    assert story.fetched.retries == {"reset": 1, "crc32c": 1, "size": 1, "http_503": 1}


@given(st.integers(0, len(IMAGE) * 8 - 1))
def test_no_flipped_bit_comes_through(bit):
    damaged = bytearray(IMAGE)
    damaged[bit // 8] ^= 1 << bit % 8
    assert Story([bytes(damaged)], max_attempts=1).run().error.cause == "crc32c"


def test_without_a_listed_checksum_the_size_is_compared():
    pair = Pair("id", ObjectInfo("i", len(IMAGE)), ObjectInfo("l", len(LABEL)))
    assert Story([b"x" * len(IMAGE)], pair=pair).run().fetched.image == b"x" * len(IMAGE)
    assert Story([b"x"], pair=pair).run().error.cause == "size"


def stored(data):
    """An object whose content was listed so, and arrives so."""
    return {"image": [data], "pair": pair_of(image=data)}


PACKED = gzip.compress(IMAGE)


BOMB = gzip.compress(bytes(10**6))
SOON = {"deadline_s": 5, "base_delay_s": 0.1, "label": [LABEL]}


@pytest.mark.parametrize(
    ("options", "cause", "says"),
    [
        ({"image": [b"<!DOCTYPE html>"]}, "html", "After 4 attempts: i came with 15 bytes instead of 502; .*DOCTYPE"),
        ({"image": [failing("missing", retryable=False)]}, "missing", "^It failed: missing"),
        ({"image": [ZeroDivisionError("a defect")]}, "internal", "^i: ZeroDivisionError: a defect"),
        ({"max_object_bytes": len(IMAGE) - 1}, "too_large", "^i: 502 bytes are more than 501"),
        (stored(BOMB) | {"max_object_bytes": 10**5}, "too_large", "^i is stored gzipped, and unpacks to over 100,000"),
        (stored(PACKED[:-9]), "gzip", "^i is stored gzipped, and does not unpack: it ends too early"),
        (stored(b"\x1f\x8bnone"), "gzip", "^i is stored gzipped, and does not unpack: .*method"),
        (SOON | {"image": [failing("reset"), HANGS]}, "deadline", "After 2 attempts: i .* within 5 s. Before that: It"),
        (SOON | {"image": [failing("http_429")]}, "http_429", "It failed"),
    ],
)
def test_what_fails_for_good_ends_the_pair(options, cause, says):
    """And the other read."""
    story = Story(**{"label": [HANGS]} | options).run()
    assert story.error.cause == cause
    assert re.search(says, str(story.error))
    assert story.source.under_way == story.client.under_way == story.client.wanted == 0


def test_waits_are_full_jitter_under_a_growing_ceiling():
    waits = []
    for seed in range(200):
        story = Story([failing()], [HANGS], seed=seed, max_attempts=6).run(100)
        times = [at for name, at in story.source.times if name == "i"]
        waits.append([after - before - LATENCY_S for before, after in itertools.pairwise(times)])
    for number, ceiling in enumerate([1, 1.6, 2.56, 4.096, 5]):
        column = [wait[number] for wait in waits]
        assert 0 <= min(column) < 0.1 * ceiling + LATENCY_S
        assert 0.9 * ceiling < max(column) <= ceiling + 1e-6


def test_what_the_server_asks_for_is_waited():
    story = Story([failing(retry_after_s=30), IMAGE]).run()
    first, second = (at for name, at in story.source.times if name == "i")
    assert 30 <= second - first <= 31.1


def test_a_wait_never_exceeds_the_deadline():
    story = Story([failing(retry_after_s=30)], deadline_s=100, max_attempts=50).run()
    assert story.clock.now <= 1000 + 102
    assert story.source.reads["i"] == 5
    assert story.error.cause == "http_503"


@pytest.mark.parametrize(
    ("bytes_per_s", "cause", "within_s"),
    [(HANGS, "timeout", 7), (1000, "slow", 12), (3000, "timeout", 42), (10**6, "timeout", 42)],
)
def test_a_trickling_body_is_cut_and_retried(bytes_per_s, cause, within_s):
    story = Story([bytes_per_s, IMAGE], attempt_s=40).run()
    assert story.fetched.retries == {cause: 1}
    assert within_s - 3 < story.clock.now - 1000 <= within_s + 1


def test_a_rate_limit_answer_is_no_attempt():
    later = [failing("http_429")] * 20
    story = Story([*later, IMAGE], max_attempts=2, max_delay_s=0.1).run()
    assert story.fetched.retries == {"http_429": 20}


@pytest.mark.parametrize("state", ["under way", "pausing", "waiting"])
def test_cancelling_leaves_nothing_running(state):
    step = failing(retry_after_s=60) if state == "pausing" else HANGS
    story = Story([step], [HANGS])
    if state == "waiting":
        story.client.window.size = 1.0
        story.download = story.client.fetch(pair_of(), story.came.append)
    story.clock.run(0.5)
    story.client.close()
    story.clock.run(100)
    assert story.source.under_way == story.client.under_way == 0
    assert story.came == []


def test_a_gzipped_object_is_unpacked():
    assert Story(**stored(PACKED)).run().fetched.image == IMAGE


def test_a_client_told_to_wait_says_so():
    """Nothing is under way meanwhile, and "the store answers" would hide why nothing comes."""
    story = Story([failing("http_429", retry_after_s=60), HANGS])
    story.clock.run(30)
    assert story.client.under_way == 0
    report = story.client.report()
    assert report.pace > 0
    assert not report.down
    story.clock.run(40)
    assert story.client.under_way == 1
    assert story.client.report().pace == 0


# -- the object that everybody waits for


def late(story):
    story.clock.run(4.0)
    story.client.hurry(story.download)
    return story


def test_a_late_object_gets_one_second_request():
    """The first answer counts."""
    story = late(Story([HANGS, IMAGE]))
    assert story.source.reads == {"i": 2, "l": 1}
    late(story).run(1)
    assert story.fetched == Fetched(IMAGE, LABEL)
    assert story.source.reads == {"i": 2, "l": 1}
    assert story.source.under_way == story.client.under_way == 0
    counts = story.client.report().counts
    assert (counts.second, counts.second_won) == (1, 1)


def test_two_late_attempts_allow_another_second_request():
    """Else the ring would wait for the third as long as for the first two, until it is cut."""
    story = late(Story([HANGS, HANGS, HANGS, IMAGE], read_timeout_s=8, attempt_s=20))
    while story.source.reads["i"] < 3:
        story.clock.run(0.1)
    began = story.clock.now
    late(story).clock.run(1)
    assert story.fetched.image == IMAGE
    assert story.clock.now - began <= 6.2
    assert story.source.under_way == story.client.under_way == 0


def test_a_failed_second_request_leaves_the_first():
    story = late(Story([HANGS, failing("reset"), IMAGE], read_timeout_s=8, attempt_s=20)).run()
    assert story.fetched.image == IMAGE
    assert story.fetched.retries == {"reset": 1, "timeout": 1}
    assert story.source.reads["i"] == 3


def test_a_punctual_object_gets_no_second_request():
    story = Story([HANGS])
    story.clock.run(0.9)
    story.client.hurry(story.download)
    assert story.source.reads == {"i": 1, "l": 1}


@pytest.mark.parametrize(
    ("refused", "reads"),
    [(failing("http_429"), 31), (failing("http_429", retry_after_s=50), 1), (failing("http_503"), 4)],
)
def test_a_hurried_pair_is_not_kept_by_pauses(refused, reads):
    """Those after a limit; what the store told it to wait is kept to, and so is what a sick store gets to recover."""
    story = Story([refused] * 1000, base_delay_s=10, max_delay_s=10)
    for _ in range(30):
        story.clock.run(0.1)
        story.client.hurry(story.download, soon=True)
    assert story.source.reads["i"] <= 4
    before = story.source.reads["i"]
    for _ in range(30):
        story.client.hurry(story.download)
        story.clock.run(0.1)
    assert before <= story.source.reads["i"] <= before + reads


# -- others


def test_the_backoff_does_not_overflow():
    assert 0 <= Backoff(max_attempts=10**6).wait_s(10**5, None, random.Random(0)) <= 8


def test_retry_after_is_seconds_or_date_and_bounded():
    assert retry_after_s({}) is None
    assert retry_after_s({"Retry-After": "1.5"}) == 1.5
    assert retry_after_s({"Retry-After": "Wed, 21 Oct 2099 07:28:00 GMT"}) == MAX_RETRY_AFTER_S
    assert retry_after_s({"Retry-After": "3600"}) == MAX_RETRY_AFTER_S == 60.0


@pytest.mark.parametrize(
    "said",
    ["Wed, 21 Oct 2015 07:28:00 GMT", "-3", "nan", "inf", "-inf", "1e999", "soon", "", "Wed, 32 Oct 2099 07:28:00 GMT"],
)
def test_a_senseless_retry_after_is_ignored(said):
    assert retry_after_s({"Retry-After": said}) is None


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_failing_server_delivers_every_pair(transport):
    rng = random.Random(5)
    objects = {}
    for number in range(25):
        objects[f"p/images/{number}.jpg"] = rng.randbytes(2000)
        objects[f"p/labels/{number}.png"] = rng.randbytes(500)
    kinds = ["status", "reset", "truncate", "short", "flip", "html", "redirect"]
    faults = [Fault(kind, 0.05) for kind in kinds]
    policy = FetchPolicy(max_attempts=12, base_delay_s=0.002, max_delay_s=0.01, deadline_s=20)

    async def story():
        async with FakeGcs({"b": objects}, faults, seed=3) as server:
            source = await open_source(
                "gs://b/p", StoreSettings(emulator=server.url, concurrency=8, transport=transport)
            )
            client = StoreClient(source, policy)
            try:
                catalog = await build_catalog(source, KeyTemplates.parse())
                pairs = [catalog.pair(index) for index in range(len(catalog))]
                return pairs, await asyncio.gather(*(fetch_pair(client, pair) for pair in pairs))
            finally:
                client.close()
                await source.close()

    pairs, fetched = asyncio.run(asyncio.wait_for(story(), 30))
    assert len(pairs) == 25
    for pair, one in zip(pairs, fetched, strict=True):
        assert one.image == objects[f"p/images/{pair.id}.jpg"]
        assert one.label == objects[f"p/labels/{pair.id}.png"]
    causes = set().union(*(one.retries for one in fetched))
    assert causes >= {"http_503", "truncated", "size", "crc32c", "redirect"}

"""Fetching a pair: what is verified, what is tried again, what is given up."""

import asyncio
import gzip
import random

import google_crc32c
import pytest
from data_planes import DATA_PLANES
from fetch_ways import BY_TASKS_ONLY, WAYS
from gcs_fixtures import ManualClock
from hypothesis import given
from hypothesis import strategies as st

from ringfeedd.catalog import Pair
from ringfeedd.errors import BadPairError
from ringfeedd.fakegcs import FakeGcs, Fault
from ringfeedd.fetch import Fetched, FetchPolicy, fetch_pair
from ringfeedd.keys import KeyTemplates
from ringfeedd.listing import build_catalog
from ringfeedd.sources import ObjectInfo, SourceError, open_source
from ringfeedd.sources.backoff import Backoff
from ringfeedd.sources.http_errors import MAX_RETRY_AFTER_S, retry_after_s
from ringfeedd.traffic import Traffic

IMAGE, LABEL = b"\xff\xd8" + b"image" * 100, b"\x89PNG" + b"label" * 30


@pytest.fixture(autouse=True, params=WAYS)
def way(request, monkeypatch):
    """Every test here holds however a pair is fetched."""
    monkeypatch.setitem(globals(), "fetch_pair", WAYS[request.param])
    return request.param


class ScriptedSource:
    """Each read takes the next thing from its object's list: bytes, an error, or an awaitable to wait for."""

    root = "mem://set"

    def __init__(self, image=(IMAGE,), label=(LABEL,)):
        self.script = {"i": list(image), "l": list(label)}
        self.reads, self.reading = [], 0

    async def read(self, name, generation, max_bytes=None):
        self.reads.append(name)
        step = self.script[name].pop(0) if len(self.script[name]) > 1 else self.script[name][0]
        self.reading += 1
        try:
            if isinstance(step, asyncio.Event):
                await step.wait()
                return IMAGE if name == "i" else LABEL
        finally:
            self.reading -= 1
        if isinstance(step, Exception):
            raise step
        return step


def pair_of(image=IMAGE, label=LABEL):
    infos = [ObjectInfo(name, len(data), 1, google_crc32c.value(data)) for name, data in (("i", image), ("l", label))]
    return Pair("id", *infos)


def fetch(source, pair=None, clock=None, seed=0, **policy):
    clock = clock or ManualClock()
    chosen = FetchPolicy(**{"max_attempts": 4, "base_delay_s": 1.0, "max_delay_s": 5.0, "deadline_s": 1000.0, **policy})

    async def story():
        traffic = Traffic(source, clock=clock, rng=random.Random(seed))
        return await fetch_pair(traffic, pair or pair_of(), chosen)

    return asyncio.run(story())


def failing(cause="http_503", *, retryable=True, retry_after_s=None):
    return SourceError(f"It failed: {cause}.", cause=cause, retryable=retryable, retry_after_s=retry_after_s)


def test_a_pair_without_trouble_is_two_reads():
    source = ScriptedSource()
    assert fetch(source) == Fetched(IMAGE, LABEL, attempts=1, retries={})
    assert source.reads == ["i", "l"]


def test_image_and_label_are_read_at_the_same_time():
    async def story():
        gate = asyncio.Event()
        source = ScriptedSource([gate], [gate])
        task = asyncio.create_task(fetch_pair(Traffic(source), pair_of(), FetchPolicy()))
        while source.reading < 2:  # noqa: ASYNC110 - the script has no event for it
            await asyncio.sleep(0)
        gate.set()
        return await task

    assert asyncio.run(asyncio.wait_for(story(), 5)).image == IMAGE


def test_each_failure_that_is_tried_again_is_counted_by_its_cause():
    flipped = IMAGE[:50] + b"x" + IMAGE[51:]
    source = ScriptedSource([failing("reset"), flipped, IMAGE[:-1], IMAGE], [failing("http_503"), LABEL])
    fetched = fetch(source)
    assert (fetched.image, fetched.label, fetched.attempts) == (IMAGE, LABEL, 4)
    assert fetched.retries == {"reset": 1, "crc32c": 1, "size": 1, "http_503": 1}


@given(st.integers(0, len(IMAGE) * 8 - 1))
def test_no_flipped_bit_comes_through(bit):
    damaged = bytearray(IMAGE)
    damaged[bit // 8] ^= 1 << bit % 8
    with pytest.raises(BadPairError) as caught:
        fetch(ScriptedSource([bytes(damaged)]), max_attempts=1)
    assert caught.value.cause == "crc32c"


def test_a_page_of_html_shows_in_the_sentence():
    with pytest.raises(BadPairError, match="DOCTYPE") as caught:
        fetch(ScriptedSource([b"<!DOCTYPE html>"]))
    assert (caught.value.cause, caught.value.attempts) == ("html", 4)
    assert str(caught.value).startswith("After 4 attempts: i came with 15 bytes")


def test_without_a_checksum_in_the_listing_the_size_is_still_compared():
    pair = Pair("id", ObjectInfo("i", len(IMAGE)), ObjectInfo("l", len(LABEL)))
    assert fetch(ScriptedSource([b"x" * len(IMAGE)]), pair).image == b"x" * len(IMAGE)
    with pytest.raises(BadPairError):
        fetch(ScriptedSource([b"x"]), pair)


@pytest.mark.parametrize("cause", ["missing", "forbidden", "changed"])
def test_a_final_failure_is_tried_once_and_ends_the_other_read(cause):
    async def story():
        source = ScriptedSource([failing(cause, retryable=False)], [asyncio.Event()])
        with pytest.raises(BadPairError, match="It failed") as caught:
            await fetch_pair(Traffic(source), pair_of(), FetchPolicy())
        assert (caught.value.cause, caught.value.attempts) == (cause, 1)
        assert source.reads.count("i") == 1
        assert source.reads.count("l") <= 1
        assert source.reading == 0

    asyncio.run(asyncio.wait_for(story(), 5))


def test_waits_are_full_jitter_under_a_doubling_and_capped_ceiling():
    waits = []
    for seed in range(200):
        clock = ManualClock()
        with pytest.raises(BadPairError):
            fetch(ScriptedSource([failing()]), clock=clock, seed=seed, max_attempts=6)
        waits.append(clock.slept)
    for number, ceiling in enumerate([1, 2, 4, 5, 5]):
        column = [wait[number] for wait in waits]
        assert 0 <= min(column) < 0.1 * ceiling
        assert 0.9 * ceiling < max(column) <= ceiling


def test_what_the_server_asks_for_is_waited_at_least():
    clock = ManualClock()
    fetch(ScriptedSource([failing(retry_after_s=30), IMAGE]), clock=clock)
    assert 30 <= clock.slept[0] <= 31


def test_no_wait_is_begun_that_would_end_after_the_deadline():
    clock = ManualClock()
    with pytest.raises(BadPairError) as caught:
        fetch(ScriptedSource([failing(retry_after_s=30)]), clock=clock, deadline_s=100, max_attempts=50)
    assert clock.now <= 200
    assert len(clock.slept) == 3
    assert caught.value.cause == "http_503"


def test_a_read_that_hangs_is_cut_at_the_deadline_with_what_went_before():
    async def story():
        source = ScriptedSource([failing("reset"), asyncio.Event()])
        with pytest.raises(BadPairError, match=r"i was not there within 0\.05 s; before that: It failed") as caught:
            await fetch_pair(Traffic(source), pair_of(), FetchPolicy(deadline_s=0.05, base_delay_s=0))
        assert (caught.value.cause, caught.value.attempts) == ("deadline", 2)
        assert source.reading == 0

    asyncio.run(asyncio.wait_for(story(), 5))


@pytest.mark.parametrize("hanging_in", ["read", "wait"])
def test_cancelling_leaves_nothing_running(hanging_in):
    async def story():
        step = asyncio.Event() if hanging_in == "read" else failing(retry_after_s=60)
        source = ScriptedSource([step], [asyncio.Event()])
        before = asyncio.all_tasks()
        task = asyncio.create_task(fetch_pair(Traffic(source), pair_of(), FetchPolicy(deadline_s=600)))
        while len(source.reads) < 2:  # noqa: ASYNC110 - the script has no event for it
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert source.reading == 0
        assert asyncio.all_tasks() == before

    asyncio.run(asyncio.wait_for(story(), 5))


@BY_TASKS_ONLY
def test_a_bug_in_a_source_is_no_bad_pair():
    with pytest.raises(ZeroDivisionError):
        fetch(ScriptedSource([ZeroDivisionError()]))


def test_an_object_over_the_limit_is_not_even_read():
    source = ScriptedSource()
    with pytest.raises(BadPairError) as caught:
        fetch(source, max_object_bytes=len(IMAGE) - 1)
    assert caught.value.cause == "too_large"
    assert "i" not in source.reads


def test_an_object_stored_gzipped_is_unpacked_within_the_limit():
    stored = gzip.compress(IMAGE)
    assert fetch(ScriptedSource([stored]), pair_of(image=stored)).image == IMAGE
    for odd, cause in ((gzip.compress(bytes(10**6)), "too_large"), (stored[:-9], "gzip"), (b"\x1f\x8bnone", "gzip")):
        with pytest.raises(BadPairError) as caught:
            fetch(ScriptedSource([odd]), pair_of(image=odd), max_object_bytes=10**5)
        assert caught.value.cause == cause


def test_the_backoff_does_not_overflow():
    assert 0 <= Backoff(max_attempts=10**6).wait_s(10**5, None, random.Random(0)) <= 8


def test_retry_after_is_read_as_seconds_and_as_a_date_and_bounded():
    assert retry_after_s({}) is None
    assert retry_after_s({"Retry-After": "1.5"}) == 1.5
    assert retry_after_s({"Retry-After": "Wed, 21 Oct 2099 07:28:00 GMT"}) == MAX_RETRY_AFTER_S
    assert retry_after_s({"Retry-After": "3600"}) == MAX_RETRY_AFTER_S == 60.0


@pytest.mark.parametrize(
    "said",
    ["Wed, 21 Oct 2015 07:28:00 GMT", "-3", "nan", "inf", "-inf", "1e999", "soon", "", "Wed, 32 Oct 2099 07:28:00 GMT"],
)
def test_a_retry_after_without_a_sensible_time_is_ignored(said):
    assert retry_after_s({"Retry-After": said}) is None


@pytest.mark.parametrize("plane", DATA_PLANES)
def test_every_pair_of_a_bucket_comes_whole_through_a_server_that_fails_every_third_time(plane):
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
            source = await open_source("gs://b/p", emulator=server.url, concurrency=8, data_plane=plane)
            try:
                catalog = await build_catalog(source, KeyTemplates.parse())
                pairs = [catalog.pair(index) for index in range(len(catalog))]
                traffic = Traffic(source)
                return pairs, await asyncio.gather(*(fetch_pair(traffic, pair, policy) for pair in pairs))
            finally:
                await source.close()

    pairs, fetched = asyncio.run(asyncio.wait_for(story(), 30))
    assert len(pairs) == 25
    for pair, one in zip(pairs, fetched, strict=True):
        assert one.image == objects[f"p/images/{pair.id}.jpg"]
        assert one.label == objects[f"p/labels/{pair.id}.png"]
    causes = set().union(*(one.retries for one in fetched))
    assert causes >= {"http_503", "truncated", "size", "crc32c", "redirect"}

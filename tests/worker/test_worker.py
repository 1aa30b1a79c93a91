"""A worker's loop in this process, with a source in memory: what it answers, how often, and with how many calls."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import google_crc32c
import msgspec
import numpy as np
import pytest
from decode_reference import encode, photograph
from PIL import Image

from ringfeed.shm.layout import page_ceil
from ringfeedd.cache.rows import RowGeometry, RowsSpec
from ringfeedd.catalog.catalog import Pair
from ringfeedd.decode import pair as decode
from ringfeedd.decode.spec import DecodeSpec, LabelMode
from ringfeedd.errors import BadPairError
from ringfeedd.fetch.policy import FetchPolicy
from ringfeedd.storage import ObjectInfo, SourceError
from ringfeedd.storage.base import OnEnd
from ringfeedd.worker import outbox, worker
from ringfeedd.worker import protocol as messages
from ringfeedd.worker.backlog import COPIED_AT_ONCE
from ringfeedd.worker.heartbeat import vital_bytes
from ringfeedd.worker.outbox import RESULTS_WAIT_S
from ringfeedd.worker.protocol import (
    Cancel,
    CopyJob,
    Decoded,
    Dropped,
    Failed,
    Hello,
    Jobs,
    Limit,
    PairJob,
    Results,
    RingSpec,
    Stop,
    Tuning,
)

PAIRS = 300
SPEC = DecodeSpec(8, 16, label_mode=LabelMode.INDEX)
OBJECTS = {
    "image": encode(photograph("china").resize((16, 8)), "JPEG"),
    "label": encode(Image.fromarray(np.arange(128, dtype=np.uint8).reshape(8, 16)), "PNG"),
}
SIZES = decode.Decoded(image_height=1, image_width=1, label_height=1, label_width=1, size_mismatch=False)
MOST_CALLS = 220
"""For each pair that is fetched and answered, without its decode; some 170 are made, a few of them by the clock. There
is room for another division of the code, none for a frame, a task or a look at all pairs for each pair."""


class Read:
    """A read under way."""

    received = 0

    def __init__(self, delay_s: float, on_end: Callable[[], None]) -> None:
        self.cancel = asyncio.get_running_loop().call_later(delay_s, on_end).cancel


class MemorySource:
    """Gives each object after a turn of the loop; "missing" is not there, and "hangs" never comes."""

    root = "mem://set"

    def begin_read(self, name: str, _generation: int, _max_bytes: int, on_end: OnEnd) -> Read:
        if name == "stumbles":
            raise UnicodeError(name)
        came = OBJECTS.get(name) or SourceError(f"{name} is not there.", cause="missing")
        return Read(1e9 if name == "hangs" else 0, lambda: on_end(came))


class Pipe:
    """Where the worker writes to: keeps the results, and says when there are enough."""

    def __init__(self, enough: int) -> None:
        self.results: list[messages.Result] = []
        self.copied: list[int] = []
        self.frames = 0
        self.enough = asyncio.Event()
        self._enough = enough
        self._decoder = messages.msgspec.msgpack.Decoder(Results)

    def write(self, frame: bytes) -> None:
        self.frames += 1
        said = self._decoder.decode(frame[4:])
        self.results += said.results
        self.copied += [seq for copied in said.copied for seq in copied.seqs]
        if len(self.results) + len(self.copied) >= self._enough:
            self.enough.set()


def info(name: str) -> ObjectInfo:
    data = OBJECTS.get(name, b"?")  # of what is not there, anything was listed
    return ObjectInfo(name, len(data), 0, google_crc32c.value(data))


def job(seq: int, image: str = "image", label: str = "label") -> PairJob:
    return PairJob(seq, Pair(str(seq), info(image), info(label)))


@pytest.fixture
def hello():
    size = page_ceil(PAIRS * 8 * 16 * 3)
    data_fd, vitals_fd = os.memfd_create("data"), os.memfd_create("vitals")
    os.truncate(data_fd, 2 * size)
    os.truncate(vitals_fd, vital_bytes(1))
    ring = RingSpec("r", data_fd, PAIRS, 0, size, SPEC)
    yield Hello("mem://set", None, Tuning(64, 64, FetchPolicy()), [ring], vitals_fd)
    os.close(data_fd)
    os.close(vitals_fd)


@pytest.fixture
def source() -> MemorySource:
    return MemorySource()


def work(
    hello: Hello,
    source: MemorySource,
    orders: list[Any],
    answers: int,
    *,
    trace: Any = None,
    decode: Any = decode.decode_pair,
    later: tuple[int, list[Any]] = (0, []),
) -> tuple[Pipe, float]:
    """What the worker answers to these orders, and how long it took, seconds.

    Args:
        later: orders that follow after so many answers.
    """

    async def main() -> tuple[Pipe, float]:
        pipe, orders_in = Pipe(answers), asyncio.StreamReader()
        it = worker.Worker(hello, source, pipe, decode=decode)  # type: ignore[arg-type]
        running = asyncio.create_task(it.run(orders_in))
        began = time.monotonic()
        sys.setprofile(trace)
        try:
            for order in orders:
                orders_in.feed_data(messages.frame(order))
            while len(pipe.results) < later[0]:  # noqa: ASYNC110  # the pipe has one event, for the end
                await asyncio.sleep(0.01)
            for order in later[1]:
                orders_in.feed_data(messages.frame(order))
            await asyncio.wait_for(pipe.enough.wait(), 60)
        finally:
            sys.setprofile(None)
        took_s = time.monotonic() - began
        orders_in.feed_data(messages.frame(Stop()))
        await running
        return pipe, took_s

    return asyncio.run(main())


@pytest.fixture(autouse=True)
def _this_process_keeps_its_memory(monkeypatch):
    monkeypatch.setattr(worker, "limit_own_memory", lambda _bytes: None)


def test_every_pair_is_answered_once_in_groups(hello, source):
    """Pairs that end together are reported together."""
    orders = [Limit(0, PAIRS - 1), Jobs(0, [job(seq) for seq in range(PAIRS)])]
    orders += [Jobs(0, [job(PAIRS, image="missing")]), Cancel(0, 0)]
    pipe, took_s = work(hello, source, orders, PAIRS)
    assert sorted(one.seq for one in pipe.results) == [*range(PAIRS - 1), PAIRS]
    assert {type(one) for one in pipe.results} == {Decoded, Failed}
    assert pipe.frames <= 2 + took_s / RESULTS_WAIT_S


def test_a_busy_worker_still_reports_finished_pairs(hello, source):
    def decode_slowly(*_: object) -> decode.Decoded:
        time.sleep(0.002)
        return SIZES

    orders = [Limit(0, PAIRS), Jobs(0, [job(seq) for seq in range(PAIRS)])]
    pipe, took_s = work(hello, source, orders, PAIRS, decode=decode_slowly)
    assert took_s >= PAIRS * 0.002
    assert pipe.frames >= 5
    assert pipe.frames <= 2 + took_s / RESULTS_WAIT_S


def test_many_copies_are_answered_at_once(hello, source, monkeypatch):
    """A ring's slots hold a few ms of copies, so an answer that waits for a timer would hold up the ring."""
    monkeypatch.setattr(outbox, "RESULTS_WAIT_S", 1000.0)
    pixels = 8 * 16
    rows = RowsSpec(os.memfd_create("rows"), 4)
    os.truncate(rows.fd, RowGeometry(3 * pixels, pixels).file_bytes(rows.rows))
    part = -(-PAIRS // (outbox.COPIED_PART * COPIED_AT_ONCE)) * COPIED_AT_ONCE  # whole runs
    copies = [CopyJob(seq, seq % 4, 0) for seq in range(3 * part)]
    pipe, _ = work(
        msgspec.structs.replace(hello, memory=rows), source, [Limit(0, 3 * part), Jobs(0, [], copies)], 3 * part
    )
    assert pipe.copied == list(range(3 * part))
    assert pipe.frames == 3
    os.close(rows.fd)


class FarSource(MemorySource):
    """Answers a twentieth of a second late. Notices how many requests are under way."""

    def __init__(self) -> None:
        self.under_way = self.most = 0

    def begin_read(self, name: str, _generation: int, _max_bytes: int, on_end: OnEnd) -> Read:
        def end() -> None:
            self.under_way -= 1
            on_end(OBJECTS.get(name) or SourceError(f"{name} is not there.", cause="missing"))

        self.under_way += 1
        self.most = max(self.most, self.under_way)
        read = Read(0.05, end)
        cancel = read.cancel

        def cancel_and_count() -> None:
            self.under_way -= 1
            cancel()

        read.cancel = cancel_and_count
        return read


@pytest.mark.parametrize(
    ("most_concurrency", "room", "most"),
    [(64, PAIRS, range(9, 65)), (8, PAIRS, range(8, 9)), (64, 4, range(8, 9))],
    ids=["it may", "it was told how many", "there is no room for them"],
)
def test_a_worker_asks_more_of_a_far_store(hello, monkeypatch, most_concurrency, room, most):
    monkeypatch.setattr(worker, "HEARTBEAT_S", 0.1)
    source = FarSource()
    narrow = messages.msgspec.structs.replace(hello, tuning=Tuning(8, most_concurrency, FetchPolicy()))
    # Those that are not there are answered without room.
    jobs = [job(seq, image="image" if seq < PAIRS // 2 else "missing") for seq in range(PAIRS)]
    work(narrow, source, [Limit(0, room), Jobs(0, jobs)], min(room, PAIRS // 2) + PAIRS // 2)
    assert source.most in most


def test_a_cancelled_pair_beyond_the_limit_is_answered(hello, source):
    """Its download is given up."""
    pipe, _ = work(hello, source, [Limit(0, 2), Jobs(0, [job(seq) for seq in range(5)]), Cancel(0, 4), Limit(0, 5)], 5)
    assert {one.seq: type(one) for one in pipe.results if one.seq >= 2} == {2: Dropped, 3: Dropped, 4: Decoded}


def test_a_defect_costs_one_pair(hello, source):
    """In the source, over one name; in the decode, at the fifth pair."""
    decoded = []

    def decode_all_but_one(*_: object) -> decode.Decoded:
        decoded.append(1)
        if len(decoded) == 5:
            raise RuntimeError("a defect")
        return SIZES

    jobs = [job(seq, image="stumbles" if seq == 3 else "image") for seq in range(PAIRS)]
    pipe, _ = work(hello, source, [Limit(0, PAIRS), Jobs(0, jobs)], PAIRS, decode=decode_all_but_one)
    failed = {one.seq: one.cause for one in pipe.results if type(one) is Failed}
    assert len(pipe.results) == len({one.seq for one in pipe.results}) == PAIRS
    assert len(failed) == 2
    assert failed[3] == "internal"
    assert set(failed.values()) == {"internal"}


class LimitingSource(MemorySource):
    """Puts every third request off."""

    requests = limited = 0

    def begin_read(self, name: str, generation: int, max_bytes: int, on_end: OnEnd) -> Read:
        self.requests += 1
        if self.requests % 3:
            return super().begin_read(name, generation, max_bytes, on_end)
        self.limited += 1
        return Read(0, lambda: on_end(SourceError("Later.", cause="http_429", retryable=True)))


def test_every_retry_is_reported_whatever_the_result(hello):
    """Decoded, failed in its decode, and dropped when it was there or on its way."""
    decoded = []

    def decode_most(*_: object) -> decode.Decoded:
        decoded.append(1)
        if len(decoded) % 4 == 0:
            raise BadPairError("it is no picture", cause="decode")
        return SIZES

    source = LimitingSource()
    orders = [Limit(0, 40), Jobs(0, [job(seq) for seq in range(60)])]
    pipe, _ = work(hello, source, orders, 60, decode=decode_most, later=(40, [Cancel(0, 60)]))
    assert {type(one) for one in pipe.results} == {Decoded, Failed, Dropped}
    assert sum(one.retries.get("http_429", 0) for one in pipe.results) == source.limited > 20


def test_cancelled_pairs_make_room_wherever_they_are(hello, source):
    """On the way, not begun: as many downloads as there may be hang, and everything behind them comes all the same."""
    hangs = [job(seq, image="hangs") for seq in range(32)]
    rest = [job(seq) for seq in range(32, 200)]
    pipe, _ = work(hello, source, [Limit(0, 0), Jobs(0, hangs + rest), Cancel(0, 100), Limit(0, PAIRS)], 200)
    dropped = {one.seq for one in pipe.results if type(one) is Dropped}
    assert dropped == set(range(100))
    assert {one.seq for one in pipe.results if type(one) is Decoded} == set(range(100, 200))


def test_a_pair_costs_the_worker_few_calls(hello, source):
    calls = 0

    def note(_frame: object, event: str, _arg: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    gc.disable()  # a collection may end other tests' objects, whose callbacks are none of ours
    try:
        orders = [Limit(0, PAIRS), Jobs(0, [job(seq) for seq in range(PAIRS)])]
        work(hello, source, orders, PAIRS, trace=note, decode=lambda *_: SIZES)  # which has a count of its own
    finally:
        gc.enable()
    assert calls / PAIRS <= MOST_CALLS

"""What a pair costs the supervisor, and a batch the trainer, in calls: a number that no busy machine can change.

The bounds leave room for another division of the same work into functions, and for other Python versions. They leave
none for work that is done for each pair instead of each turn, or for each row instead of each batch.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from decode_reference import classes, encode, photograph
from PIL import Image
from ring_fixtures import Served, served_ring, step, turning

import ringfeed
from ringfeed.torch import RingDataset
from ringfeedd.catalog.catalog import Pair
from ringfeedd.decode import codecs as fast_codecs
from ringfeedd.decode import png as label_png
from ringfeedd.decode.pair import decode_pair
from ringfeedd.decode.spec import DecodeSpec, LabelMode
from ringfeedd.fetch.policy import FetchPolicy
from ringfeedd.storage import ObjectInfo
from ringfeedd.worker import protocol as messages
from ringfeedd.worker.heartbeat import VITAL_WORDS
from ringfeedd.worker.link import WorkerLink
from ringfeedd.worker.pool import COPIES_IN_A_ROW, Pool
from ringfeedd.worker.protocol import Copied, CopyJob, Decoded, Hello, PairJob, Results, Tuning

PAIRS = 1000
BATCHES = 1000
MOST = {"ring": 27, "pool": 8, "decode": 160, "reader": 56, "dataset": 74}
"""Calls for each pair that is dispatched and published, for each that a worker gets and answers, for each that is
decoded, and for each batch. Somewhat fewer are made today."""


class Calls:
    """Counts the calls, of Python's functions and of C's, that this thread makes while it looks."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def _note(self, _frame: object, event: str, _arg: object) -> None:
        self._counts[event] += 1

    @contextmanager
    def counted(self) -> Iterator[None]:
        gc.disable()  # a collection may end other tests' objects, whose callbacks are none of ours
        sys.setprofile(self._note)
        try:
            yield
        finally:
            sys.setprofile(None)
            gc.enable()

    def each(self, things: int) -> float:
        """Calls for each of so many things."""
        return (self._counts["call"] + self._counts["c_call"]) / things


class NoPipe:
    def write(self, _frame: bytes) -> None:
        pass


class Deaf:
    """A listener that does nothing with what it is told."""

    def results(self, _results: list[Any]) -> None:
        pass

    def copied(self, _copied: list[Copied]) -> None:
        pass

    def lost(self, *_lost: object) -> None:
        pass


def make_pool(workers: int) -> Pool:
    tuning = Tuning(1, 1, FetchPolicy())
    pool = Pool(Hello("gs://nothing", None, tuning, []), [tuning] * workers, Deaf(), most_pairs=PAIRS)  # type: ignore[arg-type]
    vitals = memoryview(bytes(8 * VITAL_WORDS)).cast("Q")
    for number in range(workers):
        worker = WorkerLink(number, None, asyncio.StreamReader(), NoPipe(), vitals)  # type: ignore[arg-type]
        pool._workers[number] = worker
    return pool


def test_a_pair_costs_the_ring_few_calls():
    calls, given = Calls(), 0
    with served_ring(slots=2048, epoch_length=100_000) as served:
        service, pool = served.service, served.pool
        pool.work(service)
        step(service)
        while pool.jobs:
            results = [Decoded(0, job.seq, (8, 8, 8, 8), False, 10, {}) for job in pool.jobs]
            given += len(results)
            pool.jobs = []
            with calls.counted():
                for result in results:
                    service.result(result)
                step(service)
        assert service.ring.published == 2048
    assert given >= PAIRS
    assert calls.each(given) <= MOST["ring"]


@pytest.mark.skipif(fast_codecs.simplejpeg is None or label_png.deflate is None, reason="the extra fast is missing")
def test_a_plain_pair_decodes_with_few_calls():
    calls, spec = Calls(), DecodeSpec(24, 36, label_mode=LabelMode.INDEX)
    picture = Image.fromarray(np.asarray(photograph("china").resize((36, 24))))
    pair = encode(picture, "JPEG"), encode(classes(picture), "PNG")
    image, label = np.zeros(spec.image_row_shape, np.uint8), np.zeros(spec.label_row_shape, np.uint8)
    decode_pair(*pair, spec, image, label)  # what is done once a process
    with calls.counted():
        for _ in range(PAIRS):
            decode_pair(*pair, spec, image, label)
    assert calls.each(PAIRS) <= MOST["decode"]


@pytest.mark.parametrize("workers", [2, 32])
def test_a_pair_costs_the_pool_few_calls(workers: int):
    """With many workers, too."""
    pairs = [Pair(str(n), ObjectInfo(f"i{n}", 1), ObjectInfo(f"l{n}", 1)) for n in range(PAIRS)]
    calls = Calls()

    async def hand_out_and_hear() -> None:
        pool = make_pool(workers)
        with calls.counted():
            pool.give(0, [PairJob(seq, pair) for seq, pair in enumerate(pairs)])
        shares = [[seq for _, seq in worker.pairs] for worker in pool._workers.values()]
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
        for worker, share in zip(pool._workers.values(), shares, strict=True):
            results = [Decoded(0, seq, (8, 8, 8, 8), False, 10, {}) for seq in share]
            worker.reader.feed_data(messages.frame(Results(results)))
            worker.reader.feed_eof()
            with calls.counted():
                await pool._listen(worker)
        assert pool.pairs == 0

    asyncio.run(hand_out_and_hear())
    assert calls.each(PAIRS) <= MOST["pool"]


def test_a_copied_pair_costs_the_pool_less():
    """What is given and answered many at a time costs no call for each."""
    copies = [CopyJob(seq, seq, 0) for seq in range(PAIRS)]
    calls = Calls()

    async def hand_out_and_hear() -> None:
        pool = make_pool(2)
        with calls.counted():
            pool.give(0, [], copies)
        shares = [sorted(worker.copies[0]) for worker in pool._workers.values()]
        assert sorted(shares[0] + shares[1]) == list(range(PAIRS))
        assert abs(len(shares[0]) - len(shares[1])) <= COPIES_IN_A_ROW
        for worker, share in zip(pool._workers.values(), shares, strict=True):
            worker.reader.feed_data(messages.frame(Results([], copied=[Copied(0, share[1:], share[:1])])))
            worker.reader.feed_eof()
            with calls.counted():
                await pool._listen(worker)
        assert pool.pairs == 0

    asyncio.run(hand_out_and_hear())
    assert calls.each(PAIRS) <= 1


def fill(served: Served) -> None:
    for _ in range(6):
        served.turn(0.01)


@pytest.mark.parametrize("through", ["reader", "dataset"])
def test_a_batch_is_delivered_with_few_calls(through: str):
    """Whatever its size."""
    counts = []
    for batch_size in (1, 16):
        calls, taken = Calls(), 0
        with served_ring(slots=1024, epoch_length=1_000_000) as served:
            fill(served)
            with turning(served):
                if through == "reader":
                    reader = ringfeed.attach(served.name, batch_size=batch_size)
                    batches: Iterator[Any] = iter(reader)
                else:
                    dataset = RingDataset(served.name, batch_size=batch_size)
                    batches, reader = iter(dataset), dataset.reader
            with reader:
                next(batches)
                while taken < BATCHES:
                    fill(served)
                    with calls.counted():
                        for _ in range(1024 // batch_size // 2):
                            next(batches)  # the last one ends here, and its slots are given back
                            taken += 1
        counts.append(calls.each(taken))
    assert max(counts) <= MOST[through]
    assert max(counts) - min(counts) < 1

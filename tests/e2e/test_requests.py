"""What a daemon asks a store for: no pair many epochs ahead, no broken pair again and again."""

from __future__ import annotations

from collections import Counter

import pytest
from house import Daemon, photographs, wait_until

import ringfeed
from ringfeed.cli.status import ring_status
from ringfeedd.fakegcs import FakeGcs, Fault, serve_in_thread
from ringfeedd.ring.ring import LEAST_AHEAD


def reads(store: FakeGcs) -> Counter[str]:
    return Counter({name: count for (kind, name), count in store.requests.items() if kind == "read"})


@pytest.fixture
def bucket():
    """A store in which the first 12 of 20 pairs have no picture."""
    objects = photographs(20)
    broken = [name for name in objects if name.endswith(".jpg")][:12]
    objects |= dict.fromkeys(broken, b"no picture")
    objects |= {f"one/{name.removeprefix('set/')}": data for name, data in photographs(1).items()}
    store = FakeGcs({"b": objects})
    with serve_in_thread(store) as served:
        yield served, store, broken


def test_one_pairs_epoch_costs_a_few_requests(bucket, ring):
    served, store, _ = bucket
    arguments = ("--emulator", served.url, "--size", "24x32", "--slots", "512", "--workers", "2")
    with Daemon("gs://b/one", *arguments, ring=ring), ringfeed.attach(f"{ring}-train", batch_size=1) as reader:
        assert [batch.epoch for batch in reader] == [0]
        assert reads(store).total() <= 10
        assert [batch.epoch for _ in range(200) for batch in reader] == list(range(1, 201))
        assert reads(store).total() <= 2 * (201 + LEAST_AHEAD + 1)


@pytest.mark.parametrize(("pairs", "epochs"), [(20, 6), (600, 2)])
def test_a_small_sets_job_costs_one_extra_epoch(ring, pairs, epochs):
    """By the store's own count; then, without a reader, the slots are filled once more for the next job."""
    store = FakeGcs({"b": photographs(pairs)})
    arguments = ("--size", "24x32", "--slots", "48", "--workers", "2", "--label-mode", "index")
    with serve_in_thread(store) as served, Daemon("gs://b/set", "--emulator", served.url, *arguments, ring=ring):
        name = f"{ring}-train"
        with ringfeed.attach(name, batch_size=4) as reader:
            assert sum(len(batch) for _ in range(epochs) for batch in reader) == pairs * epochs
        wait_until(lambda: (status := ring_status(name)).seeks and status.filled_slots == min(48, pairs))
        counts = reads(store)
    assert len(counts) == 2 * pairs
    assert min(counts.values()) >= epochs
    assert counts.total() <= 2 * (pairs * epochs + max(pairs, LEAST_AHEAD) + 48)


def test_broken_objects_are_downloaded_once_an_epoch(bucket, ring):
    """Wherever they come as replacements of each other; the first failures of two at one moment may cross."""
    served, store, broken = bucket
    arguments = ("--emulator", served.url, "--size", "24x32", "--slots", "64", "--workers", "1", "--max-failed", "1")
    with Daemon("gs://b/set", *arguments, ring=ring), ringfeed.attach(f"{ring}-train", batch_size=4) as reader:
        for _ in range(10):
            flags = [bool(valid) for batch in reader for valid in batch.valid]
            assert len(flags) == 20
            assert flags.count(False) == 12
        counts = [reads(store)[f"b/{name}"] for name in broken]
        epochs = ring_status(f"{ring}-train").head // 20 + 1
        assert sum(counts) <= 1.4 * 12 * epochs, (counts, epochs)


@pytest.mark.parametrize(("concurrency", "workers"), [(4, 2), (5, 2), (3, 4), (1, 2)])
def test_downloads_under_way_are_as_many_as_asked(bucket, ring, concurrency, workers):
    """And one more for each late object that all readers wait for: here the first, and on a busy machine any."""
    served, store, broken = bucket
    late = next(name for name in photographs(20) if name.endswith(".jpg") and name not in broken)
    store.faults = [Fault("latency", delay_s=0.01), Fault("latency", delay_s=5.0, names=late, first=1)]
    arguments = ("--emulator", served.url, "--size", "24x32", "--slots", "16", "--concurrency", concurrency)
    arguments = (*arguments, "--max-failed", "1", "--workers", workers)
    with Daemon("gs://b/set", *arguments, ring=ring), ringfeed.attach(f"{ring}-train", batch_size=1) as reader:
        assert sum(len(batch.ids) for _ in range(3) for batch in reader) == 60
        second = 0

        def explained() -> bool:
            nonlocal second
            second = ring_status(f"{ring}-train").store.second_requests
            return store.busiest <= concurrency + second

        wait_until(explained)
    assert second
    assert store.busiest >= min(2, concurrency)

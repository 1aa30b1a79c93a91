"""The store goes away under a live daemon, and comes back: trainers wait, and get every pair."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading

import numpy as np
import pytest
from decode_reference import reference_image, reference_label
from house import RINGFEED, Daemon, photographs, wait_until, write_objects
from store_process import StoreProcess
from transports import TRANSPORTS

import ringfeed
from ringfeed.cli.status import ring_status

PAIRS = 30
EPOCHS = 4
HEIGHT, WIDTH = 48, 64
CONCURRENCY = 8


@pytest.fixture(scope="module")
def bucket():
    return photographs(PAIRS)


@pytest.fixture
def store(bucket, tmp_path):
    write_objects(tmp_path / "b", bucket)
    store = StoreProcess(tmp_path)
    store.start()
    yield store
    store.kill()


class Trainer(threading.Thread):
    """Reads some epochs, and keeps what it was given."""

    def __init__(self, ring):
        super().__init__(daemon=True)
        self.ring, self.rows, self.error = ring, [], None
        self.warm = threading.Event()

    def run(self):
        try:
            with ringfeed.attach(f"{self.ring}-train", batch_size=3) as reader:
                for _ in range(EPOCHS):
                    for batch in reader:
                        at = zip(batch.ids, batch.positions.tolist(), batch.valid.tolist(), strict=True)
                        pixels = zip(batch.image.copy(), batch.label.copy(), strict=True)
                        self.rows += [(batch.epoch, *row, *rows) for row, rows in zip(at, pixels, strict=True)]
                        self.warm.set()
                    del batch
        except BaseException as error:  # noqa: BLE001 - shown by the test
            self.error = error


def outage_of_two_kinds(store, status, daemon):
    """503 for everything, then nobody on the port at all; and both workers are killed in the midst of it."""
    store.ask("/_faults", "POST", b"any/503")
    before = store.requests()
    wait_until(lambda: status().waiting_workers == 2 and status().failing_s > 2)
    # what was under way, some retries one after the other, then one now and then from each worker
    assert store.requests() - before <= 20 * CONCURRENCY
    look(daemon.ring)
    for worker in daemon.workers():
        os.kill(worker, signal.SIGKILL)
    store.kill()
    # those that take their place have read nothing themselves, and find out all the same
    wait_until(lambda: ring_status(f"{daemon.ring}-train").worker_deaths == 2 and status().waiting_workers)
    failing_s = status().failing_s
    wait_until(lambda: status().failing_s > failing_s + 1)
    assert status().waiting_workers
    store.start()


def outage_in_silence(store, status, daemon):
    """The server takes connections, and says nothing."""
    store.pause()
    wait_until(lambda: status().waiting_workers == 2 and status().failing_s > 2)
    look(daemon.ring)
    store.resume()


def look(ring):
    """`ringfeed status`, in the midst of an outage."""
    run = subprocess.run([*RINGFEED, "status", f"{ring}-train"], capture_output=True, text=True, check=False)
    assert re.search(
        r"store +is unreachable since \d\d:\d\d \(\d+ s\); 2 of 2 workers wait, next try (in|now)", run.stdout
    )


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("outage", [outage_of_two_kinds, pytest.param(outage_in_silence, marks=pytest.mark.slow)])
def test_an_outage_costs_time_and_no_pair(store, ring, bucket, outage, transport):
    """Under a daemon that is running."""
    arguments = ["--emulator", store.url, "--size", f"{HEIGHT}x{WIDTH}", "--label-mode", "index", "--slots", "16"]
    arguments += ["--workers", "2", "--concurrency", str(CONCURRENCY), "--max-failed", "0", "--read-timeout-s", "1"]
    arguments += ["--transport", transport]

    def status():
        return ring_status(f"{ring}-train").store

    with Daemon("gs://b/set", *arguments, ring=ring) as daemon:
        trainer = Trainer(ring)
        trainer.start()
        assert trainer.warm.wait(60)
        outage(store, status, daemon)
        trainer.join(60)
        assert trainer.error is None
        assert not trainer.is_alive()
        wait_until(lambda: status().waiting_workers == 0)
        after = ring_status(f"{ring}-train")
        assert after.failed_pairs == 0
        assert after.store.outages >= 1
        assert after.store.failing_s == after.store.next_try_s == 0
        assert after.fetch_retries == sum(after.retries_by_cause.values()) > 0
    log = daemon.output.rest()
    assert len(re.findall(r"gs://b/set: the store is unreachable since \d\d:\d\d \(.*\); next try", log)) == 1
    assert len(re.findall(r"gs://b/set: the store answers again, after \d+ s", log)) == 1

    ids = {name.removeprefix("set/images/").removesuffix(".jpg") for name in bucket if "/images/" in name}
    assert [row[:1] + row[2:4] for row in trainer.rows] == [
        (epoch, position, True) for epoch in range(EPOCHS) for position in range(PAIRS)
    ]
    for epoch in range(EPOCHS):
        assert {row[1] for row in trainer.rows if row[0] == epoch} == ids
    for _, pair_id, _, _, image, label in trainer.rows:
        expected = reference_image(bucket[f"set/images/{pair_id}.jpg"], "resize", HEIGHT, WIDTH)
        assert np.array_equal(image, expected)
        expected = reference_label(bucket[f"set/labels/{pair_id}.png"], "resize", "index", HEIGHT, WIDTH)
        assert np.array_equal(label, expected)

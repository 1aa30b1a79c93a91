"""A daemon against a store that limits the rate: it keeps to what the store lets through, and says so."""

from __future__ import annotations

import threading

import pytest
from house import Daemon, photographs, wait_until, write_objects
from store_process import StoreProcess

import ringfeed
from ringfeed.cli.status import ring_status

READS_PER_S = 60.0


@pytest.mark.slow
def test_a_daemon_keeps_to_the_stores_rate(ring, tmp_path):
    write_objects(tmp_path / "b", photographs(200))
    store = StoreProcess(tmp_path, "--reads-per-s", f"{READS_PER_S:g}")
    store.start()
    arguments = ["--emulator", store.url, "--size", "32x32", "--slots", "16", "--workers", "2", "--test-ratio", "0"]
    stopping = threading.Event()

    def read() -> None:
        with ringfeed.attach(f"{ring}-train", batch_size=2) as reader:
            while not stopping.is_set():
                for _ in reader:
                    if stopping.is_set():
                        break

    try:
        with Daemon("gs://b/set", *arguments, ring=ring) as daemon:
            trainer = threading.Thread(target=read, daemon=True)
            trainer.start()
            daemon.output.wait_for("WARNING ringfeedd.pool: gs://b/set: limited by the store to about ")
            before, read_before = store.ask("/_limit"), ring_status(f"{ring}-train").published
            wait_until(lambda: store.ask("/_limit")["passed"] - before["passed"] > 10 * READS_PER_S)
            after, read_after = store.ask("/_limit"), ring_status(f"{ring}-train").published
            stopping.set()
            trainer.join(30)
            # What was read ahead for the trainer is dropped, and what the slots hold comes: then all of it is reported.
            wait_until(lambda: counts_agree(ring_status(f"{ring}-train")))
            status = ring_status(f"{ring}-train")
        passed, refused = after["passed"] - before["passed"], after["refused"] - before["refused"]
        assert passed >= 0.9 * (passed + refused)
        assert read_after - read_before >= 0.7 * passed / 2  # no reader waits for a slow worker's share
        assert status.failed_pairs == 0
        assert status.store.outages == 0
    finally:
        store.kill()


def counts_agree(status):
    """Each answer that limits the rate is one retry, whatever became of the pair."""
    return status.store.limited_requests == status.retries_by_cause["429"] > 0

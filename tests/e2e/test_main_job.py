"""The main job, with everything real: HTTP, the daemon's processes, trainers in processes of their own."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys

import numpy as np
import pytest
from decode_reference import reference_image, reference_label
from house import Daemon, finish, photographs, traces, trainer, wait_until

import ringfeed
from ringfeed.cli.status import ring_status
from ringfeedd.fakegcs import FakeGcs, serve_in_thread

PAIRS = 26
HEIGHT, WIDTH = 48, 64
EPOCHS = 3

AUDIT = """
import hashlib, json, sys, ringfeed
ring, group, rank, world, batch, epochs, drop_last = sys.argv[1:]
with ringfeed.attach(ring, batch_size=int(batch), group=group, rank=int(rank), world_size=int(world),
                     drop_last=drop_last == "True", start="epoch") as reader:
    print("in", flush=True)
    sys.stdin.readline()
    for _ in range(int(epochs)):
        for batch in reader:
            for i in range(len(batch)):
                pixels = [hashlib.sha256(rows[i].tobytes()).hexdigest() for rows in (batch.image, batch.label)]
                print(json.dumps([batch.ids[i], batch.epoch, int(batch.positions[i]), bool(batch.valid[i]), pixels]))
    del batch
    print("done", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture(scope="module")
def bucket():
    return photographs(PAIRS)


@pytest.fixture
def store(bucket):
    with serve_in_thread(FakeGcs({"b": dict(bucket)}, page_objects=10)) as server:
        yield server


def serve(store, ring, *arguments):
    common = ("--emulator", store.url, "--size", f"{HEIGHT}x{WIDTH}", "--label-mode", "index", "--slots", "32")
    return Daemon("gs://b/set", *common, *arguments, ring=ring)


def expected_pixels(bucket, pair_id):
    image = reference_image(bucket[f"set/images/{pair_id}.jpg"], "resize", HEIGHT, WIDTH)
    label = reference_label(bucket[f"set/labels/{pair_id}.png"], "resize", "index", HEIGHT, WIDTH)
    return [hashlib.sha256(np.ascontiguousarray(rows).tobytes()).hexdigest() for rows in (image, label)]


def audit(ring, *readers, world=2, batch=4, epochs=EPOCHS, drop_last=False, before_they_leave=lambda: None):
    """What trainers that begin together were given: rows by (group, rank)."""
    processes = {
        (group, rank): trainer(AUDIT, f"{ring}-train", group, rank, world, batch, epochs, drop_last)
        for group, rank in readers
    }

    def go():
        for process in processes.values():
            process.stdin.write("go\n")
            process.stdin.flush()

    for process in processes.values():
        assert process.stdout.readline() == "in\n"
    go()
    rows = {}
    for key, process in processes.items():
        lines = iter(process.stdout.readline, "done\n")
        rows[key] = [json.loads(line) for line in lines]
    before_they_leave()
    go()
    for process in processes.values():
        finish(process)
    return rows


def test_two_groups_see_every_pair_once_an_epoch(store, ring, bucket):
    """Two ranks each; every pair is fetched and decoded once."""
    ids = {name.removeprefix("set/images/").removesuffix(".jpg") for name in bucket if "/images/" in name}

    def each_was_downloaded_and_decoded_once():
        # Everything is released, and the next epoch lies in the ring, which is all that is fetched ahead of a set of
        # fewer pairs than slots. Its words tell so a moment later.
        full = (EPOCHS + 1) * PAIRS
        wait_until(lambda: ring_status(f"{ring}-train").decoded_pairs == full)
        wait_until(lambda: store.count("read") == 2 * ring_status(f"{ring}-train").head)
        status = ring_status(f"{ring}-train")
        assert (status.floor, status.published) == (EPOCHS * PAIRS, full)
        for name in bucket:
            assert status.head // PAIRS <= store.requests["read", f"b/{name}"] <= status.head // PAIRS + 1

    with serve(store, ring):
        readers = [("A", 0), ("A", 1), ("B", 0), ("B", 1)]
        rows = audit(ring, *readers, before_they_leave=each_was_downloaded_and_decoded_once)
    pixels = {pair_id: expected_pixels(bucket, pair_id) for pair_id in ids}
    for group in "AB":
        seen = rows[group, 0] + rows[group, 1]
        for epoch in range(EPOCHS):
            delivered = sorted(row[0] for row in seen if row[1] == epoch and row[3])
            assert delivered == sorted(ids)
        assert {row[1] for row in seen} == set(range(EPOCHS))
        assert all(pixels[row[0]] == row[4] for row in seen)
        # ranks take the same number of steps, and between them the order is the epoch's order
        positions = sorted((row[1], row[2]) for row in seen if row[3])
        assert positions == [(epoch, position) for epoch in range(EPOCHS) for position in range(PAIRS)]
    order = [[row[0] for row in sorted(rows["A", 0] + rows["A", 1], key=lambda r: r[2]) if row[1] == e] for e in (0, 1)]
    assert order[0] != order[1]


def test_drop_last_ends_all_ranks_at_one_step(store, ring):
    """Only the rest is dropped."""
    with serve(store, ring):
        rows = audit(ring, ("A", 0), ("A", 1), batch=4, epochs=2, drop_last=True)
    assert [len(seen) for seen in rows.values()] == [2 * 4 * (PAIRS // 8)] * 2
    assert all(row[2] < PAIRS // 8 * 8 for seen in rows.values() for row in seen)


def test_a_batch_lies_in_the_ring(store, ring):
    """Its arrays keep it."""
    with serve(store, ring), ringfeed.attach(f"{ring}-train", batch_size=4, drop_last=False) as reader:
        field = np.frombuffer(reader._delivery.attachment.data.image.buffer, np.uint8)
        first = next(iter(reader))
        assert np.shares_memory(first.image, field)
        assert first.image.ctypes.data == field.ctypes.data
        assert first.image.flags.c_contiguous
        assert first.image.shape == (4, HEIGHT, WIDTH, 3)
        with pytest.raises(ValueError, match="read-only"):
            first.image[0] = 0
        kept = first.image[1, ::2]
        copy = kept.copy()
        del first
        assert reader.statistics()["held_batches"] == 1
        # 32 slots, one batch of 4 is kept by a slice of it: the 8th from here needs the kept slots
        for _ in range(4):
            for batch in reader:
                del batch
        assert reader.statistics()["held_batches"] == 0
        assert (kept == copy).all()


def test_a_forgotten_reader_gives_its_lane_back(store, ring):
    def consumers():
        return len(ring_status(f"{ring}-train").consumers)

    with serve(store, ring):
        reader = ringfeed.attach(f"{ring}-train", batch_size=4)
        pixels = next(iter(reader)).image[1]
        copy = pixels.copy()
        assert consumers() == 1
        del reader
        wait_until(lambda: consumers() == 0)
        assert (pixels == copy).all()


def test_a_batch_that_wraps_is_contiguous_too(store, ring, bucket):
    with serve(store, ring), ringfeed.attach(f"{ring}-train", batch_size=5, drop_last=False) as reader:
        geometry = reader.descriptor.geometry
        assert geometry.mirrored
        wrapped = 0
        for _ in range(3):
            for batch in reader:
                first = int(batch.seqs[0]) % geometry.slots
                wrapped += first + len(batch) > geometry.slots
                for index, pair_id in enumerate(batch.ids):
                    rows = [batch.image[index], batch.label[index]]
                    assert [hashlib.sha256(row.tobytes()).hexdigest() for row in rows] == expected_pixels(
                        bucket, pair_id
                    )
        assert wrapped


def test_slots_without_page_size_copy_wrapping_batches_only(store, ring, bucket):
    size = (47, 63)
    with (
        Daemon("gs://b/set", "--emulator", store.url, "--size", "47x63", "--slots", "20", ring=ring),
        ringfeed.attach(f"{ring}-train", batch_size=6, drop_last=False) as reader,
    ):
        assert not reader.descriptor.geometry.mirrored
        field = np.frombuffer(reader._delivery.attachment.data.image.buffer, np.uint8)
        in_place = []
        for _ in range(3):
            for batch in reader:
                in_place.append(np.shares_memory(batch.image, field))
                expected = [
                    reference_image(bucket[f"set/images/{pair_id}.jpg"], "resize", *size) for pair_id in batch.ids
                ]
                assert (batch.image == np.stack(expected)).all()
        assert sum(in_place) > len(in_place) // 2
        assert not all(in_place)


def test_a_copy_keeps_its_pixels_and_ids(store, ring, bucket):
    """Whatever becomes of the slots."""
    with serve(store, ring), ringfeed.attach(f"{ring}-train", batch_size=4, copy=True) as reader:
        batches = [batch for _ in range(4) for batch in reader]
        assert len(batches) * 4 > reader.descriptor.geometry.slots
        for batch in batches:
            for image, pair_id in zip(batch.image, batch.ids, strict=True):
                assert hashlib.sha256(image.tobytes()).hexdigest() == expected_pixels(bucket, pair_id)[0]


def test_native_pairs_keep_their_own_sizes(store, ring, bucket):
    with (
        Daemon("gs://b/set", "--emulator", store.url, "--fit", "native", "--slots", "16", ring=ring),
        ringfeed.attach(f"{ring}-train", batch_size=4, drop_last=False) as reader,
    ):
        sizes = set()
        for batch in reader:
            for image, label, pair_id in zip(batch.image, batch.label, batch.ids, strict=True):
                expected = reference_image(bucket[f"set/images/{pair_id}.jpg"], "native", 0, 0)
                assert (image == expected).all()
                assert label.shape == image.shape
                sizes.add(image.shape[:2])
        assert len(sizes) > 3


@pytest.mark.timeout(240)
def test_fifty_killed_consumers_stall_nothing(store, ring):
    """They keep no lane."""
    seed = random.Random(7)
    reading = (
        "import sys, ringfeed\n"
        "r = ringfeed.attach(sys.argv[1], batch_size=4, group=sys.argv[2])\n"
        "print('in', flush=True)\n"
        "while True:\n"
        "  for b in r: print(b.epoch, flush=True)\n"
    )
    steady = (
        "import select, sys, ringfeed\n"
        "with ringfeed.attach(sys.argv[1], batch_size=4, group='steady', drop_last=False) as r:\n"
        "  pairs = 0\n"
        "  while not select.select([sys.stdin], [], [], 0)[0]:\n"
        "    for b in r: pairs += len(b)\n"
        "  print(pairs, r.statistics())\n"
    )
    with serve(store, ring, "--linger-blocking-s", "0.3", "--lanes", "4"):
        going = subprocess.Popen(
            [sys.executable, "-c", steady, f"{ring}-train"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        try:
            for number in range(50):
                victim = trainer(reading, f"{ring}-train", f"victim-{number % 3}")
                for _ in range(seed.randrange(1, 6)):  # at least until it is in; then wherever it happens to be
                    assert victim.stdout.readline(), "the victim could not attach"
                victim.send_signal(signal.SIGKILL)
                victim.wait()
                victim.stdout.close()
            said, _ = going.communicate("stop", timeout=30)
        finally:
            going.kill()
            going.wait()
        assert int(said.split()[0]) >= PAIRS, said
        wait_until(lambda: ring_status(f"{ring}-train").lane_deaths == 50)
        assert ring_status(f"{ring}-train").consumers == []
        with ringfeed.attach(f"{ring}-train", batch_size=4) as reader:
            assert len(next(iter(reader))) == 4


def test_a_killed_daemons_successor_clears_its_files(store, ring):
    first = serve(store, ring).start()
    first.output.wait_for("ready")
    first.process.kill()
    first.process.wait()
    left = traces(ring)
    assert left
    with pytest.raises(ringfeed.DaemonNotRunningError, match="dead and left its files"):
        ringfeed.attach(f"{ring}-train", batch_size=4)
    with serve(store, ring), ringfeed.attach(f"{ring}-train", batch_size=4) as reader:
        assert len(next(iter(reader))) == 4
        assert not set(left) & set(traces(ring)) - {f"ringfeed.{ring}-train", f"ringfeed.{ring}-train.lock"}
    assert traces(ring) == []


def test_a_trainer_learns_that_its_daemon_died(store, ring):
    """It keeps the batches that it holds."""
    # more slots than it can fill meanwhile: a full ring would wait for the batch that is held, which is another error
    daemon = serve(store, ring, "--slots", "4000").start()
    daemon.output.wait_for("ready")
    try:
        reader = ringfeed.attach(f"{ring}-train", batch_size=4, drop_last=False, restart_s=0)
        batch = next(iter(reader))
        pixels = batch.image.copy()
        daemon.process.kill()
        daemon.process.wait()
        with pytest.raises(ringfeed.DaemonGoneError, match="died"):
            while True:
                for later in reader:
                    del later
        assert (batch.image == pixels).all()
        reader.close()
    finally:
        daemon.kill()


def test_a_stopped_daemon_tells_a_waiting_trainer(store, ring):
    with serve(store, ring) as daemon:
        waiting = trainer(
            "import sys, ringfeed\n"
            "r = ringfeed.attach(sys.argv[1], batch_size=4, group='g', rank=0, world_size=2, restart_s=0.1)\n"
            "print('in', flush=True)\n"
            "try:\n  while True:\n    for b in r: pass\n"
            "except ringfeed.DaemonGoneError as error: print(error)\n",
            f"{ring}-train",
        )
        assert waiting.stdout.readline() == "in\n"
        assert daemon.stop() == 0
        assert "was stopped" in finish(waiting)
    assert traces(ring) == []


def test_a_killed_worker_costs_only_its_restart(store, ring, bucket):
    with serve(store, ring, "--workers", "2") as daemon, ringfeed.attach(f"{ring}-train", batch_size=2) as reader:
        seen = []
        for epoch in range(4):
            wait_until(lambda: len(daemon.workers()) == 2)
            workers = daemon.workers()
            for batch in reader:
                if len(seen) % 11 == 5:
                    subprocess.run(["kill", "-9", str(workers[epoch % len(workers)])], check=False)
                for index, pair_id in enumerate(batch.ids):
                    assert batch.valid[index]
                    digest = hashlib.sha256(batch.image[index].tobytes()).hexdigest()
                    assert digest == expected_pixels(bucket, pair_id)[0]
                    seen.append((batch.epoch, pair_id))
        assert len(seen) == len(set(seen)) == 4 * PAIRS
    assert "died with signal 9" in daemon.output.rest()


def test_a_stopped_worker_is_replaced(store, ring):
    """One that stands for long; the stream continues."""
    arguments = ("--workers", "1", "--worker-timeout-s", "2")
    with serve(store, ring, *arguments) as daemon, ringfeed.attach(f"{ring}-train", batch_size=4) as reader:
        (worker,) = daemon.workers()
        os.kill(worker, signal.SIGSTOP)
        for _ in range(6):
            for batch in reader:
                assert batch.valid.all()
        wait_until(lambda: ring_status(f"{ring}-train").worker_deaths == 1)
    assert "has been stopped by a signal or a debugger for 2 s; it is killed" in daemon.output.rest()

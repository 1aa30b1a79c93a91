"""What bounds a ring in the situations that operators meet: a real daemon, real readers, a store that misbehaves."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import uuid
from collections import Counter

import pytest
from decode_reference import encode, photograph
from house import RINGFEED, Daemon, photographs, wait_until, write_objects
from store_process import StoreProcess

from ringfeed.cli.status import ring_status

READER = """
import sys, time, ringfeed
ring, group, step_s, world_size = sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4])
with ringfeed.attach(ring, batch_size=8, group=group, rank=0, world_size=world_size) as reader:
    while True:
        for batch in reader:
            del batch
            time.sleep(step_s)
"""

pytestmark = pytest.mark.slow


class Readers:
    """Processes that read until the test ends."""

    def __init__(self, ring: str) -> None:
        self.ring, self.processes = ring, []

    def start(self, group: str = "job", *, split: str = "train", step_s: float = 0.0, world_size: int = 1) -> int:
        arguments = [f"{self.ring}-{split}", group, str(step_s), str(world_size)]
        self.processes.append(subprocess.Popen([sys.executable, "-c", READER, *arguments], stderr=subprocess.DEVNULL))
        return self.processes[-1].pid

    def kill(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


@pytest.fixture
def ring():
    return f"t{uuid.uuid4().hex[:10]}"


@pytest.fixture
def readers(ring):
    readers = Readers(ring)
    yield readers
    readers.kill()


@pytest.fixture
def small(tmp_path):
    """Files of a bucket with small pictures."""
    write_objects(tmp_path / "b", photographs(100, prefix=""))
    return tmp_path


@pytest.fixture
def large(tmp_path):
    """Files of a bucket with pictures of 3000x2000 pixels."""
    picture = photograph("china").resize((3000, 2000))
    image, label = encode(picture, "JPEG", quality=85), encode(picture.quantize(8, dither=0), "PNG")
    for number in range(30):
        write_objects(tmp_path / "b", {f"images/{number}.jpg": image, f"labels/{number}.png": label})
    return tmp_path


@pytest.fixture
def serve(ring):
    """Starts a store over files, and a daemon that reads from it."""
    started = []

    def start(files, *faults: str, settings: tuple[str, ...] = ()) -> StoreProcess:
        store = StoreProcess(files, *faults)
        started.append(store)
        store.start()
        daemon = Daemon("gs://b", "--emulator", store.url, "--slots", "64", *settings, ring=ring)
        started.append(daemon.__enter__())
        return store

    yield start
    for one in reversed(started):
        if isinstance(one, Daemon):
            one.__exit__(None)
        else:
            one.kill()


def doctor(name: str) -> dict[str, object]:
    """What `ringfeed doctor --json` says of a ring."""
    run = subprocess.run([*RINGFEED, "doctor", "--json"], capture_output=True, text=True, check=False)
    return next(check for check in json.loads(run.stdout) if check["topic"] == f"ring {name}")


def assert_named(ring: str, by: str, says: str, *, for_s: float = 5.0) -> None:
    """Wait until `doctor` names a cause with these words, and see that `status` sticks to it."""
    found: dict[str, object] = {}

    def is_named() -> bool:
        found.update(doctor(ring))
        return found["verdict"]["by"] == by and says in found["verdict"]["sentence"]

    wait_until(is_named, timeout_s=90.0, found=found)
    assert found["verdict"]["sentence"] in found["found"]
    assert (found["level"] == "ok") == (by in ("nothing", "idle", "starting"))
    seen: Counter[str] = Counter()
    end = time.monotonic() + for_s
    while time.monotonic() < end:
        seen[ring_status(ring).verdict.by] += 1
        time.sleep(0.1)
    assert seen[by] >= 0.8 * seen.total(), seen


def test_stragglers_and_latency_are_named(ring, readers, serve, small):
    serve(small, "--latency-ms", "300", "--fault", "latency+3:0.02", settings=("--concurrency", "8", "--workers", "2"))
    readers.start()
    assert_named(f"{ring}-train", "store_latency", "Set concurrency =")


def test_the_stores_limit_is_named(ring, readers, serve, small):
    serve(small, "--reads-per-s", "50", settings=("--workers", "2"))
    readers.start()
    assert_named(f"{ring}-train", "store_limit", "requests/s through")


def test_one_worker_with_large_pictures_is_named(ring, readers, serve, large):
    serve(large, settings=("--workers", "1", "--size", "200x300"))
    readers.start()
    assert_named(f"{ring}-train", "decoding", "1 worker has pairs to decode")


def test_a_slow_trainer_is_its_own_bottleneck(ring, readers, serve, small):
    serve(small, settings=("--workers", "2"))
    readers.start(step_s=0.2)
    assert_named(f"{ring}-train", "nothing", "the trainers are the bottleneck")


def test_an_evaluator_beside_a_hungry_job_is_named(ring, readers, serve, large):
    serve(large, settings=("--workers", "1", "--size", "200x300", "--test-ratio", "0.4"))
    readers.start()
    readers.start("eval", split="test")
    assert_named(f"{ring}-test", "other_ring", f"ring {ring}-train gets")


def test_a_slow_evaluator_on_one_ring_is_named(ring, readers, serve, small):
    serve(small, settings=("--workers", "2"))
    readers.start()
    pid = readers.start("eval", step_s=0.5)
    assert_named(f"{ring}-train", "reader", f"group 'eval' (pid {pid})")


def test_one_late_object_is_named_with_its_id(ring, readers, serve, small):
    """And it is not mistaken for an outage, in the log as little as in the verdict."""
    store = serve(small, settings=("--workers", "2", "--order", "sequential"))
    readers.start(step_s=0.05)
    wait_until(lambda: ring_status(f"{ring}-train").published > 20)
    store.ask("/_faults", "POST", b"latency+15:1:images/sub/0050.jpg")
    assert_named(f"{ring}-train", "late_object", "sub/0050 was asked for at", for_s=2.0)


def test_a_rank_that_never_came_is_named(ring, readers, serve, small):
    serve(small, settings=("--workers", "2"))
    readers.start(world_size=2)
    assert_named(f"{ring}-train", "missing_rank", "rank 1/2 of group 'job' has never attached")


def test_an_outage_is_named_while_it_lasts(ring, readers, serve, small):
    store = serve(small, settings=("--workers", "2"))
    readers.start()
    wait_until(lambda: ring_status(f"{ring}-train").published > 200)
    store.kill()
    assert_named(f"{ring}-train", "store_down", "unreachable since")
    store.start()
    wait_until(lambda: ring_status(f"{ring}-train").verdict.by != "store_down")

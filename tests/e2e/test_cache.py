"""The cache in a whole daemon: order and pixels are those without it, and what is kept is not fetched again.

Each batch of each test is timed: none is waited for longer than a fetch takes, whatever happens to the cache.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from decode_reference import encode
from house import NAMESPACE, Daemon, photographs, traces, wait_until, wipe
from manager import Manager
from PIL import Image

import ringfeed
from ringfeed.cli.status import ring_status
from ringfeed.shm.segment import shm_path
from ringfeedd.cache.memory import file_name
from ringfeedd.cache.rows import FIRST_ROW, RowGeometry
from ringfeedd.cache.segments import segment_path, segments
from ringfeedd.fakegcs import FakeGcs, serve_in_thread

PAIRS = 60
SIZE = (40, 56)
ROW = RowGeometry(40 * 56 * 3, 40 * 56)
BROKEN = 4
FULL, HALF = "64 MiB", f"{ROW.pitch * (PAIRS // 2)} B"


def objects(number: int = PAIRS) -> dict[str, bytes]:
    """Pairs of which some have no picture."""
    found = photographs(number)
    for name in [name for name in found if name.endswith(".jpg")][3::15]:
        found[name] = b"no picture"
    return found


@pytest.fixture(scope="module")
def store():
    served_objects = FakeGcs({"b": objects()})
    with serve_in_thread(served_objects) as served:
        served_objects.url = served.url
        yield served_objects


def daemon(store: FakeGcs, ring: str, *flags: object, fit: str = "resize", slots: int = 16) -> Daemon:
    size = "x".join(map(str, SIZE)) if fit != "native" else "80x102"
    flags = ("--label-mode", "index", "--slots", slots, "--max-failed", "1", "--workers", "2", *flags)
    return Daemon("gs://b/set", "--emulator", store.url, "--size", size, "--fit", fit, *flags, ring=ring)


class Waits:
    """The longest waits for a batch of this process, in seconds: until now, and without a cache."""

    longest_s = without_cache_s = 0.0

    @classmethod
    def note(cls, waited_s: float) -> None:
        """Take note of a wait. It may be five times as long as without a cache, and 10 s on a busy machine."""
        cls.longest_s = max(cls.longest_s, waited_s)
        assert waited_s <= max(10.0, 5 * cls.without_cache_s)


def timed(reader: ringfeed.Reader):
    """The batches of one epoch; see `Waits`."""
    batches = iter(reader)
    while True:
        began = time.monotonic()
        batch = next(batches, None)
        Waits.note(time.monotonic() - began)
        if batch is None:
            return
        yield batch


def read(reader: ringfeed.Reader) -> list[tuple[str, bool, str]]:
    """One epoch: ids, whether they are the order's own, and their pixels."""
    return [
        (pair_id, bool(valid), hashlib.blake2b(bytes(image) + bytes(label), digest_size=8).hexdigest())
        for batch in timed(reader)
        for pair_id, valid, image, label in zip(batch.ids, batch.valid, batch.image, batch.label, strict=True)
    ]


def epochs(ring: str, count: int) -> list[list[tuple[str, bool, str]]]:
    with ringfeed.attach(f"{ring}-train", batch_size=4, drop_last=False) as reader:
        return [read(reader) for _ in range(count)]


def reads(store: FakeGcs) -> int:
    """Requests for objects that the store has counted."""
    return sum(count for (kind, _), count in store.requests.items() if kind == "read")


@pytest.fixture(scope="module")
def expected(store):
    """Three epochs without a cache, by fit."""
    found = {}
    for fit in ("resize", "native"):
        ring = f"plain{os.getpid()}{fit}"
        with daemon(store, ring, fit=fit):
            found[fit] = epochs(ring, 3)
    Waits.without_cache_s = Waits.longest_s
    return found


TIERS = {
    "full memory": ("--cache-memory", FULL),
    "half memory": ("--cache-memory", HALF),
    "full disk": ("--cache-disk", "DIR", "--cache-disk-size", FULL),
    "half disk": ("--cache-disk", "DIR", "--cache-disk-size", "150 kB"),
    "both halves": ("--cache-memory", HALF, "--cache-disk", "DIR", "--cache-disk-size", "150 kB"),
}


@pytest.mark.parametrize("fit", ["resize", "native"])
@pytest.mark.parametrize("tiers", TIERS)
def test_order_and_pixels_are_those_without_a_cache(store, ring, expected, tmp_path, tiers, fit):
    flags = [str(tmp_path / "cache") if flag == "DIR" else flag for flag in TIERS[tiers]]
    with daemon(store, ring, *flags, fit=fit):
        assert epochs(ring, 3) == expected[fit]


def test_memory_for_half_the_set_hits_its_share(ring):
    """In each epoch. The server's own count says that it is exactly half of the pairs."""
    store = FakeGcs({"b": photographs(PAIRS)})
    with serve_in_thread(store) as served:
        store.url = served.url
        with daemon(store, ring, "--cache-memory", HALF), ringfeed.attach(f"{ring}-train", batch_size=4) as reader:

            def counts(epochs):
                """Pairs from memory and pairs decoded, once they tell of so many epochs: they are a moment old."""

                def now():
                    status = ring_status(f"{ring}-train")
                    return status.memory_hits, status.decoded_pairs

                wait_until(lambda: sum(now()) >= epochs * PAIRS)
                return now()

            read(reader)
            read(reader)
            before = counts(2)
            for _ in range(8):
                read(reader)
            after = counts(10)
    kept, others = after[0] - before[0], after[1] - before[1]
    assert kept + others >= 6 * PAIRS  # up to an epoch is on its way at each look
    assert 0.4 <= kept / (kept + others) <= 0.6
    times = [count for (kind, _), count in store.requests.items() if kind == "read"]
    assert sum(count <= 3 for count in times) == PAIRS  # objects of half of the pairs: some were read before their rows
    assert sum(count >= 10 for count in times) == PAIRS  # had memory; the others are read in each epoch


def test_a_full_disk_cache_saves_every_request(ring, tmp_path):
    """Over a restart, too."""
    store = FakeGcs({"b": photographs(PAIRS)})
    with serve_in_thread(store) as served:
        store.url = served.url
        flags = ("--cache-disk", tmp_path / "cache", "--cache-disk-size", FULL)
        with daemon(store, ring, *flags):
            first = epochs(ring, 3)
            assert reads(store) == 2 * PAIRS
        with daemon(store, ring, *flags):
            assert epochs(ring, 3) == first
            assert reads(store) == 2 * PAIRS


def test_damaged_entries_are_fetched_again(store, ring, expected, tmp_path):
    flags = ("--cache-disk", tmp_path / "cache", "--cache-disk-size", FULL)
    with daemon(store, ring, *flags):
        epochs(ring, 1)
    (folder,) = (tmp_path / "cache").iterdir()
    for number in segments(str(folder)):
        path = Path(segment_path(str(folder), number))
        data = bytearray(path.read_bytes())
        for offset in range(500, len(data), 3000):
            data[offset] ^= 1
        path.write_bytes(data)
    before = reads(store)
    with daemon(store, ring, *flags):
        assert epochs(ring, 3) == expected["resize"]
    # Each is fetched and stored once; those without a picture are asked for in each of up to five epochs, and again.
    assert before < reads(store) <= before + 2 * PAIRS + 2 * 2 * BROKEN * 5


def test_a_removed_folder_costs_requests_only(store, ring, expected, tmp_path):
    flags = ("--cache-disk", tmp_path / "cache", "--cache-disk-size", FULL)
    with daemon(store, ring, *flags) as served:
        with ringfeed.attach(f"{ring}-train", batch_size=4) as reader:
            assert read(reader) == expected["resize"][0]
            shutil.rmtree(tmp_path / "cache")
            assert read(reader) == expected["resize"][1]
            (tmp_path / "cache").mkdir()
            assert read(reader) == expected["resize"][2]
        served.output.wait_for("WARNING ringfeedd.cache")


def test_killed_workers_leave_no_wrong_row(store, ring, expected, tmp_path):
    flags = ("--cache-memory", FULL, "--cache-disk", tmp_path / "cache", "--cache-disk-size", FULL)
    with daemon(store, ring, *flags) as served, ringfeed.attach(f"{ring}-train", batch_size=4) as reader:
        for epoch in range(3):
            found = []
            for number, batch in enumerate(timed(reader)):
                found += list(batch.ids)
                if number % 5 == 2:
                    for pid in served.workers()[:1]:
                        os.kill(pid, signal.SIGKILL)
            assert found == [pair_id for pair_id, *_ in expected["resize"][epoch]]
        known = {pair_id: digest for each in expected["resize"] for pair_id, _, digest in each}
        assert all(digest == known[pair_id] for pair_id, _, digest in read(reader))


def killed_during_fills(store, ring, expected, folder: Path, times: int) -> None:
    """Kill the daemon again and again while it fills both tiers; flip bits in between, in memory and on disk."""
    drawn = random.Random(0)
    known = {pair_id: digest for epoch in expected for pair_id, valid, digest in epoch}
    flags = ("--cache-memory", HALF, "--cache-disk", folder, "--cache-disk-size", FULL)
    served = daemon(store, ring, *flags)
    try:
        for _ in range(times):
            served.start()
            served.output.wait_for("ready")
            with ringfeed.attach(f"{ring}-train", batch_size=4, start="epoch") as reader:
                for _, batch in zip(range(drawn.randrange(1, 40)), _endless(reader), strict=False):
                    for pair_id, image, label in zip(batch.ids, batch.image, batch.label, strict=True):
                        digest = hashlib.blake2b(bytes(image) + bytes(label), digest_size=8).hexdigest()
                        assert digest == known[pair_id]
                served.process.kill()
                served.process.wait()
            _flip_bits(ring, folder, drawn)
    finally:
        if served.process.poll() is None:
            served.process.kill()
            served.process.wait()
        wipe(ring)


def _endless(reader: ringfeed.Reader):
    while True:
        yield from timed(reader)


def _flip_bits(ring: str, folder: Path, drawn: random.Random) -> None:
    """One in every hundredth entry or so of both tiers."""
    files = [Path(segment_path(str(one), number)) for one in folder.iterdir() for number in segments(str(one))]
    memory = shm_path(file_name(f"{ring}-train"))
    for path in [*files, memory]:
        size = path.stat().st_size if path.exists() else 0
        first = FIRST_ROW if path == memory else 0
        for _ in range(size // (100 * ROW.pitch) + 1 if size > first else 0):
            with path.open("r+b") as file:
                file.seek(offset := drawn.randrange(first, size))
                (byte,) = file.read(1)
                file.seek(offset)
                file.write(bytes([byte ^ 1 << drawn.randrange(8)]))


def test_a_daemon_killed_during_fills_leaves_right_pixels(store, ring, expected, tmp_path):
    killed_during_fills(store, ring, expected["resize"], tmp_path, 4)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_daemon_killed_many_times_leaves_right_pixels(store, ring, expected, tmp_path):
    """``RINGFEED_CACHE_KILLS=50`` kills it more often, and ``-s`` shows the longest waits."""
    Waits.longest_s = 0.0
    killed_during_fills(store, ring, expected["resize"], tmp_path, int(os.environ.get("RINGFEED_CACHE_KILLS", "15")))
    sys.stdout.write(f"longest wait {Waits.longest_s:.2f} s, without a cache {Waits.without_cache_s:.2f} s\n")


def test_a_replaced_object_shows_its_new_pixels(ring, tmp_path):
    found = photographs(12)
    store = FakeGcs({"b": found})
    flags = ("--cache-memory", FULL, "--cache-disk", tmp_path / "cache", "--cache-disk-size", FULL)
    with serve_in_thread(store) as served:
        store.url = served.url
        with daemon(store, ring, *flags), ringfeed.attach(f"{ring}-train", batch_size=4) as reader:
            read(reader)
            read(reader)
            name = next(name for name in found if name.endswith(".jpg"))
            pair_id = name.removeprefix("set/images/").removesuffix(".jpg")
            found[name] = encode(Image.new("RGB", (90, 70), (200, 10, 20)), "JPEG", quality=95)
            subprocess.run([sys.executable, "-m", "ringfeedd", "refresh", f"{ring}-train"], check=True)

            def red() -> bool:
                pixels = [
                    image[0, 0].tolist()
                    for batch in reader
                    for one, image in zip(batch.ids, batch.image, strict=True)
                    if one == pair_id
                ]
                return pixels[0][0] > 190 and pixels[0][1] < 30

            wait_until(red, 20)


FULL_DISK = """
import sys
from pathlib import Path
import test_cache
from house import Daemon
url, ring, folder = sys.argv[1:]
class Store: pass
Store.url = url
with test_cache.daemon(Store, ring, "--cache-disk", folder, "--cache-disk-size", test_cache.FULL) as served:
    for epoch in test_cache.epochs(ring, 3):
        print(epoch)
    served.output.wait_for("WARNING ringfeedd.cache: nothing can be stored")
"""


def test_a_full_disk_costs_requests_only(store, ring, expected, tmp_path):
    folder = tmp_path / "cache"
    folder.mkdir()
    mount = f"size=150k,mode=1777 tmpfs {folder} && mount -t tmpfs -o size=512m"
    if subprocess.run([*NAMESPACE, "size=64k", "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a file system")
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    then, command = '&& exec "$@"', [sys.executable, "-c", FULL_DISK, store.url, ring, str(folder)]
    done = subprocess.run(
        [*NAMESPACE[:-1], f"mount -t tmpfs -o {mount},mode=1777 tmpfs /dev/shm {then}", "sh", *command],
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, "PYTHONPATH": path},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines() == [str(epoch) for epoch in expected["resize"]]


def test_a_dead_daemons_rows_are_used_or_removed(store, ring, expected):
    served = daemon(store, ring, "--cache-memory", FULL).start()
    try:
        served.output.wait_for("ready")
        assert epochs(ring, 2) == expected["resize"][:2]
        served.process.kill()
        served.process.wait()
        before = reads(store)
        served.start()
        assert f"{PAIRS - BROKEN} were kept" in served.output.wait_for("memory cache:")
        served.output.wait_for("ready")
        assert epochs(ring, 1) == expected["resize"][:1]
        assert reads(store) - before <= 2 * BROKEN * 5
        served.process.kill()
        served.process.wait()
        assert shm_path(file_name(f"{ring}-train")).exists()
        with daemon(store, ring):
            assert not shm_path(file_name(f"{ring}-train")).exists()
    finally:
        served.process.kill()
        served.process.wait()
        wipe(ring)


def test_a_service_restart_keeps_memory(store, ring, expected, tmp_path):
    """A damaged header makes the next daemon start empty; a stop for good leaves nothing."""
    served, manager = daemon(store, ring, "--cache-memory", FULL), Manager(tmp_path / "notify")
    kept = f"{ring}-train.cache"

    def run(expected_line: str, epochs_read: int) -> int:
        """Read some epochs of a daemon, and stop it; return the requests that the pairs took."""
        before = reads(store)
        manager.start(served)
        try:
            assert expected_line in served.output.wait_for("memory cache:")
            served.output.wait_for("ready")
            assert epochs(ring, epochs_read) == expected["resize"][:epochs_read]
            served.process.terminate()
            assert served.process.wait(20) == 0
        finally:
            served.process.kill()
            served.process.wait()
        assert traces(ring) == []
        manager.wait_heard()
        return reads(store) - before

    try:
        assert run("pairs fit", 2) >= 2 * (PAIRS - BROKEN)
        assert list(manager.store) == [kept]
        for _ in range(2):
            assert run(f"{PAIRS - BROKEN} were kept", 1) <= 2 * BROKEN * 5
            assert list(manager.store) == [kept]
        os.pwrite(manager.store[kept], b"\xff", 20)
        assert run("pairs fit", 2) >= 2 * (PAIRS - BROKEN)
        served.command += ["--cache-memory", "off"]
        manager.start(served).output.wait_for("ready")
        wait_until(lambda: not manager.store)
    finally:
        served.process.kill()
        served.process.wait()
        manager.close()
        wipe(ring)

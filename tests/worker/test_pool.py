"""The pool of workers: what it says and does of workers that are silent, or cannot be started."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from unittest.mock import Mock

import pytest
from house import Daemon, wait_until, write_folder

import ringfeed
from ringfeedd.cache.disk_share import DiskOrder
from ringfeedd.catalog.catalog import Pair
from ringfeedd.errors import EXIT_COULD_NOT_START, EXIT_CRASH, CrashError, StartError
from ringfeedd.fetch.policy import FetchPolicy
from ringfeedd.storage.base import ObjectInfo
from ringfeedd.system.children import process_state
from ringfeedd.worker import pool as pool_module
from ringfeedd.worker.heartbeat import CREDIT_WORD, HEARTBEAT_WORD, SUSPECT_WORD, VITAL_WORDS
from ringfeedd.worker.link import SILENCE_S, WorkerLink
from ringfeedd.worker.pool import STILLBORN_WORKERS, Pool, PoolListener
from ringfeedd.worker.process import Spawner
from ringfeedd.worker.protocol import Hello, PairJob, Tuning


class Sleeper:
    """A real process that is killed as a worker is."""

    def __init__(self) -> None:
        self._process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        self.pid = self._process.pid

    def kill(self) -> None:
        self._process.kill()

    async def wait(self) -> int:
        return self._process.wait()


def make_pool(spawner: Spawner | None = None) -> Pool:
    tuning = Tuning(1, 1, FetchPolicy())
    hello = Hello("gs://nothing", None, tuning, [])
    return Pool(hello, [tuning], Mock(spec=PoolListener), most_pairs=1, spawner=spawner)


@pytest.fixture
def silent() -> Iterator[tuple[Pool, WorkerLink]]:
    """A pool with a worker whose loop has turned once, at second 0."""
    pool, process = make_pool(), Sleeper()
    vitals = memoryview(bytearray(8 * VITAL_WORDS)).cast("Q")
    vitals[HEARTBEAT_WORD] = 1
    worker = pool._workers[0] = WorkerLink(0, process, None, None, vitals)  # type: ignore[arg-type]
    pool.look(0.0, 60.0)
    yield pool, worker
    process.kill()
    process._process.communicate()


def killed(worker: WorkerLink) -> bool:
    try:
        return worker.process._process.wait(0.05) == -signal.SIGKILL  # type: ignore[attr-defined]
    except subprocess.TimeoutExpired:
        return False


class Pipe:
    """Keeps what a worker would read."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []

    def write(self, frame: bytes) -> None:
        self.frames.append(frame)


def make_linked_pool(*takes: int) -> tuple[Pool, list[WorkerLink]]:
    """A pool of workers that take as many pairs as their words say, of 100 at a time."""
    tuning = Tuning(1, 1, FetchPolicy())
    hello = Hello("gs://nothing", None, tuning, [])
    pool = Pool(hello, [tuning] * len(takes), Mock(spec=PoolListener), most_pairs=100)
    for number, credit in enumerate(takes):
        vitals = memoryview(bytearray(8 * VITAL_WORDS)).cast("Q")
        vitals[CREDIT_WORD] = credit
        pool._workers[number] = WorkerLink(number, None, None, Pipe(), vitals)  # type: ignore[arg-type]
    return pool, list(pool._workers.values())


def jobs(*seqs: int) -> list[PairJob]:
    return [PairJob(seq, Pair(str(seq), ObjectInfo("i", 1), ObjectInfo("l", 1))) for seq in seqs]


def test_a_worker_gets_the_pairs_it_takes():
    """The number that it tells counts from its start, without what lies on disk; 0 is no limit."""
    pool, (slow, fast) = make_linked_pool(3, 40)
    assert pool.room == 43
    pool.give(0, jobs(*range(43)))
    assert (len(slow.pairs), len(fast.pairs), pool.room) == (3, 40, 0)
    slow.vitals[CREDIT_WORD] = 5
    assert pool.room == 2
    pool.give(0, [PairJob(99, jobs(99)[0].pair, disk=DiskOrder(99, 1, place=0, size=1, store=False))])
    assert pool.room == 2
    fast.vitals[CREDIT_WORD] = 0
    assert pool.room == 2 + 60


def test_a_silent_worker_is_named_then_killed(silent, caplog):
    pool, worker = silent
    worker.vitals[SUSPECT_WORD] = 8  # pair 7
    for now in (SILENCE_S, SILENCE_S + 1, SILENCE_S + 2, 60.0):
        pool.look(now, 60.0)
    (said,) = caplog.messages
    assert "has been decoding pair 7 for 11 s; the ring waits for its pairs. It is killed after 60 s" in said
    assert not killed(worker)
    pool.look(61.0, 60.0)
    assert "has been decoding pair 7 for 61 s; it is killed" in caplog.messages[-1]
    assert killed(worker)


def test_each_silence_is_named_once(silent, caplog):
    pool, worker = silent
    pool.look(SILENCE_S + 1, 60.0)
    worker.vitals[HEARTBEAT_WORD] += 1
    for now in (20.0, 25.0, 31.0):
        pool.look(now, 60.0)
    assert len(caplog.messages) == 2


def test_a_stopped_worker_is_killed_after_ten_seconds(silent, caplog):
    """Only then its pairs can be given to others: it writes into their slots no more."""
    pool, worker = silent
    os.kill(worker.process.pid, signal.SIGSTOP)
    wait_until(lambda: process_state(worker.process.pid) == "T")
    pool.look(SILENCE_S, 60.0)
    assert not killed(worker)
    pool.look(SILENCE_S + 1, 60.0)
    assert "has been stopped by a signal or a debugger for 11 s; it is killed" in caplog.messages[-1]
    assert killed(worker)


@pytest.mark.slow
def test_a_stopped_worker_halts_no_ring(tmp_path, ring):
    root = write_folder(tmp_path / "root", 64)
    with Daemon(str(root), "--size", "24x32", "--slots", "32", "--workers", "2", ring=ring) as daemon:
        with ringfeed.attach(f"{ring}-train", batch_size=4) as reader:
            os.kill(daemon.workers()[0], signal.SIGSTOP)
            assert sum(len(batch.ids) for _ in range(40) for batch in reader) == 40 * 64
        assert "stopped by a signal" in daemon.output.wait_for("WARNING ringfeedd.pool: worker")


class Failing(Spawner):
    """Cannot start a process, or not for the first so many times."""

    def __init__(self, error: int, times: int, module: str = "this") -> None:
        super().__init__(module=module)
        self._error, self._left = error, times

    async def spawn(self, fds):
        self._left -= 1
        if self._left >= 0:
            raise OSError(self._error, os.strerror(self._error))
        return await super().spawn(fds)


async def begin_and(pool: Pool, done) -> None:
    pool.start()
    try:
        async with asyncio.timeout(30):
            while not done(pool):
                pool.check()
                await asyncio.sleep(0.01)
    finally:
        await pool.stop()


@pytest.mark.parametrize("error", [errno.EAGAIN, errno.ENOMEM, errno.EMFILE])
def test_a_failed_start_of_a_worker_is_repeated(error, caplog, monkeypatch):
    monkeypatch.setattr(pool_module, "RESTART_DELAY_S", 0.02)
    asyncio.run(begin_and(make_pool(Failing(error, 4)), lambda pool: pool._workers))
    assert [record.levelname for record in caplog.records][:1] == ["WARNING"]
    assert sum("could not be started, and is tried again" in message for message in caplog.messages) == 1


def test_a_pool_without_any_worker_gives_up(monkeypatch):
    monkeypatch.setattr(pool_module, "RESTART_DELAY_S", 0.02)
    monkeypatch.setattr(pool_module, "START_PATIENCE_S", 0.2)
    with pytest.raises(StartError, match="no worker could be started: this user") as e:
        asyncio.run(begin_and(make_pool(Failing(errno.EAGAIN, 10**6)), lambda _: False))
    assert e.value.exit_code == EXIT_COULD_NOT_START


def test_stillborn_workers_end_a_start(monkeypatch):
    monkeypatch.setattr(pool_module, "RESTART_DELAY_S", 0.02)
    with pytest.raises(
        StartError, match=f"{STILLBORN_WORKERS} workers ended before they began, the last one with exit"
    ):
        asyncio.run(begin_and(make_pool(Failing(0, 0, "ringfeedd.nothing")), lambda _: False))


def test_a_defect_of_the_pool_is_a_crash():
    class Broken(Spawner):
        async def spawn(self, fds):
            raise ZeroDivisionError

    with pytest.raises(CrashError, match="ZeroDivisionError") as e:
        asyncio.run(begin_and(make_pool(Broken()), lambda _: False))
    assert e.value.exit_code == EXIT_CRASH

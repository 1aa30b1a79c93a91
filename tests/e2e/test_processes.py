"""Processes that are killed at any step, stopped, forked, interrupted, or shared by threads: nobody else notices."""

from __future__ import annotations

import gc
import itertools
import os
import signal
import socket
import threading
import time
import weakref
from collections import Counter
from pathlib import Path

import pytest
from dying import Zygote
from house import SHM, Daemon, Output, finish, trainer, wait_until, wipe, write_folder
from ring_fixtures import Served, served_ring, turning

import ringfeed
from ringfeed.cli.status import ring_status
from ringfeed.reader import delivery
from ringfeed.shm.layout import Lane, RingState, State
from ringfeedd.ring.groups import Groups
from ringfeedd.system.clock import LONGEST_TURN_S, TurnClock

STEPS_OF_A_TRAINER = 500
"""More than it takes; the story's own end is what ends the loop."""


@pytest.fixture
def served():
    with served_ring() as served:
        yield served


def files(ring: str) -> set[str]:
    return {path.name for path in SHM.iterdir() if ring in path.name}


def all_lanes_free(served: Served) -> bool:
    lanes = range(served.memory.geometry.lanes)
    return not any(served.memory.lanes[lane][Lane.ANSWER_NONCE] or served.memory.lane_lives(lane) for lane in lanes)


# Killed at every step.


def killed_at_every_step(zygote: Zygote, served: Served):
    """Yields after each death, once the lanes are free again."""
    with turning(served):
        for step in range(1, STEPS_OF_A_TRAINER):
            zygote.begin(step)
            code = zygote.end()
            wait_until(lambda: all_lanes_free(served), 10)
            if code == 0:
                assert step > 40
                zygote.close()
                return
            assert code == -signal.SIGKILL, step
            yield step
    pytest.fail("the story never came to its end")


def test_a_trainer_killed_at_any_step_leaves_nothing(served, tmp_path):
    """No lane and no file, and it stalls no other reader."""
    before = files(served.name)
    for step in killed_at_every_step(Zygote("trainer", served.name, "", tmp_path / "log"), served):
        with ringfeed.attach(served.name, batch_size=8, start="now") as reader:
            seqs = [int(batch.seqs[0]) for batch in reader] if step % 8 == 0 else [int(next(iter(reader)).seqs[0])]
        if step % 8 == 0:  # more than once round the ring: every slot that the dead one held was freed
            assert seqs[-1] - seqs[0] > served.memory.geometry.slots
    assert files(served.name) == before
    assert served.service.failed is None


def test_a_rank_killed_anywhere_restarts_without_repeats(tmp_path):
    """It misses only what it had taken."""
    log = tmp_path / "log"
    patient = Groups(linger_s=1e9, linger_blocking_s=1e9)
    with served_ring(groups=patient) as served:
        for _ in killed_at_every_step(Zygote("trainer", served.name, "victim", log), served):
            pass
    rows = [tuple(map(int, line.split())) for line in log.read_text().splitlines()]
    logged = Counter(pid for pid, _, _ in rows)
    for (pid, *before), (next_pid, *after) in itertools.pairwise(rows):
        pairs = 50 * (after[0] - before[0]) + after[1] - before[1]
        if pid == next_pid:
            assert pairs == 2
        elif after == [0, 0] and logged[pid] == 4:
            pass  # it was killed when it had said that it leaves
        else:
            # a batch that was taken and not logged yet, in each of the lives that logged nothing
            assert pairs in (2, 4, 6), (before, after)


QUICK = [*range(1, 60, 6), *range(60, 600, 90)]
ALL = range(1, 300)


@pytest.mark.parametrize("steps", [QUICK, pytest.param(ALL, marks=pytest.mark.slow)], ids=["quick", "all"])
def test_readers_survive_daemon_kills_at_every_step(ring, steps):
    """They get every pair in order."""
    zygote = Zygote("daemon", ring, 30)
    seen: list[tuple[int, int]] = []
    going = threading.Event()

    def read() -> None:
        with ringfeed.attach(ring, batch_size=3, group="g", wait_s=30, drop_last=False) as reader:
            while not going.is_set():
                for batch in reader:
                    seen.append((batch.epoch, int(batch.positions[0])))
                    assert batch.ids == [f"größe/{1000 + position}" for position in batch.positions]
                    if going.is_set():
                        break

    thread = threading.Thread(target=read)
    thread.start()
    try:
        for step in steps:
            zygote.begin(step)
            assert zygote.end() == -signal.SIGKILL, step
        last = zygote.begin(0)
        there = len(seen)
        wait_until(lambda: len(seen) > there + 10)
        going.set()
        thread.join(60)
        os.kill(last, signal.SIGTERM)
        assert zygote.end() == 0
        assert files(ring) == set()
    finally:
        going.set()
        zygote.close()
        wipe(ring)
        thread.join(60)
    assert seen == [(pair // 10, 3 * (pair % 10)) for pair in range(len(seen))]


def test_a_failed_attach_keeps_none_of_its_callers(served):
    """Else the caller's variables, with the batches in them, would live until a collection."""

    class Anything:
        pass

    def attempt() -> weakref.ref[Anything]:
        mine = Anything()
        with pytest.raises(ringfeed.DaemonGoneError, match="was stopped"):
            ringfeed.attach(served.name, batch_size=2)
        return weakref.ref(mine)

    served.memory.set(State.STATE, RingState.STOPPING)  # and it does not turn: the request is seen by nobody
    gc.collect()
    gc.disable()
    try:
        assert attempt()() is None
    finally:
        gc.enable()


def test_attaches_that_fail_leave_no_semaphore_open(served):
    code = (
        "import gc, os, sys, ringfeed\n"
        "try: ringfeed.attach(sys.argv[1], batch_size=10**6)\n"
        "except ringfeed.AttachRefusedError: pass\n"
        "gc.collect()\n"
        "print(sum('/sem.' in line for line in open('/proc/self/maps')), len(os.listdir('/proc/self/fd')))\n"
    )
    with turning(served):
        assert finish(trainer(code, served.name)) == "0 4\n", "its three streams, and the folder that is listed"


DYING_WORKERS = """
import os, pathlib, random, signal, sys, threading
left = pathlib.Path(os.environ["DEATHS"])
calls = None

def lifetime():
    for number in range(DEATHS_IN_ALL):
        try:
            (left / str(number)).touch(exist_ok=False)
        except FileExistsError:
            continue
        return random.Random(number).randrange(500, 20_000)
    return float("inf")

def count(frame, *_):
    global calls
    if calls is None and frame.f_code.co_name == "_begin_next":
        calls = lifetime()
    if calls is not None:
        calls -= 1
        if calls <= 0:
            os.kill(os.getpid(), signal.SIGKILL)

def count_calls():
    sys.setprofile(count)
    threading.setprofile(count)

if "ringfeedd.worker.forkserver" in sys.orig_argv:
    os.register_at_fork(after_in_child=count_calls)
"""


@pytest.mark.slow
def test_killed_workers_cost_no_place_and_no_pixel(ring, tmp_path, monkeypatch):
    """Whatever they were doing."""
    deaths = 4
    folder = write_folder(tmp_path / "set", 24)
    (tmp_path / "sitecustomize.py").write_text(DYING_WORKERS.replace("DEATHS_IN_ALL", str(deaths)))
    (tmp_path / "deaths").mkdir()
    monkeypatch.setenv("DEATHS", str(tmp_path / "deaths"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    daemon = Daemon(str(folder), "--slots", "32", "--size", "24x32", "--workers", "2", ring=ring)
    with daemon, ringfeed.attach(f"{ring}-train", batch_size=4) as reader:
        pictures = {}
        epochs = 0
        while ring_status(f"{ring}-train").worker_deaths < deaths or epochs < 3:
            epoch, epochs = [], epochs + 1
            assert epochs < 1000, "no worker dies: is the function that they count from called something else now?"
            for batch in reader:
                epoch += [int(position) for position in batch.positions]
                for pair_id, valid, image in zip(batch.ids, batch.valid, batch.image, strict=True):
                    if valid:  # else it was being decoded at two of the deaths, and is quarantined
                        assert pictures.setdefault(pair_id, image.tobytes()) == image.tobytes()
                    del image
                del batch
            assert epoch == list(range(24))
        assert len(pictures) >= 24 - deaths // 2


# Interrupted.

WAITING = """
import signal, sys, time, ringfeed

def raising(*_):
    raise RuntimeError("a worker died")

def attach(**more):
    return ringfeed.attach(sys.argv[1], **{"batch_size": 4, "drop_last": False} | more)

def read(reader):
    while True:
        for batch in reader:
            del batch

def wait_for_a_batch():
    with attach(group="two", world_size=2, wait_s=30) as reader:
        read(reader)

def wait_for_a_daemon():
    attach(wait_s=60)

def wait_for_an_answer():
    attach()

def wait_for_a_place():
    attach(start=(0, 0), wait=True)

wait_for_the_next_daemon = wait_for_a_batch

signal.signal(signal.SIGCHLD, raising)
for _ in range(2):
    print("begin", flush=True)
    try:
        globals()[sys.argv[2]]()
    except (KeyboardInterrupt, RuntimeError) as error:
        now = time.monotonic()
        print("ended", type(error).__name__, now, flush=True)
"""

PROMPTLY_S = 0.5


def interrupt_twice(process, waits) -> None:
    """Ctrl-C, then a handler that raises; each once the trainer waits."""
    output = Output(process)
    for number, error in ((signal.SIGINT, "KeyboardInterrupt"), (signal.SIGCHLD, "RuntimeError")):
        output.wait_for("begin")
        waits(output)
        sent = time.monotonic()
        process.send_signal(number)
        _, name, caught = output.wait_for("ended").split()
        assert name == error
        assert float(caught) - sent < PROMPTLY_S
    assert process.wait(20) == 0


def test_signals_end_the_wait_for_an_answer(served):
    """Ctrl-C and a handler that raises, at once; no lane is kept."""

    def asked(_output) -> None:
        wait_until(lambda: served.memory.lane_lives(0) and served.memory.lanes[0][Lane.NONCE] != 0)
        served.memory.lanes[0][Lane.NONCE] = 0  # this daemon turns for none of them

    interrupt_twice(trainer(WAITING, served.name, "wait_for_an_answer"), asked)
    served.turn()
    assert all_lanes_free(served)


def test_signals_end_the_wait_for_a_batch(served):
    """Ctrl-C and a handler that raises, at once; no lane is kept."""
    heard = set()

    def waits(_output) -> None:
        lanes = served.memory.lanes
        wait_until(lambda: any(page[Lane.NONCE] not in heard and page[Lane.WAITING_SINCE_NS] for page in lanes))
        heard.update(page[Lane.NONCE] for page in lanes)

    with turning(served, 0.01):
        interrupt_twice(trainer(WAITING, served.name, "wait_for_a_batch"), waits)
        wait_until(lambda: all_lanes_free(served))


def test_signals_end_the_wait_for_a_place(served):
    """Ctrl-C and a handler that raises, at once; no lane is kept."""
    heard = set()

    def a_new_one_is_pending() -> bool:
        nonces = {served.memory.lanes[lane][Lane.NONCE] for lane in served.service._lanes.waiting}
        return bool(nonces - heard)

    def waits(_output) -> None:
        wait_until(a_new_one_is_pending)
        heard.update(page[Lane.NONCE] for page in served.memory.lanes)

    with turning(served, 0.01), ringfeed.attach(served.name, batch_size=4) as reader:
        for batch in reader:
            del batch
        interrupt_twice(trainer(WAITING, served.name, "wait_for_a_place"), waits)
        wait_until(lambda: len(ring_status(served.name).consumers) == 1)


def test_signals_end_the_wait_for_a_daemon(ring):
    """Ctrl-C and a handler that raises, at once."""

    def waits(output) -> None:
        wait_until(lambda: Path(f"/proc/{process.pid}/wchan").read_text() not in ("0", ""))

    process = trainer(WAITING, ring, "wait_for_a_daemon")
    interrupt_twice(process, waits)


def test_signals_end_the_wait_for_another_daemon(ring):
    """Ctrl-C and a handler that raises, at once."""
    zygote = Zygote("daemon", ring, 50)

    def somebody_waits() -> bool:
        try:
            return any(lane.waiting_s for lane in ring_status(ring).consumers)
        except ringfeed.DaemonNotRunningError:
            return False  # not yet

    def waits(output: Output) -> None:
        wait_until(somebody_waits)
        os.kill(daemons[-1], signal.SIGKILL)
        output.wait_for("The daemon of ring")  # "... died. This reader waits up to 120 s for the next one."
        assert zygote.end() == -signal.SIGKILL
        daemons.append(zygote.begin(0))

    daemons = [zygote.begin(0)]
    try:
        process = trainer(WAITING, ring, "wait_for_the_next_daemon")
        interrupt_twice(process, waits)
    finally:
        os.kill(daemons[-1], signal.SIGKILL)
        zygote.close()
        wipe(ring)


@pytest.mark.parametrize("copy", [False, True])
@pytest.mark.parametrize("reads_first", [False, True])
def test_an_interrupted_read_repeats_its_batch(served, monkeypatch, *, copy: bool, reads_first: bool):
    with turning(served), ringfeed.attach(served.name, batch_size=4, copy=copy) as reader:
        batches = iter(reader)
        assert next(batches).positions[0] == 0
        state, read = reader.state_dict(), delivery.read_batch

        def interrupted(*arguments, **named):
            monkeypatch.undo()
            if reads_first:
                assert read(*arguments, **named).positions[0] == 4
            raise KeyboardInterrupt

        monkeypatch.setattr(delivery, "read_batch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            next(batches)
        assert reader.state_dict() == state
        assert [int(batch.positions[0]) for batch in batches] == list(range(4, 48, 4))


def test_a_signals_handler_may_close_a_waiting_reader(served):
    """And ask it for its state."""
    states = []

    def save_and_stop(*_) -> None:
        states.append(reader.state_dict())
        reader.close()

    def signal_once_it_waits() -> None:
        wait_until(lambda: served.memory.lanes[0][Lane.WAITING_SINCE_NS])
        os.kill(os.getpid(), signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, save_and_stop)
    thread = threading.Thread(target=signal_once_it_waits)
    try:
        with turning(served), ringfeed.attach(served.name, batch_size=4, group="two", world_size=2) as reader:
            thread.start()
            with pytest.raises(ringfeed.ReaderClosedError):
                for batch in reader:
                    del batch
            wait_until(lambda: all_lanes_free(served))
    finally:
        thread.join()
        signal.signal(signal.SIGUSR1, before)
    assert states[0]["position"] > 0


# Threads.


def test_threads_sharing_an_iterator_get_each_batch_once(served):
    seen: list[int] = []

    def read() -> None:
        seen.extend(int(batch.positions[0]) for batch in shared)

    with turning(served), ringfeed.attach(served.name, batch_size=1, copy=True) as reader:
        shared = iter(reader)
        threads = [threading.Thread(target=read) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(seen) == list(range(50))


def test_close_ends_another_threads_wait(served):
    """With a sentence."""
    errors = []

    def read() -> None:
        try:
            for batch in reader:
                del batch
        except ringfeed.ReaderClosedError as error:
            errors.append(error)

    with turning(served), ringfeed.attach(served.name, batch_size=4, group="two", world_size=2) as reader:
        thread = threading.Thread(target=read)
        thread.start()
        wait_until(lambda: served.memory.lanes[0][Lane.WAITING_SINCE_NS])
        reader.close()
        thread.join(60)
        assert "closed; attach again" in str(errors[0])
        wait_until(lambda: all_lanes_free(served))


def test_an_interpreter_ends_despite_a_waiting_thread(served):
    code = (
        "import sys, threading, ringfeed\n"
        "reader = ringfeed.attach(sys.argv[1], batch_size=4, group='two', world_size=2)\n"
        "def read():\n"
        "  for batch in reader: print('took', flush=True)\n"
        "threading.Thread(target=read, daemon=True).start()\n"
        "sys.stdin.readline()\n"
    )
    with turning(served):
        process = trainer(code, served.name)
        wait_until(lambda: any(page[Lane.WAITING_SINCE_NS] for page in served.memory.lanes))
        process.communicate("go\n", timeout=60)
        assert process.returncode == 0
        wait_until(lambda: all_lanes_free(served))


# Forked.

FORKING = """
import multiprocessing, os, signal, sys, threading, ringfeed

def use(pipe):
    errors = []
    calls = (lambda: next(iter(reader)), lambda: next(batches), lambda: reader.set_epoch(3))
    for call in calls:
        try:
            call()
        except ringfeed.ReaderClosedError as error:
            errors.append(str(error))
    assert len(errors) == 3 and all("opened by process" in error for error in errors), errors
    assert batch.ids[0] and batch.image.any()  # what it held, it can still see
    reader.close()
    os.write(pipe, b"done")

def in_child(how):
    receiving, sending = os.pipe()
    child = os.fork()
    if child == 0:
        use(sending)
        if how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "hard":
            os._exit(0)
        sys.exit(0)  # with everything that is registered for the interpreter's end
    os.close(sending)
    assert os.read(receiving, 4) == b"done", "the child failed"
    os.close(receiving)
    os.waitpid(child, 0)

def use_elsewhere(pipe, _unused):
    use(pipe)

with ringfeed.attach(sys.argv[1], batch_size=4, group="g", start=(0, 0)) as reader:
    batches = iter(reader)
    batch = next(batches)
    seen = list(batch.positions)
    for how in ("normally", "hard", "killed"):
        in_child(how)
        kept = next(batches)
        seen += list(kept.positions)
        del kept
    receiving, sending = os.pipe()
    process = multiprocessing.get_context("fork").Process(target=use_elsewhere, args=(sending, 0))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert batch._lease.ended and batch.image.any()  # a copy, which the child had too
    del batch
    for batch in batches:
        seen += list(batch.positions)
    assert seen == list(range(48)), seen
    del batch, batches
print("well")
"""

FORKING_WHILE_A_THREAD_WAITS = """
import os, signal, sys, threading, ringfeed
reader = ringfeed.attach(sys.argv[1], batch_size=4, group="two", world_size=2)

def read():
    for batch in reader:
        del batch

threading.Thread(target=read, daemon=True).start()
sys.stdin.readline()  # now it waits, and holds the reader's lock
child = os.fork()
if child == 0:
    signal.alarm(10)
    for call in (reader.state_dict, reader.close, lambda: next(iter(reader))):
        try:
            call()
        except ringfeed.ReaderClosedError:
            print("refused", flush=True)
    sys.exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
print("well", flush=True)
os._exit(0)
"""

A_CHILD_READS_BESIDE_ITS_PARENT = """
import os, sys, ringfeed
reader = ringfeed.attach(sys.argv[1], batch_size=4)
batches = iter(reader)
held = [next(batches), next(batches)]
child = os.fork()
if child == 0:
    with ringfeed.attach(sys.argv[1], batch_size=4) as own:
        os.write(1, b"%d\\n" % sum(len(batch) for batch in own))  # a line at once: both write
    os._exit(0)
sys.stdin.readline()  # now the child waits for what its parent keeps
os.write(1, b"%d\\n" % (8 + sum(len(batch) for batch in batches)))
next(iter(reader))
os.waitpid(child, 0)
"""


def test_a_forks_reader_closes_none_of_its_parents(served):
    with turning(served):
        process = trainer(A_CHILD_READS_BESIDE_ITS_PARENT, served.name)
        wait_until(lambda: any(page[Lane.WAITING_SINCE_NS] for page in served.memory.lanes))
        said, _ = process.communicate("go\n", timeout=20)
        assert "closed" not in said
        assert sorted(line for line in said.split("\n") if line.isdigit()) == ["40", "48"]


def test_a_forks_inherited_reader_is_refused(served):
    """With a sentence. The parent's continues, however the fork ends."""
    with turning(served):
        assert finish(trainer(FORKING, served.name), 30).endswith("well\n")
        wait_until(lambda: all_lanes_free(served))
    assert served.service._lanes.lane_deaths == 0


def test_a_fork_amid_another_threads_wait_is_safe(served):
    """It neither hangs nor reads."""
    with turning(served):
        process = trainer(FORKING_WHILE_A_THREAD_WAITS, served.name)
        wait_until(lambda: any(page[Lane.WAITING_SINCE_NS] for page in served.memory.lanes))
        said, _ = process.communicate("go\n", timeout=20)
        assert said == "refused\nwell\n"


# Stopped.


def test_only_a_stopped_daemons_watchdog_notices_the_stop(ring, tmp_path, monkeypatch):
    """It continues without losing a pair."""
    folder = write_folder(tmp_path / "set", 24)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "400000")
        daemon = Daemon(str(folder), "--slots", "32", "--size", "24x32", "--workers", "1", ring=ring)
        with daemon, ringfeed.attach(f"{ring}-train", batch_size=4) as reader:
            seen = []
            for stop in range(2):
                os.kill(daemon.process.pid, signal.SIGSTOP)
                os.waitid(os.P_PID, daemon.process.pid, os.WSTOPPED | os.WNOWAIT)
                manager.setblocking(False)
                with pytest.raises(BlockingIOError):
                    while True:
                        manager.recv(4096)
                manager.settimeout(0.5)
                with pytest.raises(TimeoutError):
                    manager.recv(4096)
                going_on = threading.Timer(0.2, os.kill, (daemon.process.pid, signal.SIGCONT))
                going_on.start()
                for batch in reader:
                    seen += [(batch.epoch, int(position)) for position in batch.positions]
                    del batch
                going_on.join()
                manager.settimeout(5)
                assert manager.recv(4096) == b"WATCHDOG=1", stop
    assert seen == [(epoch, position) for epoch in range(2) for position in range(24)]
    assert "died" not in daemon.output.rest()


def test_a_stopped_daemons_pause_counts_against_no_process():
    seconds = [100.0]
    clock = TurnClock(lambda: seconds[0])
    assert clock() == 100.0
    seconds[0] += 0.25
    assert clock() == 100.25
    seconds[0] += 3600.0
    assert clock() == 100.25 + LONGEST_TURN_S
    seconds[0] += 0.5
    assert clock() == 100.75 + LONGEST_TURN_S

"""The process from which workers are forked: whose children they are, what they hold, and what happens when it dies."""

import asyncio
import contextlib
import errno
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from house import RINGFEED, Daemon, wait_until, write_folder

import ringfeed
from ringfeed.cli.status import ring_status
from ringfeedd.log import BURST
from ringfeedd.system import prctl
from ringfeedd.system.children import ForkedProcess, PolledProcess, StartedProcess
from ringfeedd.worker import forkserver, worker
from ringfeedd.worker import process as spawn
from ringfeedd.worker.forkserver import encode_fork
from ringfeedd.worker.launcher import ForkServer, worker_environ
from ringfeedd.worker.process import Spawner


def test_workers_stream_large_copies():
    streamed = "glibc.cpu.x86_non_temporal_threshold"
    assert worker_environ({"A": "b"})["GLIBC_TUNABLES"] == f"{streamed}=131072"
    kept = worker_environ({"GLIBC_TUNABLES": "glibc.malloc.check=1"})["GLIBC_TUNABLES"]
    assert kept == f"glibc.malloc.check=1:{streamed}=131072"
    operators = {"GLIBC_TUNABLES": f"{streamed}=70000"}
    assert worker_environ(operators)["GLIBC_TUNABLES"] == operators["GLIBC_TUNABLES"]


def comm(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def children(pid: int, name: str) -> list[int]:
    """Living ones, by what the kernel calls them."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [child for child in map(int, found) if comm(child) == name and lives(child)]


def server_of(daemon: Daemon) -> int:
    wait_until(lambda: children(daemon.process.pid, forkserver.NAME))  # the kernel may leave some out for a moment
    (pid,) = children(daemon.process.pid, forkserver.NAME)
    return pid


def workers_of(daemon: Daemon) -> list[int]:
    return children(daemon.process.pid, worker.NAME)


def descriptors(pid: int) -> dict[int, str]:
    """What it holds, but for pairs that it is just reading."""
    found = {}
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found[int(fd.name)] = str(fd.readlink())
    return {fd: link for fd, link in found.items() if not link.endswith((".jpg", ".png"))}


@pytest.fixture
def daemon(tmp_path, ring):
    root = write_folder(tmp_path / "root", 24)
    with Daemon(str(root), "--size", "32x32", "--slots", "16", "--workers", "2", ring=ring) as started:
        wait_until(lambda: len(workers_of(started)) == 2)  # one is enough for it to be ready
        yield started


def test_workers_are_named_children_of_the_daemon(daemon):
    assert len(workers_of(daemon)) == 2
    assert server_of(daemon) not in workers_of(daemon)
    assert children(server_of(daemon), worker.NAME) == []


def test_a_worker_holds_only_its_own_descriptors(daemon):
    one, other = (descriptors(pid) for pid in workers_of(daemon))
    servers = {link for link in descriptors(server_of(daemon)).values() if link.startswith("socket:")}
    assert servers, "what is compared must be there"
    for mine, others in ((one, other), (other, one)):
        held = {link for fd, link in mine.items() if fd > 2}
        assert not held & servers
        shared = held & {link for fd, link in others.items() if fd > 2}
        assert {link for link in shared if "eventpoll" not in link} == {
            link for link in shared if f"{daemon.ring}-train" in link
        }, "only the ring's data is common to both"
        assert len({link for link in held if "memfd:ringfeed-worker" in link}) == 1


def test_server_and_workers_inherit_nothing_from_the_manager(tmp_path, ring):
    """Nothing that the service manager gives the daemon."""
    root = write_folder(tmp_path / "root", 8)
    kept = tmp_path / "kept"
    fd = os.open(kept, os.O_CREAT | os.O_RDWR)
    os.set_inheritable(fd, True)
    started = Daemon(str(root), "--size", "32x32", "--slots", "8", "--workers", "1", ring=ring)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        environ = {**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify"), "LISTEN_FDNAMES": "x"}
        process = subprocess.Popen(
            started.command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=environ, pass_fds=(fd,), text=True
        )
        os.close(fd)
        try:
            while not (line := process.stdout.readline()).startswith("ready"):
                assert line, "it ended"
            started.process = process
            for pid in (server_of(started), *workers_of(started)):
                assert str(kept) not in descriptors(pid).values()
                assert b"NOTIFY_SOCKET" not in Path(f"/proc/{pid}/environ").read_bytes()
            assert str(kept) in descriptors(process.pid).values(), "what is looked for must be there"
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
            process.stdout.close()


def test_a_killed_worker_is_reported_and_replaced(daemon):
    """With its signal."""
    victim, other = workers_of(daemon)
    os.kill(victim, signal.SIGKILL)
    assert f"(pid {victim}) died with signal 9" in daemon.output.wait_for("WARNING ringfeedd.pool: worker")
    wait_until(lambda: len(workers_of(daemon)) == 2)
    assert other in workers_of(daemon)
    assert not Path(f"/proc/{victim}").exists(), "a zombie"


def test_workers_survive_their_killed_fork_server(daemon):
    """Another server forks the next ones."""
    first, before = server_of(daemon), workers_of(daemon)
    os.kill(first, signal.SIGKILL)
    said = daemon.output.wait_for("WARNING ringfeedd.pool: the process from which workers are forked")
    assert f"(pid {first}) ended with signal 9; there is a new one" in said
    assert workers_of(daemon) == before
    wait_until(lambda: children(daemon.process.pid, forkserver.NAME))
    assert server_of(daemon) != first
    for victim in before:
        os.kill(victim, signal.SIGKILL)
    wait_until(lambda: len(workers_of(daemon)) == 2 and not set(workers_of(daemon)) & set(before))
    with ringfeed.attach(f"{daemon.ring}-train", batch_size=4) as reader:
        assert sum(len(batch.ids) for batch in reader) == 24


def test_dead_and_stopped_servers_are_reaped_and_replaced(daemon):
    for number in (signal.SIGKILL, signal.SIGKILL, signal.SIGSTOP):
        before, began = server_of(daemon), time.monotonic()
        os.kill(before, number)
        wait_until(lambda pid=before: not Path(f"/proc/{pid}").exists(), 10)
        wait_until(lambda: len(children(daemon.process.pid, forkserver.NAME)) == 1, 10)
        assert time.monotonic() - began < 5
    wait_until(lambda: ring_status(f"{daemon.ring}-train").fork_server_deaths == 3)
    daemon.output.wait_for("WARNING ringfeedd.pool: the process from which workers are forked")
    (victim, _) = workers_of(daemon)
    os.kill(server_of(daemon), signal.SIGSTOP)
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: len(daemon.workers()) == 2 and victim not in daemon.workers(), 5)


def test_signals_to_the_group_are_the_supervisors(daemon):
    """SIGHUP lists again; SIGTERM is a clean stop, told last. No child dies of either, so nothing is to warn of."""
    group = [daemon.process.pid, server_of(daemon), *workers_of(daemon)]
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        for pid in group[1:]:
            os.kill(pid, number)
    os.kill(daemon.process.pid, signal.SIGHUP)
    daemon.output.wait_for("INFO ringfeedd.ring: ring")
    assert workers_of(daemon) == group[2:]
    for _ in range(BURST + 2):
        ringfeed.attach(f"{daemon.ring}-train", batch_size=2).close()
    for pid in (*group[1:], group[0], group[0]):
        os.kill(pid, signal.SIGTERM)
    assert daemon.process.wait(60) == 0
    said = daemon.output.rest()
    assert "WARNING" not in said
    assert "more lines like this" in said, "what was counted comes before the last line"
    assert re.match(
        rf"INFO ringfeedd: stopped: SIGTERM, after \d+ s; {daemon.ring}-train: \d+ pairs, .*; 0 worker deaths",
        said.splitlines()[-1],
    )


def holds_back(pid: int, number: signal.Signals) -> bool:
    """Whether the process lets this signal wait, as it does while it imports."""
    (blocked,) = re.findall(r"SigBlk:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())
    return bool(int(blocked, 16) >> (number - 1) & 1)


def test_signals_in_the_first_moments_kill_nothing(tmp_path, ring):
    """A hang-up is a wish to list again, and Ctrl-C a clean stop, whenever they come."""
    root = write_folder(tmp_path / "root", 8)
    daemon = Daemon(str(root), "--size", "32x32", "--slots", "8", "--workers", "1", ring=ring).start()
    wait_until(lambda: holds_back(daemon.process.pid, signal.SIGHUP))
    daemon.process.send_signal(signal.SIGHUP)
    daemon.output.wait_for("ready")
    assert daemon.stop() == 0
    daemon.start()
    wait_until(lambda: holds_back(daemon.process.pid, signal.SIGINT))
    for _ in range(3):
        daemon.process.send_signal(signal.SIGINT)
    assert daemon.process.wait(60) == 0
    said = daemon.output.rest()
    assert "Traceback" not in said
    assert said.splitlines()[-1].startswith("INFO ringfeedd: stopped: SIGINT")


def test_a_worker_without_descriptors_is_tried_again(daemon):
    """Here because no file may be opened any more; the same for processes and memory."""
    pid = daemon.process.pid
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    victim, _ = workers_of(daemon)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, limits[1]))
    os.kill(victim, signal.SIGKILL)
    while "could not be started" not in (said := daemon.output.wait_for("WARNING ringfeedd.pool: worker")):
        assert "died with signal 9" in said
    assert "is tried again: no more files may be open: `ulimit -n`" in said
    resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
    wait_until(lambda: len(workers_of(daemon)) == 2, 15)
    with ringfeed.attach(f"{daemon.ring}-train", batch_size=4) as reader:
        assert sum(len(batch.ids) for batch in reader) == 24


def test_a_killed_daemon_leaves_no_process_behind(daemon):
    processes = [server_of(daemon), *workers_of(daemon)]
    daemon.process.kill()
    daemon.process.wait()
    wait_until(lambda: not any(map(lives, processes)), 10)
    # what the block's end expects
    daemon.kill()


@pytest.mark.parametrize("wrong", [["--nonsense"], ["gs://b", "--config", "/nowhere.toml"], ["no-such-folder"]])
def test_a_refused_start_prints_one_sentence_only(wrong, tmp_path):
    """It leaves no process."""
    process = subprocess.Popen(
        [*RINGFEED, "serve", *wrong],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=tmp_path,
        start_new_session=True,
    )
    said, _ = process.communicate(timeout=30)
    assert process.returncode in (2, 3, 78)
    assert "Traceback" not in said
    assert said.splitlines()[-1].startswith("ringfeed")
    assert not [pid for pid in Path("/proc").glob("[0-9]*") if session(int(pid.name)) == process.pid]


def session(pid: int) -> int | None:
    try:
        state, _, _, of, *_ = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(of) if state != "Z" else None


# The parts, in this process.


@pytest.fixture
def server():
    started = ForkServer.begin()
    assert started is not None
    yield started
    started.close()
    prctl._prctl(prctl._SET_CHILD_SUBREAPER, 0)


def ended_at_once(spawner: Spawner, count: int = 1):
    """Workers whose supervisor has gone already: how they ended."""

    async def one() -> tuple[object, int]:
        ours, theirs = socket.socketpair()
        ours.close()
        with theirs:
            process = await spawner.spawn([theirs.fileno()])
        return process, await process.wait()

    async def run():
        async with asyncio.timeout(30):
            try:
                return await asyncio.gather(*(one() for _ in range(count)))
            finally:
                spawner.close()

    return asyncio.run(run())


def test_answers_find_those_who_asked(server):
    ended = ended_at_once(Spawner(server), 5)
    assert all(type(process) is ForkedProcess and code == 0 for process, code in ended)
    assert len({process.pid for process, _ in ended}) == 5


def test_a_killed_worker_exits_with_its_negative_signal(server):
    async def run() -> int:
        spawner = Spawner(server)
        ours, theirs = socket.socketpair()
        with ours, theirs:
            process = await spawner.spawn([theirs.fileno()])
            process.kill()
            code = await process.wait()
        with pytest.raises(ProcessLookupError):
            process.kill()
        spawner.close()
        return code

    assert asyncio.run(run()) == -signal.SIGKILL


def test_servers_that_die_early_are_replaced_later(server, caplog, monkeypatch):
    monkeypatch.setattr(spawn, "AGAIN_AFTER_S", (0.0, 0.0, 100.0))

    async def run() -> None:
        spawner = Spawner(server)
        for following in ("there is a new one", "workers are started on their own until there is a new one"):
            await kill_and_see_it_reaped(spawner)
            assert f"ended with signal 9; {following}" in caplog.text
        ours, theirs = socket.socketpair()
        ours.close()
        with theirs:
            process = await spawner.spawn([theirs.fileno()])
        assert type(process) is StartedProcess
        assert await process.wait() == 0
        spawner.look(time.monotonic() + 50)
        assert repr(spawner) == "Spawner(None, 0 forked)"
        spawner.look(time.monotonic() + 101)
        assert repr(spawner) != "Spawner(None, 0 forked)"
        assert spawner.server_deaths == 2
        spawner.close()

    asyncio.run(run())


async def kill_and_see_it_reaped(spawner: Spawner) -> None:
    """Without anybody asking it for a worker."""
    spawner.look(time.monotonic())
    pid = spawner._server.pid
    os.kill(pid, signal.SIGKILL)
    await asyncio.to_thread(wait_until, lambda: not Path(f"/proc/{pid}").exists())


def test_a_server_that_is_stopped_is_given_up(server, caplog, monkeypatch):
    """When a worker is needed, and when none is."""
    monkeypatch.setattr(spawn, "LOOK_S", 0.05)
    monkeypatch.setattr(spawn, "STOPPED_TIMEOUT_S", 0.2)
    os.kill(server.pid, signal.SIGSTOP)
    ((process, code),) = ended_at_once(Spawner(server))
    assert type(process) is not ForkedProcess
    assert code == 0
    assert "ended with signal 9" in caplog.text

    async def look() -> None:
        spawner = Spawner(ForkServer.begin())
        pid = spawner._server.pid
        os.kill(pid, signal.SIGSTOP)
        async with asyncio.timeout(10):
            while spawner._server.pid == pid:
                spawner.look(time.monotonic())
                await asyncio.sleep(0.01)
        spawner.close()

    asyncio.run(look())


def test_old_kernels_wait_for_workers_too(monkeypatch):
    def refused(_pid: int) -> int:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(os, "pidfd_open", refused)
    assert ForkServer.begin() is None

    async def run() -> int:
        spawner, (ours, theirs) = Spawner(), socket.socketpair()
        with ours, theirs:
            process = await spawner.spawn([theirs.fileno()])
            assert type(process) is PolledProcess
            process.kill()
            killed = await process.wait()
        with pytest.raises(ProcessLookupError):
            process.kill()
        return killed

    assert asyncio.run(run()) == -signal.SIGKILL
    ((_, code),) = ended_at_once(Spawner())
    assert code == 0


def test_an_abandoned_worker_is_ended_and_reaped(server):
    async def run() -> None:
        spawner = Spawner(server)
        ours, theirs = socket.socketpair()
        with ours, theirs:
            asking = asyncio.create_task(spawner.spawn([theirs.fileno()]))
            await asyncio.sleep(0)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            await spawner.spawn([theirs.fileno()])  # answers come in order
            assert "1 forked" in repr(spawner)
            assert len(children(os.getpid(), forkserver.NAME)) == 2, "the server, and a worker that has not heard yet"
        spawner.close()

    asyncio.run(run())


def test_an_unreported_worker_is_ended_and_reaped(server):
    """Its server could not report it."""

    async def run() -> None:
        spawner = Spawner(server)
        ours, theirs = socket.socketpair()
        with ours, theirs:
            server.ask(encode_fork([theirs.fileno()]), [theirs.fileno()])
            others = lambda: [pid for pid in children(os.getpid(), forkserver.NAME) if pid != server.pid]  # noqa: E731
            await asyncio.to_thread(wait_until, others)
            spawner._ended(server)
            assert not others()

    asyncio.run(run())


def test_a_lost_worker_ends_before_its_connections_reuse(server, caplog, monkeypatch):
    def no_descriptors_left(_pid: int, _living: set[int]) -> ForkedProcess:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(spawn, "ForkedProcess", no_descriptors_left)
    ((_, code),) = ended_at_once(Spawner(server))
    assert code == 0
    assert "a worker could not be forked (Too many open files); it is started on its own" in caplog.text
    assert children(os.getpid(), forkserver.NAME) == []


@pytest.mark.parametrize("places", [(9, 5, 7), (5, 9, 3), (40, 41, 42), (3, 4, 5)])
def test_descriptors_come_to_their_places_whatever_lies_there(places, tmp_path):
    script = (
        "import os, sys\n"
        "from ringfeedd.worker.forkserver import _take_places\n"
        "fds = [os.open(path, os.O_RDONLY) for path in sys.argv[2:]]\n"
        "os.dup2(fds[0], 90)\n"
        "_take_places(fds, [int(place) for place in sys.argv[1].split(',')])\n"
        "for fd in range(3, 200):\n"
        "    link = f'/proc/self/fd/{fd}'\n"
        "    if os.path.lexists(link): print(fd, os.readlink(link)[-1])\n"
    )
    files = [tmp_path / name for name in "abc"]
    for file in files:
        file.touch()
    words = [",".join(map(str, places)), *map(str, files)]
    said = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, check=True).stdout
    assert said.split() == " ".join(f"{fd} {name}" for fd, name in sorted(zip(places, "abc", strict=True))).split()

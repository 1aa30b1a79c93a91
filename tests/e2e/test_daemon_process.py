"""No process is signalled, nor named to be, before it is known to be the ring's daemon."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys

import pytest
from house import RINGFEED, Daemon, Output, write_folder
from ring_fixtures import served_ring

from ringfeed.cli.commands import EXIT_NOT_RUNNING
from ringfeed.daemon import process as daemon_process
from ringfeed.daemon.process import find_daemon
from ringfeed.shm.control import Control, open_control
from ringfeed.shm.descriptor import read_descriptor
from ringfeed.shm.layout import State
from ringfeed.shm.segment import open_lock, try_lock
from ringfeedd.cli.doctor import examine
from ringfeedd.cli.main import main


@pytest.fixture
def victim():
    """A process that dies of a SIGHUP, and has the control segment of the ring open once it is told its name."""
    code = "import sys; file = open(sys.stdin.readline().strip(), 'r+b'); print(flush=True); input()"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    yield process
    process.send_signal(signal.SIGCONT)
    assert process.poll() is None, "it was signalled"
    process.communicate("/dev/null\nend\n", timeout=30)


@pytest.fixture
def hangups():
    """The SIGHUPs that this process got."""
    got = []
    before = signal.signal(signal.SIGHUP, lambda number, _frame: got.append(number))
    yield got
    signal.signal(signal.SIGHUP, before)


def test_the_locks_holder_is_asked(victim, hangups, capsys):
    """Whatever pid the descriptor gives."""
    with served_ring(pid=victim.pid) as served:
        victim.stdin.write(f"/dev/shm/{served.memory.descriptor.control}\n")
        victim.stdin.flush()
        victim.stdout.readline()
        lane = open_lock(served.memory.descriptor.control)  # as a trainer does, in this very process or another
        assert try_lock(lane, 1)
        process = find_daemon(open_control(served.name))
        assert process is not None
        assert process.pid == os.getpid()
        process.close()
        assert main(["refresh", served.name, "--timeout-s", "0"]) == EXIT_NOT_RUNNING
        assert hangups == [signal.SIGHUP]
        assert "still listing" in capsys.readouterr().err
        os.close(lane)


def test_an_invisible_daemon_is_not_asked(victim, hangups, capsys, monkeypatch):
    monkeypatch.setattr(daemon_process, "_candidates", lambda first: iter([first]))  # as in the trainer's container
    with served_ring(pid=victim.pid) as served:
        assert find_daemon(open_control(served.name)) is None
        assert main(["refresh", served.name]) == EXIT_NOT_RUNNING
        told = capsys.readouterr().err
        assert f"{served.name}: the daemon could not be asked: no process that can be seen" in told
        for word in (State.STARTED_NS, State.HEARTBEAT_NS):
            served.memory.set(word, 1)
        victim.send_signal(signal.SIGSTOP)
        (check,) = (check for check in examine() if check.topic == f"ring {served.name}")
        assert "its loop has not turned" in check.found
        assert "kill" not in check.line()
    assert hangups == []


def test_another_users_process_is_not_the_daemon(monkeypatch):
    with served_ring() as served:
        control = open_control(served.name)
        assert find_daemon(control) is not None
        monkeypatch.setattr(os, "fstat", lambda fd, fstat=os.fstat: _owned_by_another(fstat(fd)))
        assert find_daemon(control) is None


def _owned_by_another(facts):
    fields = list(facts)
    fields[4] = facts.st_uid + 1
    return os.stat_result((*fields, *[0] * 6), {"st_dev": facts.st_dev})


def test_nothing_is_found_without_a_daemon():
    with served_ring() as served:
        control = Control(read_descriptor(served.name))
    assert find_daemon(control) is None


def test_a_refresh_reaches_a_daemon_in_another_namespace(tmp_path, ring):
    """Its pid there is another process's here, which is left alone."""
    unshare = ["unshare", "--pid", "--fork", "--kill-child"]
    if shutil.which("unshare") is None or subprocess.run([*unshare, "true"], check=False).returncode:
        pytest.skip("this user may not make a pid namespace")
    daemon = Daemon(str(write_folder(tmp_path / "set", 4)), "--size", "8x8", "--slots", "4", ring=ring)
    process = subprocess.Popen(
        [*unshare, *daemon.command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    try:
        Output(process).wait_for("ready")
        told = read_descriptor(f"{ring}-train").pid
        found = find_daemon(open_control(f"{ring}-train"))
        assert found is not None
        assert told != found.pid
        done = subprocess.run([*RINGFEED, "refresh", f"{ring}-train"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        found.send(signal.SIGTERM)
        found.close()
        process.wait(30)
    finally:
        process.kill()
        process.wait()

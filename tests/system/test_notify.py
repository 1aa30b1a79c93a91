"""sd_notify against real datagram sockets."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
from house import Daemon, write_folder

from ringfeedd.system.systemd import Notifier, Watchdog


@pytest.fixture
def manager(tmp_path):
    """A notify socket as systemd binds it, in the file system."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "notify"))
        receiver.settimeout(5)
        yield receiver


def notifier_for(manager, **variables):
    return Notifier.from_environ({"NOTIFY_SOCKET": manager.getsockname(), **variables})


def test_every_state_arrives_as_one_datagram(manager):
    notifier = notifier_for(manager)
    assert notifier.active
    assert notifier.ready("serving train")
    assert manager.recv(4096) == b"READY=1\nSTATUS=serving train"
    assert notifier.ready()
    assert manager.recv(4096) == b"READY=1"
    assert notifier.status("epoch 3")
    assert manager.recv(4096) == b"STATUS=epoch 3"
    assert notifier.stopping()
    assert manager.recv(4096) == b"STOPPING=1"
    assert notifier.watchdog()
    assert manager.recv(4096) == b"WATCHDOG=1"
    assert notifier.extend_timeout(1.5, "listing")
    assert manager.recv(4096) == b"EXTEND_TIMEOUT_USEC=1500000\nSTATUS=listing"


def test_reloading_carries_the_monotonic_clock_that_systemd_wants(manager):
    assert notifier_for(manager).reloading()
    first, second = manager.recv(4096).decode().splitlines()
    assert first == "RELOADING=1"
    assert int(second.removeprefix("MONOTONIC_USEC=")) > 0


def test_a_status_cannot_smuggle_in_another_variable(manager):
    assert notifier_for(manager).status("pair a\nREADY=1\r\nb")
    assert manager.recv(4096) == b"STATUS=pair a READY=1 b"


def test_an_unprintable_status_is_sent_all_the_same(manager):
    assert notifier_for(manager).status("image \udcff.jpg, größer")
    assert manager.recv(4096).decode() == "STATUS=image ?.jpg, größer"


def test_a_socket_in_the_abstract_namespace_is_reached():
    name = f"ringfeed-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind("\0" + name)
        receiver.settimeout(5)
        assert Notifier.from_environ({"NOTIFY_SOCKET": "@" + name}).ready()
        assert receiver.recv(4096) == b"READY=1"


@pytest.mark.parametrize("address", ["", "@", "relative/path", "vsock:2:9999"])
def test_nothing_is_sent_without_a_local_socket(address):
    notifier = Notifier.from_environ({"NOTIFY_SOCKET": address})
    assert not notifier.active
    assert not notifier.ready("x")
    assert not notifier.watchdog()


@pytest.mark.parametrize("address", ["/nonexistent/notify", "/" + "x" * 300, "/tmp/nul\0inside"])
def test_a_manager_that_is_gone_raises_nothing(address):
    notifier = Notifier.from_environ({"NOTIFY_SOCKET": address})
    assert notifier.active
    assert not notifier.ready("x")
    assert not notifier.stopping()
    assert not notifier.reloading()


def test_a_watchdog_ping_never_blocks(manager):
    """The service manager does not read."""
    notifier = notifier_for(manager)
    sent = 0
    while notifier.watchdog():  # until the manager's queue is full; a blocking send would hang here for ever
        sent += 1
        assert sent < 1_000_000
    assert sent > 0
    assert not notifier.ready()  # waits SEND_TIMEOUT_S, and gives up


def test_a_turning_loop_pings_at_half_the_interval(manager):
    watchdog = Watchdog(notifier_for(manager, WATCHDOG_USEC="30000000"))
    manager.setblocking(False)
    pinged = []
    for quarter in range(4 * 60):  # the loop turns four times a second
        watchdog.feed(100.0 + quarter / 4)
        with contextlib.suppress(BlockingIOError):
            assert manager.recv(4096) == b"WATCHDOG=1"
            pinged.append(quarter / 4)
    assert pinged == [0.0, 15.0, 30.0, 45.0]
    Watchdog(notifier_for(manager)).feed(1000.0)
    with pytest.raises(BlockingIOError):
        manager.recv(4096)


def test_only_the_watched_process_feeds_the_watchdog(manager):
    """At half its interval."""
    assert notifier_for(manager).watchdog_interval_s is None
    assert notifier_for(manager, WATCHDOG_USEC="30000000").watchdog_interval_s == 15.0
    own = str(os.getpid())
    assert notifier_for(manager, WATCHDOG_USEC="30000000", WATCHDOG_PID=own).watchdog_interval_s == 15.0
    assert (
        notifier_for(manager, WATCHDOG_USEC="30000000", WATCHDOG_PID=str(os.getpid() + 1)).watchdog_interval_s is None
    )
    for nonsense in ("0", "-5", "soon", "²"):
        assert notifier_for(manager, WATCHDOG_USEC=nonsense).watchdog_interval_s is None


def test_children_do_not_inherit_the_socket(manager):
    environ = {**os.environ, "NOTIFY_SOCKET": manager.getsockname(), "WATCHDOG_USEC": "1000000"}
    story = (
        "import os, subprocess, sys\n"
        "from ringfeedd.system.systemd import Notifier\n"
        "notifier = Notifier.from_environ()\n"
        "seen = [name for name in ('NOTIFY_SOCKET', 'WATCHDOG_USEC', 'WATCHDOG_PID') if name in os.environ]\n"
        "print(notifier.ready(), notifier.watchdog_interval_s, seen)\n"
    )
    child = subprocess.run([sys.executable, "-c", story], env=environ, capture_output=True, text=True, check=True)
    assert child.stdout == "True 0.5 []\n"
    assert manager.recv(4096) == b"READY=1"


def test_a_daemon_tells_each_phase_at_its_pace(manager, ring, tmp_path, monkeypatch):
    monkeypatch.setenv("NOTIFY_SOCKET", manager.getsockname())
    monkeypatch.setenv("WATCHDOG_USEC", "1000000")
    folder = write_folder(tmp_path / "set", 8)
    pings = []

    def until(beginning):
        while True:
            message = manager.recv(4096).decode()
            if message == "WATCHDOG=1":
                pings.append(time.monotonic())
            if message.startswith(beginning):
                return message

    manager.settimeout(20)
    options = ("--slots", "8", "--size", "24x32", "--workers", "1", "--test-ratio", "0")
    with Daemon(str(folder), *options, ring=ring) as daemon:
        assert "serving" in until("READY=1")
        since = time.monotonic()
        while len(pings) < 6:
            until("WATCHDOG=1")
        assert len(pings) <= 2 * (time.monotonic() - since) + 2  # two a second: half of the interval
        daemon.process.send_signal(signal.SIGHUP)
        began = int(until("RELOADING=1\n").partition("MONOTONIC_USEC=")[2].splitlines()[0])
        assert 0 <= time.monotonic() - began / 1e6 < 20
        until("READY=1")
        daemon.process.terminate()
        until("STOPPING=1")

"""A clean restart by the service manager, which keeps for the next daemon where trainers stand that are busy then."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading

import pytest
from house import Daemon, Output, traces, wait_until, write_folder

import ringfeed
from ringfeedd.notify import Notifier

AS_SYSTEMD_STARTS_IT = """
import os, sys
fds = [int(fd) for fd in sys.argv[1].split(",") if fd]
for number, fd in enumerate(fds):
    os.dup2(fd, 3 + number, inheritable=True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(fds)))
os.execvp(sys.argv[2], sys.argv[2:])
"""
"""The stored descriptors, which lie well above the place where systemd puts them, go there."""

HIGH = 100


class Manager:
    """systemd's part: hears the daemon, keeps its descriptors, and gives them to the next one."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.path = path
        self.store = {}
        threading.Thread(target=self._hear, daemon=True).start()

    def _hear(self):
        while True:
            try:
                message, fds, _, _ = socket.recv_fds(self.socket, 4096, 4)
            except OSError:
                return
            lines = dict(line.split("=", 1) for line in message.decode().splitlines())
            if "FDSTORE" in lines:
                self.store[lines["FDNAME"]] = os.dup2(fds[0], HIGH + len(self.store))
                os.close(fds[0])
            if "FDSTOREREMOVE" in lines:
                os.close(self.store.pop(lines["FDNAME"]))

    def start(self, daemon):
        fds = list(self.store.values())
        environ = {**os.environ, "NOTIFY_SOCKET": str(self.path), "LISTEN_FDNAMES": ":".join(self.store)}
        process = subprocess.Popen(
            [sys.executable, "-c", AS_SYSTEMD_STARTS_IT, ",".join(map(str, fds)), *daemon.command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environ,
            pass_fds=fds,
        )
        output = Output(process)
        output.wait_for("ready")
        return process

    def close(self):
        self.socket.close()
        for fd in self.store.values():
            os.close(fd)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("set"), 24)


@contextlib.contextmanager
def managed(tmp_path):
    manager = Manager(tmp_path / "notify")
    try:
        yield manager
    finally:
        manager.close()


@pytest.mark.parametrize("kept", [True, False], ids=["kept", "dropped"])
def test_a_busy_trainer_goes_on_after_a_clean_restart_while_another_reads_on(folder, ring, tmp_path, kept):
    daemon = Daemon(str(folder), "--size", "24x32", "--slots", "16", "--workers", "1", ring=ring)
    with managed(tmp_path) as manager:
        process = manager.start(daemon)
        with contextlib.ExitStack() as stack:
            busy, quick = (
                stack.enter_context(ringfeed.attach(f"{ring}-train", batch_size=2, group=group, drop_last=False))
                for group in ("busy", "quick")
            )
            ours = iter(busy)
            assert int(next(ours).positions[0]) == 0
            theirs = iter(quick)
            next(theirs)
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0
            assert traces(ring) == [], "nothing is left in /dev/shm"
            assert sorted(name.rpartition(".")[2] for name in manager.store) == ["ctl", "descriptor"]
            if not kept:
                manager.store.clear()
            process = manager.start(daemon)
            seen = [int(next(theirs).positions[0]) for _ in range(8)]
            assert seen == [2, 4, 6, 8, 10, 12, 14, 16]
            if kept:
                assert [int(batch.positions[0]) for batch in ours] == list(range(2, 24, 2))
                wait_until(lambda: not manager.store)
            else:
                assert [int(batch.positions[0]) for batch in theirs] == [18, 20, 22]
                with pytest.raises(ringfeed.AttachRefusedError, match="lies behind"):
                    list(ours)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        assert not manager.store, "who has detached is not kept"
        assert traces(ring) == []


def test_a_daemon_that_is_killed_before_a_busy_trainer_came_leaves_it_to_the_next(folder, ring, tmp_path):
    daemon = Daemon(str(folder), "--size", "24x32", "--slots", "16", "--workers", "1", ring=ring)
    with managed(tmp_path) as manager:
        process = manager.start(daemon)
        with ringfeed.attach(f"{ring}-train", batch_size=2, group="busy", drop_last=False) as busy:
            batches = iter(busy)
            next(batches)
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0
            process = manager.start(daemon)
            process.kill()
            process.wait()
            process = manager.start(daemon)
            with ringfeed.attach(f"{ring}-train", batch_size=2, group="late", drop_last=False) as late:
                assert late.joined_at == (0, 2), "the ring stands where the busy one does"
            assert int(next(batches).positions[0]) == 2
            del batches
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


def test_descriptors_that_are_meant_for_another_process_are_not_touched():
    told = {"LISTEN_PID": "1", "LISTEN_FDS": "2", "LISTEN_FDNAMES": "a:b"}
    assert Notifier.from_environ(told).stored == {}
    assert told == {}, "nor may a worker take them for its own"


def test_what_was_stored_and_is_no_control_segment_is_passed_over(folder, ring, tmp_path):
    daemon = Daemon(str(folder), "--size", "24x32", "--slots", "16", "--workers", "1", ring=ring)
    with managed(tmp_path) as manager:
        for number, (kind, text) in enumerate([("ctl", b"x"), ("descriptor", json.dumps({"ring": ring}).encode())]):
            fd = os.memfd_create("stranger")
            os.write(fd, text)
            manager.store[f"{ring}.0123456789abcdef.{kind}"] = os.dup2(fd, HIGH + number)
            os.close(fd)
        process = manager.start(daemon)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0

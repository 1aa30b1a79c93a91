"""Standard streams that are closed, full, cut off or not read: the daemon serves on, and ends as it would."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from house import RINGFEED, Daemon, wait_until, write_folder

import ringfeed
from ringfeedd.system.console import LineStream


def read_all(fd: int) -> bytes:
    said = b""
    while select.select([fd], [], [], 0)[0] and (chunk := os.read(fd, 1 << 16)):
        said += chunk
    return said


def test_lines_come_out_whole_and_in_order():
    read_end, write_end = os.pipe()
    stream = LineStream(write_end)
    print("one ü", file=stream)
    print("\udc80", file=stream)
    assert read_all(read_end) == "one ü\n\\udc80\n".encode()
    os.close(read_end)
    os.close(write_end)


def test_lines_nobody_reads_are_left_out_and_counted():
    read_end, write_end = os.pipe()
    stream = LineStream(write_end)
    for _ in range(100):
        stream.write("x" * 9999 + "\n")
    assert "lines left out" in repr(stream)
    assert "0 lines" not in repr(stream).replace("10 lines", "")
    read_all(read_end)
    stream.write("and on\n")
    assert read_all(read_end).endswith(b" lines could not be written)\nand on\n")
    assert repr(stream) == f"LineStream({write_end}, 0 lines left out)"
    os.close(read_end)
    stream.write("nobody is there\n")
    os.close(write_end)
    stream.write("nothing is there\n")
    assert repr(stream) == f"LineStream({write_end}, 2 lines left out)"


def test_a_terminal_that_is_stopped_holds_nothing_up():
    master, slave = pty.openpty()
    stream = LineStream(slave)
    stream.write("before\n")
    assert read_all(master) == b"before\r\n"
    termios.tcflow(slave, termios.TCOOFF)
    for _ in range(10):
        stream.write("stopped\n")
    termios.tcflow(slave, termios.TCOON)
    stream.write("after\n")
    assert read_all(master).endswith(b"after\r\n")
    os.close(master)
    os.close(slave)


SERVES = """
import os, sys
{prepare}
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""

WAYS = {
    "closed": "[os.close(fd) for fd in (0, 1, 2)]",
    "full": "fd = os.open('/dev/full', os.O_WRONLY); os.dup2(fd, 1); os.dup2(fd, 2)",
    "cut off": "r, w = os.pipe(); os.dup2(w, 1); os.dup2(w, 2); os.close(r); os.close(w)",
    "not read": """
r, w = os.pipe()
os.dup2(w, 1); os.dup2(w, 2); os.set_inheritable(r, True); os.set_blocking(w, False)
try:
    while os.write(w, b"x"): pass
except BlockingIOError:
    os.set_blocking(w, True)
""",
}


def test_a_refused_start_keeps_its_exit_code():
    for arguments, code in ((["--nonsense"], 2), (["/nowhere"], 3), (["/nowhere", "--slots", "-1"], 78)):
        with open("/dev/full", "w") as full:  # noqa: PTH123
            done = subprocess.run([*RINGFEED, "serve", *arguments], stdout=full, stderr=full, timeout=60, check=False)
        assert done.returncode == code, arguments


@pytest.mark.parametrize("way", WAYS)
def test_a_daemon_serves_whatever_its_streams_are(way, tmp_path, ring):
    root = write_folder(tmp_path / "root", 12)
    daemon = Daemon(str(root), "--size", "24x32", "--slots", "16", "--workers", "1", ring=ring)
    command = [sys.executable, "-c", SERVES.format(prepare=WAYS[way]), *daemon.command[1:]]
    daemon.process = subprocess.Popen(command)
    try:
        with ringfeed.attach(f"{ring}-train", batch_size=4, wait_s=60) as reader:
            assert [len(batch.ids) for batch in reader] == [4, 4, 4]
        assert {Path(f"/proc/{daemon.process.pid}/fd/{fd}").exists() for fd in range(3)} == {True}
        (worker,) = daemon.workers()
        os.kill(worker, signal.SIGKILL)  # which is logged
        wait_until(lambda: daemon.workers() not in ([], [worker]))
        assert daemon.stop() == 0
    finally:
        daemon.kill()

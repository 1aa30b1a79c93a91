"""The daemon's process: found by what it holds, never by its number alone.

A number means another process in another container, and one that has died may have left its number to another. So a
process is taken for a ring's daemon only where /proc shows that it holds the lock on that ring's control segment, and
that it runs as the owner of that file. A user who may not see that of a process does not find the daemon.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ringfeed.shm import segment
from ringfeed.shm.control import Control
from ringfeed.shm.layout import DAEMON_LOCK_BYTE

_PROC: Final = Path("/proc")


class DaemonProcess:
    """A ring's daemon, which this process can see; close it after use.

    Attributes:
        pid: its number in this process's namespace.
    """

    def __init__(self, pid: int, pidfd: int) -> None:
        self.pid = pid
        self._pidfd = pidfd

    def __repr__(self) -> str:
        return f"DaemonProcess({self.pid})"

    def state(self) -> str:
        """Return what it does in one letter, as /proc has it; empty where it has ended."""
        with contextlib.suppress(OSError):
            text = (_PROC / str(self.pid) / "stat").read_text(encoding="utf-8", errors="replace")
            return text.rpartition(")")[2].split()[0]
        return ""

    def send(self, number: signal.Signals) -> None:
        """Send it a signal. Raises: OSError: it has ended, or this user may not."""
        signal.pidfd_send_signal(self._pidfd, number)

    def close(self) -> None:
        """Release it."""
        os.close(self._pidfd)


def find_daemon(control: Control) -> DaemonProcess | None:
    """Find the process that serves a ring; None where this one cannot see it, or there is none."""
    facts = os.fstat(control.lock_fd)
    if not segment.is_locked(control.lock_fd, DAEMON_LOCK_BYTE):
        return None
    lock = f"{os.major(facts.st_dev):02x}:{os.minor(facts.st_dev):02x}:{facts.st_ino}"
    for pid in _candidates(control.descriptor.pid):
        with contextlib.suppress(OSError), contextlib.ExitStack() as opened:
            # Opened first: what is read of /proc after it is of this process, or it has ended and gets no signal.
            pidfd = os.pidfd_open(pid)
            opened.callback(os.close, pidfd)
            if _runs_as(pid, facts.st_uid) and _holds(pid, lock):
                opened.pop_all()
                return DaemonProcess(pid, pidfd)
    return None


def _candidates(first: int) -> Iterator[int]:
    """The process that the daemon says it is, then all others: it may be in another namespace below this one."""
    yield first
    yield from (int(entry.name) for entry in _PROC.iterdir() if entry.name.isdecimal() and int(entry.name) != first)


def _runs_as(pid: int, uid: int) -> bool:
    lines = (_PROC / str(pid) / "status").read_text(encoding="utf-8", errors="replace").splitlines()
    uids = next((line.split()[1:3] for line in lines if line.startswith("Uid:")), [])
    return uids == [str(uid), str(uid)]


def _holds(pid: int, lock: str) -> bool:
    """Whether the process has the file open by an open file description that locks the daemon's byte."""
    for fd in (_PROC / str(pid) / "fdinfo").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            for line in fd.read_text().splitlines():
                match line.split():
                    case ["lock:", _, "OFDLCK", _, "WRITE", _, held, first, last] if held == lock:
                        if first == last == str(DAEMON_LOCK_BYTE):
                            return True
    return False

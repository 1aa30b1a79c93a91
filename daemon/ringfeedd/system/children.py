"""Child processes of the supervisor: waited for without a thread, and what the kernel says of them."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import subprocess
from pathlib import Path
from typing import Final, Protocol

POLL_S: Final = 0.05
"""How often it is looked whether a process ended, where nothing tells of it."""

STOPPED: Final = frozenset("tT")
"""States of a process that runs no further: stopped by a signal, or by a debugger."""


class WorkerProcess(Protocol):
    """A child of this process, however it was started."""

    @property
    def pid(self) -> int:
        """Its own until `wait` has come back."""
        ...

    def kill(self) -> None:
        """Send SIGKILL. Raises: ProcessLookupError."""
        ...

    async def wait(self) -> int:
        """Its exit code, or minus the signal that ended it."""
        ...


class ForkedProcess:
    """A child that the fork server has forked."""

    def __init__(self, pid: int, living: set[int]) -> None:
        """Take it over, and note it in ``living`` until it has ended and was waited for. Raises: OSError."""
        self.pid = pid
        self._pidfd = os.pidfd_open(pid)
        self._code: int | None = None
        self._living = living
        living.add(pid)

    def __repr__(self) -> str:
        state = "lives" if self._code is None else f"ended with {self._code}"
        return f"{type(self).__name__}({self.pid}, {state})"

    def kill(self) -> None:
        """See `WorkerProcess.kill`."""
        if self._code is not None:
            raise ProcessLookupError
        signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    async def wait(self) -> int:
        """See `WorkerProcess.wait`; by one task at a time."""
        if self._code is None:
            loop, ended = asyncio.get_running_loop(), asyncio.Event()
            loop.add_reader(self._pidfd, ended.set)
            try:
                await ended.wait()
            finally:
                loop.remove_reader(self._pidfd)
            self._code = self._reap()
            self._living.discard(self.pid)
            os.close(self._pidfd)
        return self._code

    def _reap(self) -> int:
        _, status = os.waitpid(self.pid, 0)  # it has ended
        return os.waitstatus_to_exitcode(status)


class StartedProcess(ForkedProcess):
    """A child that was started on its own."""

    def __init__(self, process: subprocess.Popen[bytes], living: set[int]) -> None:
        """Take it over as `ForkedProcess` does; a child that cannot be is killed. Raises: OSError."""
        self._process = process
        try:
            super().__init__(process.pid, living)
        except OSError:
            process.kill()
            process.wait()
            raise

    def _reap(self) -> int:
        return self._process.wait()


class PolledProcess:
    """A child that was started on its own, by a kernel or in a sandbox that gives no descriptors of processes."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        """Take it over."""
        self.pid = process.pid
        self._process = process

    def __repr__(self) -> str:
        return f"PolledProcess({self.pid}, {'lives' if self._process.returncode is None else 'ended'})"

    def kill(self) -> None:
        """See `WorkerProcess.kill`."""
        if self._process.poll() is not None:
            raise ProcessLookupError
        self._process.kill()

    async def wait(self) -> int:
        """See `WorkerProcess.wait`."""
        while (code := self._process.poll()) is None:  # noqa: ASYNC110  # nothing tells of it
            await asyncio.sleep(POLL_S)
        return code


def has_pidfds() -> bool:
    """Return whether this kernel gives descriptors of processes: Linux 5.3, where no sandbox forbids it."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError as error:
        return error.errno not in (errno.ENOSYS, errno.EPERM, errno.EACCES)
    return True


def process_state(pid: int) -> str:
    """What the kernel says of a process, in one letter as ``ps`` shows it; empty where there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return text.rpartition(")")[2].split()[0]


def describe(code: int) -> str:
    """How a process ended, by its exit code as `WorkerProcess.wait` gives it."""
    return f"signal {-code}" if code < 0 else f"exit code {code}"

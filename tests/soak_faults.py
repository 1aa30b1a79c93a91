"""What the soak does to the daemon under it: serve, kill, restart, and look whether it grows."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

from house import Daemon

READY_S = 30.0
WARM_S = 3.0
"""A daemon's first seconds are not compared with its later ones: it fills its ring, and meets its readers."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process holds: open files, and MiB of memory of its own (no shared pages)."""

    fds: int
    memory_mib: float


def usage(pid: int) -> Usage | None:
    """None for a process that has ended."""
    try:
        fds = len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208  # a count is all
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    anonymous = next((line for line in status.splitlines() if line.startswith("RssAnon:")), None)
    return Usage(fds, int(anonymous.split()[1]) / 1024) if anonymous else None


@dataclass
class Served:
    """The daemon, or its successor.

    Attributes:
        growth: of each daemon that lived long enough: from when it was warm to the last look.
    """

    command: tuple[str, list[str]]
    ring: str
    growth: list[Usage] = field(default_factory=list)
    daemon: Daemon = field(init=False)
    _warm: Usage | None = None
    _last: Usage | None = None

    def start(self) -> None:
        root, arguments = self.command
        self.daemon = Daemon(root, *arguments, ring=self.ring).start()
        self._warm = self._last = None

    def wait_ready(self) -> None:
        self.daemon.output.wait_for("ready", READY_S)
        self._since = time.monotonic()

    def look(self) -> None:
        """Note what the daemon holds now."""
        if time.monotonic() - self._since < WARM_S:
            return
        now = usage(self.daemon.process.pid)
        if now is not None:
            self._warm, self._last = self._warm or now, now

    def _note_growth(self) -> None:
        if self._warm and self._last:
            self.growth.append(Usage(self._last.fds - self._warm.fds, self._last.memory_mib - self._warm.memory_mib))

    def kill(self) -> None:
        """kill -9; what it leaves in /dev/shm is its successor's to clear."""
        self._note_growth()
        self.daemon.process.kill()
        self.daemon.process.wait()

    def stop(self) -> int:
        """A clean stop; its exit code."""
        self._note_growth()
        return self.daemon.stop()

    def workers(self) -> list[int]:
        """Pids of the worker processes."""
        pid = self.daemon.process.pid
        children = map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        return [child for child in children if _is_worker(child)]

    def kill_worker(self, choose) -> bool:
        workers = self.workers()
        if workers:
            os.kill(choose(workers), signal.SIGKILL)
        return bool(workers)


def _is_worker(pid: int) -> bool:
    try:
        return b"ringfeedd.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False

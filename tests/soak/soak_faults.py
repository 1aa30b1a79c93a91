"""What the soak does to the daemon under it: serve, kill, stop, restart, rob it of its files."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from house import SHM, Daemon, traces
from manager import Manager
from soak_usage import Growth

READY_S = 45.0


@dataclass
class Served:
    """The daemon, or its successor, under a service manager: what that keeps survives a clean stop and a kill -9.

    Attributes:
        growth: of daemons and workers.
        workers_met: pids of all workers that were ever seen.
    """

    command: tuple[str, list[str]]
    ring: str
    growth: Growth
    manager: Manager
    workers_met: set[int] = field(default_factory=set)
    daemon: Daemon = field(init=False)

    def start(self) -> None:
        root, arguments = self.command
        self.daemon = self.manager.start(Daemon(root, *arguments, ring=self.ring))

    def wait_ready(self) -> None:
        self.daemon.output.wait_for("ready", READY_S)

    def look(self) -> None:
        """Note what the daemon and its workers hold now."""
        self.growth.look("daemon", self.daemon.process.pid)
        workers = self.workers()
        self.workers_met.update(workers)
        for worker in workers:
            self.growth.look("worker", worker)

    def kill(self) -> None:
        """kill -9; what it leaves in /dev/shm is its successor's to clear."""
        self.daemon.process.kill()
        self.daemon.process.wait()

    def stop(self) -> int:
        """A clean stop; its exit code."""
        return self.daemon.stop()

    def rob(self) -> None:
        """Remove every file of the ring from /dev/shm: the daemon ends with a sentence, and the next one is started."""
        for name in traces(self.ring):
            with contextlib.suppress(FileNotFoundError):
                (SHM / name).unlink()
        self.daemon.output.wait_for("ringfeed: another process removed", READY_S)
        self.daemon.process.wait(READY_S)
        self.start()
        self.wait_ready()

    def workers(self) -> list[int]:
        """Pids of the worker processes."""
        pid = self.daemon.process.pid
        try:
            children = map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        except (FileNotFoundError, ProcessLookupError):
            return []
        return [child for child in children if _is_worker(child)]

    def orphans(self) -> list[int]:
        """Workers that still live."""
        return [pid for pid in self.workers_met if _is_worker(pid)]

    def kill_worker(self, choose) -> bool:
        workers = self.workers()
        if workers:
            os.kill(choose(workers), signal.SIGKILL)
        return bool(workers)


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """SIGSTOP, and SIGCONT after the block, whatever happens in it; nothing where the process has ended."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def _is_worker(pid: int) -> bool:
    try:
        named = Path(f"/proc/{pid}/comm").read_text().strip() == "ringfeed-worker"
        return named and bool(Path(f"/proc/{pid}/cmdline").read_bytes())  # else it has ended, and is not reaped
    except (FileNotFoundError, ProcessLookupError):
        return False

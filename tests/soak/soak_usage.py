"""What processes and a ring hold of the machine, and how much more it becomes."""

from __future__ import annotations

import contextlib
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

from house import SHM, traces

WARM_S = 3.0
"""A process's first seconds are not compared with its later ones: a ring is filled, readers are met, codecs loaded."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process holds: open files, threads, and MiB of memory of its own (no shared pages)."""

    fds: int
    threads: int
    memory_mib: float

    def __sub__(self, other: Usage) -> Usage:
        return Usage(self.fds - other.fds, self.threads - other.threads, self.memory_mib - other.memory_mib)


def usage(pid: int) -> Usage | None:
    """None for a process that has ended."""
    try:
        fds = len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208  # a count is all
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    facts = dict(line.split(":", 1) for line in status.splitlines())
    if "RssAnon" not in facts:  # it has ended, and nobody has waited for it
        return None
    return Usage(fds, int(facts["Threads"]), int(facts["RssAnon"].split()[0]) / 1024)


class Growth:
    """Processes by kind: from when each was warm to the last look at it."""

    def __init__(self) -> None:
        self._met: dict[tuple[str, int], float] = {}
        self._looks: dict[tuple[str, int], tuple[Usage, Usage]] = {}

    def look(self, kind: str, pid: int) -> None:
        key, now = (kind, pid), time.monotonic()
        if now - self._met.setdefault(key, now) < WARM_S or (held := usage(pid)) is None:
            return
        first, _ = self._looks.get(key, (held, held))
        self._looks[key] = (first, held)

    def lives(self, kind: str) -> int:
        """How many processes lived long enough to be looked at."""
        return sum(key[0] == kind for key in self._looks)

    def most(self, kind: str) -> Usage:
        """The most that any one process of the kind grew, of each thing."""
        grown = [last - first for key, (first, last) in self._looks.items() if key[0] == kind]
        return Usage(
            max((each.fds for each in grown), default=0),
            max((each.threads for each in grown), default=0),
            max((each.memory_mib for each in grown), default=0.0),
        )


@dataclass(frozen=True, slots=True)
class Shared:
    """What lies in /dev/shm under a ring's name."""

    semaphores: int
    files: int
    size_bytes: int


def shared(ring: str) -> Shared:
    """Now."""
    names = traces(ring)
    semaphores = sum(name.startswith("sem.") for name in names)
    size = 0
    for name in names:
        with contextlib.suppress(FileNotFoundError):
            size += 512 * (SHM / name).stat().st_blocks
    return Shared(semaphores, len(names) - semaphores, size)


def generations(pid: int, ring: str) -> int:
    """Of how many generations of a ring a process has something mapped; a former one's memory is not free before."""
    try:
        maps = Path(f"/proc/{pid}/maps").read_text()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return 0
    return len(set(re.findall(rf"ringfeed\.{re.escape(ring)}\.([0-9a-f]+)\.", maps)))

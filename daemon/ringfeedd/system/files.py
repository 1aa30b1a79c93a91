"""Open files: how many a process may have, and what that leaves for downloads; how a small file is read.

`ulimit -n 64` is slow, no failure.
"""

from __future__ import annotations

import errno
import os
import resource
import stat
from pathlib import Path
from typing import Final

from ringfeedd.errors import StartError

MOST_WANTED: Final = 1 << 16
"""Nothing here needs more, and some systems allow a thousand million, which others then walk through."""

WORKERS_OWN: Final = 24
"""What a worker has open besides its connections: its socket, loop, vitals, segments, and for a time the resolver's."""

SUPERVISORS_OWN: Final = 24
EACH_RING: Final = 4
EACH_WORKER: Final = 4
PAGE_CONNECTIONS: Final = 32
LEAST_CONNECTIONS: Final = 2
"""A pair is two objects."""


def raise_limit() -> int:
    """Let this process and its workers have as many open files as the system allows them; how many that are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = MOST_WANTED if hard == resource.RLIM_INFINITY else min(hard, MOST_WANTED)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
        return allowed
    return MOST_WANTED if soft == resource.RLIM_INFINITY else soft


def page_connections(files: int) -> int:
    """Return how many clients the status page may have at a time, of a process that may have so many files open."""
    return max(LEAST_CONNECTIONS, min(PAGE_CONNECTIONS, files // 8))


def connections(wanted: int, *, files: int, workers: int, rings: int, page: int = 0) -> int:
    """How many connections each of this daemon's processes may hold.

    Args:
        wanted: by the configuration.
        files: that each process may have open.
        page: connections of the status page, which are kept for it.

    Raises:
        StartError: not even a few.
    """
    supervisors = SUPERVISORS_OWN + EACH_RING * rings + EACH_WORKER * workers + page
    left = files - max(supervisors, WORKERS_OWN)
    if left < LEAST_CONNECTIONS:
        raise StartError(
            f"a process may have {files} files open here, and the daemon needs {supervisors + LEAST_CONNECTIONS} for "
            f"{workers} workers; raise the limit (`ulimit -n`, LimitNOFILE= in the unit), or use fewer --workers"
        )
    return min(wanted, left)


def open_at_once(path: str | Path, flags: int) -> int:
    """Open a file without waiting for the other end of a pipe; an ``opener`` for `open`. Raises: OSError."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)


def read_regular(path: str | Path, most: int) -> tuple[bytes, os.stat_result]:
    """Return up to `most` + 1 bytes of a small file, and its facts.

    Raises:
        OSError: it cannot be read, or is a pipe, a device or anything else than a file.
    """
    with open(path, "rb", opener=open_at_once) as file:  # Path.open takes no opener
        facts = os.fstat(file.fileno())
        if not stat.S_ISREG(facts.st_mode):
            raise OSError(errno.EINVAL, "It is not a regular file", str(path))
        return file.read(most + 1), facts

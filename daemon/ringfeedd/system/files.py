"""Small files that others wrote: read without waiting for a pipe's other end, and within bounds."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


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

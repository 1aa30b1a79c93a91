"""Small files: those that others wrote, read without waiting and within bounds; and new ones of this user alone."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO


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


def create(path: Path) -> BinaryIO:
    """Open a new file of this user's alone: nothing that lies there already is written into or followed.

    Raises:
        OSError: something lies there, or it cannot be made.
    """
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600), "wb")

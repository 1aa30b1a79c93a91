"""What a process may have no more of, as a sentence: processes, threads, memory, open files."""

from __future__ import annotations

import errno
import resource
from typing import Final

_NO_THREAD: Final = "can't start new thread"
"""The whole text of Python's RuntimeError."""

_NOT_LOADED: Final = ("annot allocate memory", "failed to map segment")
"""What the loader says of a library for which there is no memory."""

_PROCESSES: Final = "this user, or this control group, may have no more processes and threads: `ulimit -u`, TasksMax="
_MEMORY: Final = "this process may have no more memory: `ulimit -v`, memory.max, or the machine has none left"
_FILES: Final = "no more files may be open: `ulimit -n`, LimitNOFILE="


LEAST_ADDRESS_SPACE: Final = 128 << 20
"""Bytes; with less, not even the libraries can be loaded."""

MOST_FILES: Final = 1 << 16
"""Nothing here needs more, and some systems allow a thousand million, which others then walk through."""

_BY_ERRNO: Final = {
    errno.EAGAIN: _PROCESSES,
    errno.ENOMEM: _MEMORY,
    errno.EMFILE: _FILES,
    errno.ENFILE: _FILES,
}


def exhausted(error: BaseException) -> str | None:
    """Return what to look at where ``error`` says that a limit was reached; None where it says something else."""
    if isinstance(error, OSError):
        return _BY_ERRNO.get(error.errno or 0)
    if isinstance(error, RuntimeError):
        return _PROCESSES if str(error) == _NO_THREAD else None
    no_memory = isinstance(error, ImportError) and any(text in str(error) for text in _NOT_LOADED)
    return _MEMORY if no_memory or isinstance(error, MemoryError) else None


def little_address_space() -> str | None:
    """Return a sentence where this process may not even map what it imports."""
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft == resource.RLIM_INFINITY or soft >= LEAST_ADDRESS_SPACE:
        return None
    return f"this process may map {soft >> 20} MiB, it needs {LEAST_ADDRESS_SPACE >> 20} besides the rings: `ulimit -v`"


def allow_open_files() -> int:
    """Let this process and its workers have as many open files as the system allows; return how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
        return allowed
    return MOST_FILES if soft == resource.RLIM_INFINITY else soft

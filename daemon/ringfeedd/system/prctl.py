"""What a process may ask of the kernel and of malloc for itself, and Python has no words for."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from collections.abc import Iterable
from typing import Final

_SET_PDEATHSIG: Final = 1
_SET_NAME: Final = 15
_SET_CHILD_SUBREAPER: Final = 36

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_KEPT_BYTES: Final = 1 << 30
_BIG_BYTES: Final = 1 << 20


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends. Raises: OSError."""
    _prctl(_SET_CHILD_SUBREAPER, 1)


def kill_with_parent() -> None:
    """Die when the thread that started this process does, which should be its main thread; not inherited by a fork."""
    with contextlib.suppress(OSError):
        _prctl(_SET_PDEATHSIG, signal.SIGKILL)


def ignore(numbers: Iterable[signal.Signals]) -> None:
    """Leave these signals to others; those that wait are dropped."""
    numbers = list(numbers)
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)


def name_process(name: str) -> None:
    """What ``ps -o comm``, ``top`` and ``pgrep`` call this process, of which the kernel keeps 15 bytes."""
    with contextlib.suppress(OSError):
        _prctl(_SET_NAME, name.encode())


def keep_freed_memory() -> None:
    """Have malloc keep big buffers for the next use: each return trip to the kernel costs a fault for every page."""
    _mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)
    _mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


def return_freed_memory() -> None:
    """Have malloc return buffers of a megabyte and more to the kernel at once.

    By itself it raises its bound to the largest buffer that was ever freed, and keeps such buffers in the arena of the
    thread that had them: one large answer of a store would cost a daemon that much memory until its end.
    """
    _mallopt(_M_MMAP_THRESHOLD, _BIG_BYTES)


def _mallopt(option: int, value: int) -> None:
    with contextlib.suppress(AttributeError, OSError):  # another libc: slower or larger, not wrong
        ctypes.CDLL(None).mallopt(ctypes.c_int(option), ctypes.c_int(value))


def _prctl(option: int, argument: int | bytes) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    given = ctypes.c_char_p(argument) if isinstance(argument, bytes) else ctypes.c_ulong(argument)
    nothing = ctypes.c_ulong(0)
    if libc.prctl(ctypes.c_int(option), given, nothing, nothing, nothing):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

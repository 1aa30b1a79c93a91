"""Doorbells: POSIX semaphores that wake a process which waits for a word to change. The one importer of posix_ipc.

A doorbell carries no truth. A lost or an extra token costs its reader one loop or one wait slice.

posix_ipc makes, opens, rings and removes them. The waiting is done by libc's `sem_clockwait` where there is one (glibc
from 2.30 on): posix_ipc ends a wait by the wall clock, so a clock that steps back by an hour would make a slice of an
hour, and it swallows what a signal's handler raises meanwhile.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import stat
import time
from pathlib import Path
from typing import Final

import posix_ipc

from ringfeed.errors import NotTrustedError
from ringfeed.shm.access import no_access
from ringfeed.shm.layout import SHM_DIR

WAIT_SLICE_S: Final = 0.2
"""No wait is longer than this: liveness is checked between two slices."""

MAX_TOKENS: Final = 1 << 20
"""A doorbell that is not answered is not rung beyond this; sem_post itself fails at 2**31 - 1."""

MOST_DRAINED: Final = 1024
"""Tokens taken at a time: a member of the ring's group can post 2**31 of them, which takes minutes to take."""

FLOOD: Final = 256
"""So many tokens in a row that were there at once, and told of nothing, are a process's mischief."""

FLOOD_PAUSE_S: Final = 0.01
"""Then a wait lasts as long as this: the words are looked at all the same, and no core is busy with it."""

_SEMAPHORE_BYTES: Final = 32
"""The size of libc's sem_t, glibc's and musl's, on 64-bit machines."""

_ALL_SIGNALS: Final = signal.valid_signals()


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


_LIBC: Final = ctypes.CDLL(None)
_HAS_CLOCKWAIT: Final = hasattr(_LIBC, "sem_clockwait")
if _HAS_CLOCKWAIT:
    _LIBC.sem_open.restype = ctypes.c_void_p
    _LIBC.sem_open.argtypes = (ctypes.c_char_p, ctypes.c_int)
    _LIBC.sem_close.argtypes = (ctypes.c_void_p,)
    _LIBC.sem_trywait.argtypes = (ctypes.c_void_p,)
    _LIBC.sem_clockwait.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(_Timespec))


class Doorbell:
    """One named semaphore. Never closed while another thread may wait on it (that is a crash in libc)."""

    def __init__(self, semaphore: posix_ipc.Semaphore) -> None:
        self._semaphore = semaphore
        self._at_once = 0
        # The same semaphore once more, as libc knows it; None where its name is gone already, or libc is too old.
        self._address: int | None = _LIBC.sem_open(os.fsencode(semaphore.name), 0) if _HAS_CLOCKWAIT else None

    @classmethod
    def create(cls, name: str, *, mode: int, gid: int) -> Doorbell:
        """Create the semaphore with exactly this mode, whatever the umask.

        Args:
            gid: the owning group, or -1 to leave it.

        Raises:
            OSError: it exists already, or /dev/shm is full or cannot be written.
        """
        try:
            semaphore = posix_ipc.Semaphore(name, posix_ipc.O_CREX, mode=0o600, initial_value=0)
        except posix_ipc.Error as error:
            raise OSError(f"could not make the semaphore {name}: {error}") from error
        path = semaphore_path(name)
        path.chmod(mode)
        if gid != -1:
            os.chown(path, -1, gid)
        return cls(semaphore)

    @classmethod
    def open(cls, name: str) -> Doorbell:
        """Open a semaphore that exists.

        Raises:
            FileNotFoundError: it does not.
            NoAccessError: it belongs to others.
            NotTrustedError: it is not a semaphore.
        """
        try:
            facts = semaphore_path(name).lstat()
            if not stat.S_ISREG(facts.st_mode) or facts.st_size < _SEMAPHORE_BYTES:  # libc would map it, and die
                raise NotTrustedError(f"{semaphore_path(name)} is not a semaphore; restart the daemon")
            return cls(posix_ipc.Semaphore(name))
        except posix_ipc.ExistentialError as error:
            raise FileNotFoundError(f"there is no semaphore {name}") from error
        except posix_ipc.PermissionsError as error:
            raise no_access(semaphore_path(name)) from error
        except posix_ipc.Error as error:
            raise OSError(f"could not open the semaphore {name}: {error}") from error

    def ring(self) -> None:
        """Wake the one who waits, now or at its next wait."""
        if self._semaphore.value < MAX_TOKENS:
            self._semaphore.release()

    def take(self) -> bool:
        """Take a token if there is one; never waits."""
        try:
            self._semaphore.acquire(0)
        except (posix_ipc.BusyError, posix_ipc.SignalError):
            return False
        return True

    def wait(self, seconds: float = WAIT_SLICE_S) -> bool:
        """Wait for a token for at most one slice; True when one was taken.

        A signal ends the wait, and what its handler raises is raised from here.
        """
        if not self._take_at_once():
            self._at_once = 0
            return self._wait(min(seconds, WAIT_SLICE_S))
        if self.flooded:
            self.drain()
            time.sleep(FLOOD_PAUSE_S)
        else:
            self._at_once += 1
        return True

    @property
    def flooded(self) -> bool:
        """Whether tokens come without end, and so tell nothing."""
        return self._at_once >= FLOOD

    def _take_at_once(self) -> bool:
        if self._address is None:
            return self.take()
        return bool(_LIBC.sem_trywait(self._address) == 0)

    def _wait(self, seconds: float) -> bool:
        if self._address is None:
            return self._wait_by_wall_clock(seconds)
        until = _Timespec(*divmod(time.monotonic_ns() + round(seconds * 1e9), 1_000_000_000))
        return bool(_LIBC.sem_clockwait(self._address, time.CLOCK_MONOTONIC, until) == 0)

    def _wait_by_wall_clock(self, seconds: float) -> bool:
        # Signals are held back meanwhile, because posix_ipc swallows what their handlers raise; they run after it.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _ALL_SIGNALS)
        try:
            self._semaphore.acquire(seconds)
        except (posix_ipc.BusyError, posix_ipc.SignalError):
            return False
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return True

    def drain(self) -> None:
        """Take the tokens that are there, `MOST_DRAINED` at most; one that is left costs a loop, as any other."""
        for _ in range(MOST_DRAINED):
            if not self.take():
                return

    def close(self) -> None:
        """Close this process's handle; only where no other thread can be waiting on it."""
        self._semaphore.close()
        if self._address is not None:
            _LIBC.sem_close(self._address)
            self._address = None


def semaphore_path(name: str) -> Path:
    """Where glibc keeps the semaphore ``name`` (which begins with a slash)."""
    return Path(SHM_DIR) / f"sem.{name[1:]}"


def unlink_doorbell(name: str) -> None:
    """Remove the semaphore's name; processes that have it open keep it. Nothing happens where there is none."""
    with contextlib.suppress(posix_ipc.ExistentialError):
        posix_ipc.unlink_semaphore(name)

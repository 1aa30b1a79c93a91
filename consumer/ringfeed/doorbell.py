"""Doorbells: POSIX semaphores that wake a process which waits for a word to change. The one importer of posix_ipc.

A doorbell carries no truth. A lost or an extra token costs its reader one loop or one wait slice.
"""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import Final

import posix_ipc

from ringfeed.layout import SHM_DIR

WAIT_SLICE_S: Final = 0.2
"""No wait is longer than this: signals are held back while a slice lasts, and liveness is checked between two."""

MAX_TOKENS: Final = 1 << 20
"""A doorbell that nobody answers is not rung beyond this; sem_post itself fails at 2**31 - 1."""

_ALL_SIGNALS: Final = signal.valid_signals()


class Doorbell:
    """One named semaphore. Never closed while another thread may wait on it (that is a crash in libc)."""

    def __init__(self, semaphore: posix_ipc.Semaphore) -> None:
        self._semaphore = semaphore

    @classmethod
    def create(cls, name: str, *, mode: int, gid: int) -> Doorbell:
        """Create the semaphore with exactly this mode, whatever the umask.

        Args:
            gid: the owning group, or -1 to leave it.

        Raises:
            OSError: it exists already, or /dev/shm cannot be written.
        """
        semaphore = posix_ipc.Semaphore(name, posix_ipc.O_CREX, mode=0o600, initial_value=0)
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
            PermissionError: it belongs to others.
        """
        try:
            return cls(posix_ipc.Semaphore(name))
        except posix_ipc.ExistentialError as error:
            raise FileNotFoundError(f"there is no semaphore {name}") from error
        except posix_ipc.PermissionsError as error:
            raise PermissionError(f"the semaphore {name} belongs to others") from error

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

        Signals are held back meanwhile, because posix_ipc swallows what their handlers raise; the handlers run when
        this returns. The slice is short because the system's clock, not a monotonic one, ends it.
        """
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _ALL_SIGNALS)
        try:
            self._semaphore.acquire(min(seconds, WAIT_SLICE_S))
        except (posix_ipc.BusyError, posix_ipc.SignalError):
            return False
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return True

    def drain(self) -> None:
        """Take every token that is there."""
        while self.take():
            pass

    def close(self) -> None:
        """Close this process's handle; only where no other thread can be waiting on it."""
        self._semaphore.close()


def semaphore_path(name: str) -> Path:
    """Where glibc keeps the semaphore ``name`` (which begins with a slash)."""
    return Path(SHM_DIR) / f"sem.{name[1:]}"


def unlink_doorbell(name: str) -> None:
    """Remove the semaphore's name; whoever has it open keeps it. Nothing happens where there is none."""
    with contextlib.suppress(posix_ipc.ExistentialError):
        posix_ipc.unlink_semaphore(name)

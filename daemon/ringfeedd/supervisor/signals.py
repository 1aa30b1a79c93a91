"""What a process is told from outside: signals, and doorbells that its event loop cannot wait for."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator

from ringfeed.shm.semaphore import Doorbell
from ringfeedd.worker.launcher import ORDERS


@contextlib.contextmanager
def obey(*, stop: Callable[[str], None], refresh: Callable[[], None]) -> Iterator[None]:
    """Call ``stop`` at SIGTERM and SIGINT, with their name, and ``refresh`` at SIGHUP.

    A SIGHUP that comes because the process's terminal was closed is a stop. Signals that were held back are obeyed
    now; where they were, they are held back again afterwards, and ignored from then on.
    """
    loop = asyncio.get_running_loop()
    had_terminal = os.isatty(0)

    def hang_up() -> None:
        if had_terminal and not os.isatty(0):
            stop("terminal closed")
        else:
            refresh()

    loop.add_signal_handler(signal.SIGTERM, stop, "SIGTERM")
    loop.add_signal_handler(signal.SIGINT, stop, "SIGINT")
    loop.add_signal_handler(signal.SIGHUP, hang_up)
    before = signal.pthread_sigmask(signal.SIG_UNBLOCK, ORDERS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, ORDERS)
        if before >= set(ORDERS):
            # The loop restores the defaults when it is closed, and a signal that another thread takes then would kill.
            loop.remove_signal_handler = _keep  # type: ignore[method-assign]
        for number in ORDERS:
            if number in before:
                # A second Ctrl-C comes to nothing: a process that is about to end holds them back to its end. Threads
                # that began meanwhile do not, and one of them would take the signal.
                signal.signal(number, signal.SIG_IGN)
            else:
                loop.remove_signal_handler(number)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _keep(sig: int) -> bool:  # noqa: ARG001  # as the loop calls it
    return False


@contextlib.contextmanager
def wake_by(bell: Doorbell, wake: asyncio.Event) -> Iterator[None]:
    """Set ``wake`` whenever the bell rings. A thread does the waiting: a semaphore has no file descriptor.

    Raises:
        RuntimeError: no further thread may be started.
    """
    loop = asyncio.get_running_loop()
    ending = threading.Event()

    def listen() -> None:
        while not ending.is_set():
            if bell.wait():
                bell.drain()
                # Where a turn is due already, it begins after this and reads what was written before the token.
                if not wake.is_set():
                    loop.call_soon_threadsafe(wake.set)

    thread = threading.Thread(target=listen, name="doorbell", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ending.set()
        bell.ring()
        thread.join()

"""The supervisor's end of the fork server: starts the process, asks it for workers, ends it.

Light to import, so that the process can be started before anything else is: its imports then run in
parallel.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from ringfeedd.system.prctl import adopt_orphans

MODULE: Final = "ringfeedd.worker.forkserver"

ORDERS: Final = frozenset((signal.SIGHUP, signal.SIGINT, signal.SIGTERM))
"""Signals to the daemon. They often reach its whole process group; its children leave them to the supervisor."""

END_TIMEOUT_S: Final = 1.0
"""A killed process ends at once, but for one that waits for a disk that hangs."""

_ANSWER_BYTES: Final = 64

_NOT_FOR_IT: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
"""The service manager's words to the supervisor."""

ONE_THREAD: Final = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
"""A process with threads of NumPy's cannot be forked safely, and where no thread can be started, OpenBLAS sends its own
process a SIGINT; nothing here multiplies matrices."""


_TUNABLES: Final = "GLIBC_TUNABLES"
_STREAMED: Final = "glibc.cpu.x86_non_temporal_threshold"
STREAMED_BYTES: Final = 128 << 10
"""Copies of so many bytes bypass the processor's caches: a pixel row, which the copying process does not read again.

glibc's own limit follows from the size that the processor reports for its last cache: hundreds of MiB on a shared
host. A row then takes 1.4 times as long to copy out of the memory tier (see ``docs/adr/0018``)."""


def tuned_copies(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variable that sets `STREAMED_BYTES`, unless an operator has set it; other tunables stay."""
    tunables = environ.get(_TUNABLES, "")
    if _STREAMED in tunables:
        return {_TUNABLES: tunables}
    return {_TUNABLES: ":".join(filter(None, (tunables, f"{_STREAMED}={STREAMED_BYTES}")))}


def worker_environ(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of worker processes, made of the supervisor's."""
    kept = {name: value for name, value in environ.items() if name not in _NOT_FOR_IT}
    return kept | ONE_THREAD | tuned_copies(environ)


class ForkServer:
    """One fork server process; not thread-safe, and begun by the main thread, with which it dies."""

    def __init__(self, process: subprocess.Popen[bytes], control: socket.socket) -> None:
        """Take over a process that listens at the other end of ``control``; see `begin`."""
        self._process = process
        self._control = control

    def __repr__(self) -> str:
        return f"ForkServer(pid {self.pid})"

    @classmethod
    def begin(cls) -> ForkServer | None:
        """Start one, and come back while it imports; None where this machine does not allow it."""
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError:
            return None
        # Until it ignores them, they would end it: it inherits that these signals wait.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, ORDERS)
        try:
            os.close(os.pidfd_open(os.getpid()))  # by which workers are waited for; Linux 5.3
            adopt_orphans()
            process = subprocess.Popen(
                [sys.executable, "-m", MODULE, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                env=worker_environ(os.environ),
            )
        except OSError:
            ours.close()
            return None
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            theirs.close()
        ours.setblocking(False)
        return cls(process, ours)

    @property
    def pid(self) -> int:
        """The pid of the server itself."""
        return self._process.pid

    def fileno(self) -> int:
        """Becomes readable when there is an answer, or the server ended."""
        return self._control.fileno()

    def ask(self, message: bytes, fds: Sequence[int] = ()) -> None:
        """Send a request. Raises: OSError: it has ended, or has not read for long."""
        socket.send_fds(self._control, [message], fds)

    def answers(self) -> Iterable[bytes]:
        """The answers that are there, in the order of the requests; an empty one where it has ended."""
        while True:
            try:
                answer = self._control.recv(_ANSWER_BYTES)
            except BlockingIOError:
                return
            except ConnectionResetError:  # it ended with a request unread; what it answered before is still there
                continue
            yield answer
            if not answer:
                return

    def close(self) -> int:
        """End it, if it has not ended; its exit code, or minus the signal that ended it."""
        self._control.close()
        if self._process.poll() is None:
            self._process.kill()
        try:
            return self._process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return -signal.SIGKILL  # it will, some time

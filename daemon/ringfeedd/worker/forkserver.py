"""The fork server: a process that has imported all that a worker needs, and forks one whenever the supervisor asks.

``python -m ringfeedd.worker.forkserver FD`` is started by `ringfeedd.worker.launcher`, before the supervisor's own
imports. It owns nothing, has one thread, never an event loop, and may die at any time: workers are then started in
another way.

A worker becomes the supervisor's own child: it is forked by a process in between that ends at once, and the kernel
gives such an orphan to the nearest ancestor that asked for orphans (PR_SET_CHILD_SUBREAPER).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import gc
import importlib
import os
import socket
import struct
import sys
from collections.abc import Sequence
from typing import Final

from ringfeedd.system.prctl import ignore, kill_with_parent, name_process
from ringfeedd.worker.launcher import ORDERS

NAME: Final = "ringfeed-forks"
"""What ``ps`` and ``top`` call it: the kernel keeps 15 bytes."""

MOST_DESCRIPTORS: Final = 250
"""The kernel lets 253 travel in one message."""

_MESSAGE_BYTES: Final = 4096
_PID: Final = struct.Struct("<q")
_FIRST_FREE_FD: Final = 3
_IMPORT: Final = b"import "


def encode_fork(fds: Sequence[int]) -> bytes:
    """Ask for a worker; sent along with the descriptors themselves.

    Args:
        fds: numbers under which the worker finds its descriptors, that of its connection first; they are the same in
            the supervisor, so that what it says of them means the same in both.
    """
    return struct.pack(f"<{len(fds)}i", *fds)


def encode_import(module: str) -> bytes:
    """Asks for a module that workers will need, given what they are to read; it is not answered."""
    return _IMPORT + module.encode()


def decode_pid(answer: bytes) -> int:
    """The new worker's pid. Raises: OSError: it could not be forked, or there is no server."""
    if len(answer) != _PID.size:
        raise ConnectionResetError
    (pid,) = _PID.unpack(answer)
    if pid < 0:
        raise OSError(-pid, os.strerror(-pid))
    return int(pid)


def serve(control: socket.socket) -> list[int] | None:
    """Do what the supervisor asks for until it closes its end.

    Returns:
        None at the end, in the server; in each worker that is forked, its descriptors.
    """
    while True:
        message, fds, _, _ = socket.recv_fds(control, _MESSAGE_BYTES, MOST_DESCRIPTORS)
        if not message:
            return None
        if message.startswith(_IMPORT):
            with contextlib.suppress(Exception):  # a worker that misses it says so itself
                importlib.import_module(message.removeprefix(_IMPORT).decode())
            continue
        gc.freeze()  # a collection in a worker would touch, and so copy, every page with an object
        pid = _fork_orphan()
        if pid == 0:
            return _take_places(fds, struct.unpack(f"<{len(message) // 4}i", message))
        for fd in fds:
            os.close(fd)
        with contextlib.suppress(ConnectionError):  # then the next message is the end
            control.send(_PID.pack(pid))


def _fork_orphan() -> int:
    """Fork a process without a parent here: its pid, or what went wrong as a negative errno; 0 in the new process."""
    try:
        read_end, write_end = os.pipe()
    except OSError as error:
        return -(error.errno or errno.EMFILE)
    with os.fdopen(read_end, "rb", buffering=0) as answer, os.fdopen(write_end, "wb", buffering=0) as told:
        try:
            between = os.fork()
        except OSError as error:
            return -(error.errno or errno.EAGAIN)
        if between == 0:
            try:
                pid = os.fork()
            except OSError as error:
                pid = -(error.errno or errno.EAGAIN)
            if pid == 0:
                return 0
            told.write(_PID.pack(pid))
            os._exit(0)
        os.waitpid(between, 0)  # from here on the supervisor is the parent, and can wait for it
        told.close()
        found = answer.read(_PID.size)
    return int(_PID.unpack(found)[0]) if found else -errno.ECHILD


def _take_places(fds: Sequence[int], places: Sequence[int]) -> list[int]:
    """Move ``fds`` to ``places``, and close whatever else is open beyond the standard ones."""
    above = max((_FIRST_FREE_FD - 1, *places)) + 1
    moved = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, above) for fd in fds]
    for fd in map(int, os.listdir("/proc/self/fd")):  # noqa: PTH208  # before any path is needed
        if fd >= _FIRST_FREE_FD and fd not in moved:
            with contextlib.suppress(OSError):  # that of the listing itself
                os.close(fd)
    for fd, place in zip(moved, places, strict=True):
        os.dup2(fd, place, inheritable=False)
        os.close(fd)
    return list(places)


def main(fd: int) -> None:
    """Serve on an inherited socket. Says nothing: its parent sees that it ended, and how."""
    kill_with_parent()
    name_process(NAME)
    ignore(ORDERS)
    gc.disable()  # what is imported stays, and looking through it again and again takes a tenth of the time
    server = os.getpid()
    try:
        from ringfeedd.system.limits import allow_open_files  # noqa: PLC0415
        from ringfeedd.worker import worker  # noqa: PLC0415  # with all that it needs

        allow_open_files()
        control = socket.socket(fileno=fd)
        given = serve(control)
    except BaseException as error:  # noqa: BLE001  # e.g. a broken install, of which the workers that follow tell
        if os.getpid() != server:
            with contextlib.suppress(OSError):
                sys.stderr.write(f"ringfeed worker {os.getpid()}: {type(error).__name__}: {error}\n")
        os._exit(1)
    if given is not None:
        control.detach()  # closed already, and its number may be another's by now
        gc.enable()
        worker.main(given[0])
    os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]))

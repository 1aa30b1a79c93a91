"""systemd's part in the tests: it hears the daemon, keeps descriptors for it, and gives them to the next one."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

from house import Daemon, Output

AS_SYSTEMD_STARTS_IT = """
import os, sys
fds = [int(fd) for fd in sys.argv[1].split(",") if fd]
for number, fd in enumerate(fds):
    os.dup2(fd, 3 + number, inheritable=True)
    os.close(fd)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(fds)))
os.execvp(sys.argv[2], sys.argv[2:])
"""
"""The stored descriptors, which lie well above the place where systemd puts them, go there."""

HIGH = 100
"""Stored descriptors lie here and above."""

BARRIER = b"BARRIER=1"


class Manager:
    """Starts a service's daemons one after the other. What they gave it to keep survives a stop and a kill -9."""

    def __init__(self, path: Path) -> None:
        """Listen at ``path``."""
        self.path = path
        self.store: dict[str, int] = {}
        self._heard = threading.Event()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._thread = threading.Thread(target=self._hear, daemon=True)
        self._thread.start()

    def _hear(self) -> None:
        while True:
            message, fds, _, _ = socket.recv_fds(self._socket, 4096, 4)
            if message == BARRIER:
                self._heard.set()
                continue
            if not message:
                return
            lines = dict(line.split("=", 1) for line in message.decode().splitlines())
            name = lines.get("FDNAME", "")
            if "FDSTORE" in lines:
                self.forget(name)
                self.keep(name, fds[0])
            elif "FDSTOREREMOVE" in lines:
                self.forget(name)
            for fd in fds:
                os.close(fd)

    def _send(self, message: bytes) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(message, str(self.path))

    def wait_heard(self) -> None:
        """Wait until all that the daemon has sent is heard."""
        self._heard.clear()
        self._send(BARRIER)
        assert self._heard.wait(60), "the manager hears nothing"

    def keep(self, name: str, fd: int) -> None:
        """Store a copy of ``fd``."""
        self.store[name] = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, HIGH)

    def forget(self, name: str) -> None:
        """Drop what is stored under this name, if anything is."""
        if (fd := self.store.pop(name, None)) is not None:
            os.close(fd)

    def drop_all(self) -> None:
        """Forget everything, as at `systemctl stop`."""
        for name in list(self.store):
            self.forget(name)

    def start(self, daemon: Daemon) -> Daemon:
        """`Daemon.start`, with the descriptors that are stored; comes back before it is ready."""
        self.wait_heard()
        fds = list(self.store.values())
        daemon.process = subprocess.Popen(
            [sys.executable, "-c", AS_SYSTEMD_STARTS_IT, ",".join(map(str, fds)), *daemon.command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "NOTIFY_SOCKET": str(self.path), "LISTEN_FDNAMES": ":".join(self.store)},
            pass_fds=fds,
        )
        daemon.output = Output(daemon.process)
        return daemon

    def close(self) -> None:
        """Hear nothing more, and drop everything."""
        self._send(b"")
        self._thread.join()
        self._socket.close()
        self.path.unlink()
        self.drop_all()

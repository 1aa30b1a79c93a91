"""What the daemon tells systemd: ready, a status line, stopping, that it is still alive, and what to keep (sd_notify).

The protocol is one datagram of ``NAME=value`` lines to the socket that ``$NOTIFY_SOCKET`` names. Outside systemd there
is no such socket and every method does nothing. None of them raises: a daemon that feeds trainers does not die because
its manager does not listen.
"""

from __future__ import annotations

import math
import os
import socket
import time
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Final

_FIRST_STORED_FD: Final = 3

SEND_TIMEOUT_S = 0.5
"""How long a message may wait for room in systemd's socket; a watchdog ping does not wait at all."""


@dataclass(frozen=True, slots=True)
class Notifier:
    """Sends the daemon's state to its service manager.

    Attributes:
        address: what ``socket.connect`` takes: a path, or a name in the abstract namespace that begins with NUL; None
            when no process listens.
        watchdog_interval_s: how often `watchdog` must be called, half of what systemd allows; None when it does not
            ask.
        stored: descriptors by name that a previous process of this service gave it to keep.
    """

    address: str | None = None
    watchdog_interval_s: float | None = None
    stored: dict[str, int] = field(default_factory=dict)

    @classmethod
    def from_environ(cls, environ: MutableMapping[str, str] | None = None) -> Notifier:
        """Reads systemd's variables, and takes them out of the environment: those of the socket, watchdog and store.

        They are taken out because worker processes inherit the environment: systemd would refuse their messages
        (``NotifyAccess=main``), and a library in one of them that knows the variables would fill the log with that.

        Args:
            environ: the variables; ``os.environ`` when None.
        """
        variables = os.environ if environ is None else environ
        name = variables.pop("NOTIFY_SOCKET", "")
        interval_usec = variables.pop("WATCHDOG_USEC", "")
        watched_pid = variables.pop("WATCHDOG_PID", "")
        interval_s = _watchdog_interval_s(interval_usec, watched_pid)
        stored = _stored(*(variables.pop(f"LISTEN_{word}", "") for word in ("PID", "FDS", "FDNAMES")))
        if name.startswith("/"):
            return cls(name, interval_s, stored)
        if name.startswith("@") and len(name) > 1:
            return cls("\0" + name[1:], interval_s, stored)
        return cls()  # unset, or a kind (vsock) that only virtual machines get

    @property
    def active(self) -> bool:
        """Whether a service manager asked to be told."""
        return self.address is not None

    def ready(self, status: str = "") -> bool:
        """The first slots are published: consumers may attach. Also ends a `reloading`.

        Returns:
            Whether the message was handed to the manager's socket; the same for every method here.
        """
        return self._send("READY=1", *_status_line(status))

    def status(self, text: str) -> bool:
        """One line for ``systemctl status``."""
        return self._send(*_status_line(text))

    def stopping(self) -> bool:
        """The daemon has begun to stop."""
        return self._send("STOPPING=1")

    def reloading(self) -> bool:
        """The configuration is being read again; `ready` ends it."""
        now_usec = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        return self._send("RELOADING=1", f"MONOTONIC_USEC={now_usec}")

    def extend_timeout(self, seconds: float, status: str = "") -> bool:
        """Starting or stopping goes on, and takes up to `seconds` more: a long listing does not count as a hang.

        Args:
            seconds: from now, until the next `extend_timeout` or the end of the phase.
            status: what it is doing, for ``systemctl status``.
        """
        return self._send(f"EXTEND_TIMEOUT_USEC={math.ceil(seconds * 1e6)}", *_status_line(status))

    def watchdog(self) -> bool:
        """Still alive; to be called every `watchdog_interval_s` from the loop whose health is meant. Never blocks."""
        return self._send("WATCHDOG=1", timeout_s=0.0)

    def store(self, name: str, fd: int) -> bool:
        """Have systemd keep a descriptor over a restart of the service, under this name; it gets a copy of its own."""
        return self._send("FDSTORE=1", f"FDNAME={name}", fds=(fd,))

    def unstore(self, name: str) -> bool:
        """What is stored under this name is needed no more; closes this process's copy of it, too."""
        if (fd := self.stored.pop(name, None)) is not None:
            os.close(fd)
        return self._send("FDSTOREREMOVE=1", f"FDNAME={name}")

    def _send(self, *lines: str, timeout_s: float = SEND_TIMEOUT_S, fds: Sequence[int] = ()) -> bool:
        """Sends one datagram.

        A socket for each message: there are a few a minute, and so there is no descriptor that a fork would share or a
        restarted manager would leave stale.
        """
        if self.address is None or not lines:
            return False
        message = "\n".join(lines).encode(errors="replace")
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.settimeout(timeout_s)
                sender.connect(self.address)
                if fds:
                    socket.send_fds(sender, [message], list(fds))
                else:
                    sender.send(message)
        except (OSError, ValueError):  # no process listens, no room in time, a name too long or with a NUL inside
            return False
        return True


class Watchdog:
    """Tells systemd at its pace that a loop still turns: at half of the interval after which it kills the service."""

    def __init__(self, notifier: Notifier) -> None:
        """Ping at the first `feed`."""
        self._notifier = notifier
        self._fed = -math.inf

    def feed(self, now: float) -> None:
        """Ping if it is time; to be called at every turn of the loop.

        Args:
            now: monotonic seconds, which also pass while the process is stopped.
        """
        interval_s = self._notifier.watchdog_interval_s
        if interval_s is not None and now - self._fed >= interval_s:
            self._fed = now
            self._notifier.watchdog()


def _status_line(text: str) -> tuple[str, ...]:
    """``STATUS=text`` on one line, since a line feed in it would begin another variable; nothing for an empty text."""
    return (f"STATUS={' '.join(text.split())}",) if text.strip() else ()


def _watchdog_interval_s(interval_usec: str, watched_pid: str) -> float | None:
    """Half of the interval that systemd allows, or None when it does not watch this process."""
    if watched_pid and watched_pid != str(os.getpid()):
        return None
    if not interval_usec.isascii() or not interval_usec.isdigit() or int(interval_usec) == 0:
        return None
    return int(interval_usec) / 2e6


def _stored(listen_pid: str, listen_fds: str, names: str) -> dict[str, int]:
    """The descriptors from 3 on by their names; none where they are meant for another process."""
    if listen_pid != str(os.getpid()) or not listen_fds.isascii() or not listen_fds.isdigit():
        return {}
    found = {}
    for fd, name in zip(range(_FIRST_STORED_FD, _FIRST_STORED_FD + int(listen_fds)), names.split(":"), strict=False):
        try:
            os.set_inheritable(fd, False)
        except OSError:  # it was announced, and is not there
            continue
        found[name] = fd
    return found

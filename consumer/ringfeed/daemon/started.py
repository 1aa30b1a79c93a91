"""The daemons that this process has started: how each begins, and how it ends, unless another process needs it."""

from __future__ import annotations

import atexit
import os
import re
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from ringfeed.daemon.keep import give_up, keep
from ringfeed.errors import RingfeedError
from ringfeed.reader.reader import close_open_readers
from ringfeed.shm import segment
from ringfeed.shm.descriptor import Descriptor

EXIT_ALREADY_RUNNING: Final = 75
STOP_TIMEOUT_S: Final = 10.0

_LOOK_S: Final = 0.05


def start(
    root: str, ring: str, flags: Iterable[str], find: Callable[[], dict[str, Descriptor] | None]
) -> dict[str, Descriptor] | None:
    """Start a daemon that ends once no process needs it, and wait for its first pairs.

    Args:
        ring: what its rings' names begin with.
        flags: further ones of `ringfeed serve`.
        find: looks for its rings.

    Returns:
        Its rings, by split, kept for this process; None where the name was taken.

    Raises:
        RingfeedError: it could not start; the sentence is its own.
    """
    command = [sys.executable, "-m", "ringfeedd", "serve", root, "--ring", ring, "--stop-on-eof", *flags]
    log = tempfile.TemporaryFile()  # noqa: SIM115  # it lasts as long as the daemon; a pipe would fill up unread
    theirs, ours = os.pipe()
    segment.close_in_children(ours)  # or a forked worker would keep it open
    try:
        # In a session of its own: Ctrl-C at this one's terminal is not meant for a daemon that others may use.
        daemon = subprocess.Popen(command, stdin=theirs, stdout=log, stderr=log, start_new_session=True)
    finally:
        os.close(theirs)
    running = _Running(daemon, ours, os.getpid(), ring)
    _RUNNING.append(running)
    while True:
        ended = daemon.poll() is not None
        said = os.pread(log.fileno(), 1 << 20, 0).decode(errors="replace")
        if re.search(r"^ready", said, re.MULTILINE) and (rings := find()) is not None and keep(rings.values()):
            running.rings = tuple(rings.values())
            return rings
        if ended:
            _RUNNING.remove(running)
            segment.close_lock(ours)
            if daemon.returncode == EXIT_ALREADY_RUNNING:
                return None
            raise RingfeedError(f"No daemon runs for {root}, and none could be started: {_complaint(said)}")
        time.sleep(_LOOK_S)


def _complaint(said: str) -> str:
    """The last sentence that a daemon said before it gave up."""
    lines = said.strip().splitlines()
    return lines[-1].removeprefix("ringfeed: ") if lines else "it said nothing"


@dataclass
class _Running:
    """A daemon that this process has started.

    Attributes:
        alive: the end of its input; it learns from the other end that this process is gone.
        ring: what its rings' names begin with.
        rings: once they are served.
        users: what reads them here.
    """

    daemon: subprocess.Popen[bytes]
    alive: int
    pid: int
    ring: str
    rings: tuple[Descriptor, ...] = ()
    users: weakref.WeakSet[object] = field(default_factory=weakref.WeakSet)

    def end(self) -> None:
        """Stop it, unless another process needs it; then it ends by itself once none does."""
        unneeded = not self.rings or give_up(self.rings)
        segment.close_lock(self.alive)
        if not unneeded:
            return
        self.daemon.terminate()
        try:
            self.daemon.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.daemon.kill()


_RUNNING: Final[list[_Running]] = []


def serves(ring: str, rings: Mapping[str, Descriptor]) -> None:
    """Take note of what a daemon that this process started serves, if one of that name is."""
    for running in _RUNNING:
        if running.ring == ring:
            running.rings = tuple(rings.values())


def use(ring: Descriptor, user: object) -> None:
    """Take note that an object reads a ring: a daemon that this process started is not ended while one lives."""
    for running in _RUNNING:
        if ring in running.rings:
            running.users.add(user)


def end_unused() -> None:
    """End the daemons whose loaders are gone: a notebook that keeps asking for other settings has two at most."""
    for running in [one for one in _RUNNING if one.pid == os.getpid() and one.rings and not one.users]:
        _RUNNING.remove(running)
        running.end()


@atexit.register
def _end_daemons() -> None:
    ours = [running for running in _RUNNING if running.pid == os.getpid()]  # none of a parent's, in a forked child
    if ours:
        close_open_readers()
    for running in ours:
        running.end()

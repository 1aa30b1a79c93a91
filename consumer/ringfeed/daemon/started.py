"""The daemons that this process has started: how each begins, and how it ends, unless another process needs it."""

from __future__ import annotations

import atexit
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from ringfeed.daemon.keep import give_up, keep
from ringfeed.errors import RingfeedError
from ringfeed.reader.registry import close_open_readers
from ringfeed.shm import segment
from ringfeed.shm.descriptor import Descriptor

EXIT_ALREADY_RUNNING: Final = 75
STOP_TIMEOUT_S: Final = 10.0

_LOOK_S: Final = 0.05


class Use:
    """What keeps a daemon that this process has started from making room for another one: an object of its reader's.

    A copy is the same use, as it reads the same daemon.
    """

    def __copy__(self) -> Use:
        return self

    def __deepcopy__(self, _: object) -> Use:
        return self


def start(
    root: str, ring: str, flags: Iterable[str], find: Callable[[], dict[str, Descriptor] | None], use: Use
) -> dict[str, Descriptor] | None:
    """Start a daemon that ends once no process needs it, and wait for its first pairs.

    Args:
        ring: what its rings' names begin with.
        flags: further ones of `ringfeed serve`.
        find: looks for its rings.
        use: of its rings by this process.

    Returns:
        Its rings, by split, kept for this process; None where the name was taken.

    Raises:
        RingfeedError: it could not start; the sentence is its own.
    """
    command = [sys.executable, "-m", "ringfeedd", "serve", root, "--ring", ring, "--stop-on-eof", *flags]
    command += ["--log-format", "text"]  # its lines are read here, whatever RINGFEED_LOG_FORMAT says
    environ = {name: value for name, value in os.environ.items() if name != "RINGFEED_CONFIG"}
    log = tempfile.TemporaryFile()  # noqa: SIM115  # it lasts as long as the daemon; a pipe would fill up unread
    theirs, ours = os.pipe()
    segment.close_in_children(ours)  # or a forked worker would keep it open
    try:
        # In a session of its own: Ctrl-C at this one's terminal is not meant for a daemon that others may use.
        daemon = subprocess.Popen(command, stdin=theirs, stdout=log, stderr=log, start_new_session=True, env=environ)
    finally:
        os.close(theirs)
    running = _Running(daemon, ours, os.getpid(), ring)
    _RUNNING.append(running)
    while True:
        ended = daemon.poll() is not None
        said = os.pread(log.fileno(), 1 << 20, 0).decode(errors="replace")
        if re.search(r"^ready", said, re.MULTILINE) and (rings := find()) is not None and take(ring, rings, use):
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
        uses: what reads them here.
        needed: by another process, when this one gave it up; None before.
    """

    daemon: subprocess.Popen[bytes]
    alive: int
    pid: int
    ring: str
    rings: tuple[Descriptor, ...] = ()
    uses: weakref.WeakSet[Use] = field(default_factory=weakref.WeakSet)
    needed: bool | None = None

    def give_up(self) -> None:
        """Need it no longer. Where no other process does, none can come to, this one's other threads included."""
        if self.needed is None:
            self.needed = bool(self.rings) and not give_up(self.rings)

    def end(self) -> None:
        """Stop it, unless another process needs it; then it ends by itself once none does."""
        self.give_up()
        segment.close_lock(self.alive)
        if self.needed:
            return
        self.daemon.terminate()
        try:
            self.daemon.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.daemon.kill()


_RUNNING: Final[list[_Running]] = []


_CHOOSING = threading.Lock()
"""Held while a daemon is taken into use, or found to be unused: threads may ask for loaders at the same time."""


def take(ring: str, rings: Mapping[str, Descriptor], use: Use) -> bool:
    """Keep the daemon of these rings for this process; False where it is gone, or about to stop.

    A daemon that this process has started is not ended by `end_unused` while ``use`` lives.
    """
    with _CHOOSING:
        if not keep(rings.values()):
            return False
        for running in _RUNNING:
            if running.ring == ring:
                running.rings = tuple(rings.values())
                running.uses.add(use)
        return True


def end_unused() -> None:
    """End the daemons whose loaders are gone: a notebook that keeps asking for other settings has two at most."""
    with _CHOOSING:
        unused = [one for one in _RUNNING if one.pid == os.getpid() and one.rings and not one.uses]
        for running in unused:
            _RUNNING.remove(running)
            running.give_up()
    for running in unused:
        running.end()


def _renew_lock() -> None:
    global _CHOOSING  # noqa: PLW0603  # the thread that held it at the fork is not in the child
    _CHOOSING = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)


@atexit.register
def _end_daemons() -> None:
    ours = [running for running in _RUNNING if running.pid == os.getpid()]  # none of a parent's, in a forked child
    if ours:
        close_open_readers()
    for running in ours:
        running.end()

"""Renewal: rings whose files were removed from /dev/shm under their daemon are served in a new generation.

What a consumer has mapped stays readable, so those who are attached notice nothing; but nobody new can come, and
another daemon may take the name. So the daemon looks every second whether its files are still there. Where one is not,
it ends this generation of all its rings as at a stop, and begins the next as after a kill, with the places of those who
read now.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from ringfeed.reader.attachment import Control
from ringfeed.shm import segment
from ringfeed.shm.layout import SHM_DIR
from ringfeedd.shm.lock import SingletonLock
from ringfeedd.shm.memory import RingMemory
from ringfeedd.supervisor.service import RingService

LOOK_INTERVAL_S: Final = 1.0
"""How often the daemon looks whether its files are still there."""


def removed_files(memories: Iterable[RingMemory], locks: Iterable[SingletonLock]) -> str | None:
    """A sentence on the files that somebody removed from /dev/shm; None while all are there."""
    gone = [name for memory in memories for name in memory.removed()]
    gone += [lock.name for lock in locks if not lock.held]
    if not gone:
        return None
    which = gone[0] if len(gone) == 1 else f"{gone[0]} and {len(gone) - 1} more"
    return (
        f"somebody removed {which} of this daemon's files from {SHM_DIR}; the rings are made anew, and trainers that "
        f"are attached go on with them at their next pair"
    )


def still_attached(service: RingService) -> list[Control]:
    """The control segments of a ring's consumers, of this generation and of former ones, with names or without.

    Each is opened anew, so that it stays when this generation ends.
    """
    former = [(former.descriptor, former.control.lock_fd) for former in service.formers]
    return [
        Control(descriptor, segment.reopen(fd))
        for descriptor, fd in [(service.memory.descriptor, service.memory.lock_fd), *former]
    ]

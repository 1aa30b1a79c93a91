"""`ringfeed clean`: remove what dead daemons left in /dev/shm, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ringfeed.errors import NotTrustedError
from ringfeed.shm import layout, segment
from ringfeed.text import count
from ringfeedd.cache.memory import remove_leftover
from ringfeedd.errors import AlreadyRunningError, StartError
from ringfeedd.recovery.cleanup import clear_leavings, foreign_files
from ringfeedd.recovery.other_versions import other_versions
from ringfeedd.recovery.predecessor import read_predecessors
from ringfeedd.shm.lock import SingletonLock
from ringfeedd.shm.memory import Access

_RING_OF_A_FILE = re.compile(rf"(?:sem\.)?{re.escape(layout.PREFIX)}({layout.RING_NAME_PATTERN})(?:\..+)?")


def rings_with_files() -> list[str]:
    """The names of all rings that have any file in /dev/shm, sorted.

    Raises:
        StartError: it cannot be listed.
    """
    try:
        names = segment.names()
    except NotTrustedError as error:
        raise StartError(str(error)) from error
    return sorted({match[1] for name in names if (match := _RING_OF_A_FILE.fullmatch(name))})


def clean(rings: Iterable[str], *, force: bool) -> tuple[list[str], bool]:
    """Remove the files of these rings where their daemon is dead.

    Args:
        force: also where trainers still wait for the next daemon, which would then not know their places.

    Returns:
        A sentence for each ring, and whether all of them are clean now or served.
    """
    said, well = [], True
    for ring in rings:
        try:
            lock = SingletonLock(ring, Access())
        except AlreadyRunningError:
            said.append(f"{ring}: is served; left alone")
            continue
        except StartError as error:
            said.append(f"{ring}: {error}")
            well = False
            continue
        try:
            waiting = sum(len(former.places) for former in read_predecessors(ring))
            if waiting and not force:
                said.append(
                    f"{ring}: {count(waiting, 'trainer')} {'waits' if waiting == 1 else 'wait'} for its next daemon; "
                    "left alone (--force removes it)"
                )
                well = False
                continue
            if not force and other_versions(ring):
                said.append(f"{ring}: trainers wait for a daemon of another release; left alone (--force removes it)")
                well = False
                continue
            removed = len(clear_leavings(ring)) + remove_leftover(ring)
            said.append(
                f"{ring}: removed {count(removed, 'file')} of a dead daemon"
                if removed
                else f"{ring}: nothing is left of it"
            )
            if foreign := foreign_files(ring):
                said.append(f"{ring}: {foreign}")
                well = False
        except (AlreadyRunningError, StartError) as error:
            said.append(f"{ring}: {error}")
            well = isinstance(error, AlreadyRunningError) and well
        finally:
            lock.release()
    return said, well

"""`ringfeed clean`: remove what dead daemons left in /dev/shm, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

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
    found = [(f"{ring}: {sentence}", well) for ring in rings for sentence, well in _clean(ring, force=force)]
    return [sentence for sentence, _ in found], all(well for _, well in found)


def _clean(ring: str, *, force: bool) -> Iterator[tuple[str, bool]]:
    """Remove the files of one ring; yield what came of it, and whether it is clean now or served."""
    try:
        lock = SingletonLock(ring, Access())
    except AlreadyRunningError:
        yield "is served; left alone", True
        return
    except StartError as error:
        yield str(error), False
        return
    try:
        waiting = sum(len(former.places) for former in read_predecessors(ring))
        if waiting and not force:
            who = f"{count(waiting, 'trainer')} {'waits' if waiting == 1 else 'wait'}"
            yield f"{who} for its next daemon; left alone (--force removes it)", False
        elif not force and other_versions(ring):
            yield "trainers wait for a daemon of another release; left alone (--force removes it)", False
        else:
            removed = len(clear_leavings(ring)) + remove_leftover(ring)
            yield f"removed {count(removed, 'file')} of a dead daemon" if removed else "nothing is left of it", True
            if foreign := foreign_files(ring):
                yield foreign, False
    except (AlreadyRunningError, StartError) as error:
        yield str(error), isinstance(error, AlreadyRunningError)
    finally:
        lock.release()

"""The places that a DataLoader's workers leave when they end: their next iteration's workers go on there.

No reader continues once the dataset is closed or gone, or the process ends well. Then the daemon is told so, as it
would keep the places for a while, and the next reader would wait for that long.
"""

from __future__ import annotations

import atexit
import os
import sys
import weakref

from ringfeed.reader.attachment import give_up_places
from ringfeed.shm.origin import process_number


class WorkersPlaces:
    """The places of the workers that read from one dataset in one group of a ring."""

    def __init__(self, ring: str, group: str) -> None:
        self._ring, self._group = ring, group
        self._pid = os.getpid()
        _LEFT.add(self)

    def __repr__(self) -> str:
        return f"WorkersPlaces({self._ring!r}, group {self._group!r})"

    def give_up(self) -> None:
        """Have the daemon keep them no longer; does nothing in a forked child."""
        _LEFT.discard(self)
        _UNREACHABLE.discard(self)
        if self._pid == os.getpid():
            give_up_places(self._ring, self._group, process_number(self._pid))

    def give_up_with(self, owner: object) -> None:
        """Give them up before this process attaches again, once an object is gone."""
        # Not by the finaliser itself, which may come in the middle of any line.
        weakref.finalize(owner, _note_unreachable, self).atexit = False


_LEFT: set[WorkersPlaces] = set()
_UNREACHABLE: set[WorkersPlaces] = set()


def _note_unreachable(places: WorkersPlaces) -> None:
    if places in _LEFT:
        _UNREACHABLE.add(places)


def give_up_unreachable() -> None:
    """Give up the places of datasets that are gone; to be called before this process, or a worker of it, attaches."""
    for places in list(_UNREACHABLE):
        places.give_up()


def _give_up_all() -> None:
    # A job that ends by an exception is likely to be started again, from its state.
    if getattr(sys, "last_value", None) is None:
        for places in list(_LEFT):
            places.give_up()


def _forget_parents() -> None:
    _LEFT.clear()
    _UNREACHABLE.clear()


atexit.register(_give_up_all)
os.register_at_fork(after_in_child=_forget_parents)

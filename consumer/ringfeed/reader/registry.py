"""The open readers of this process: they end with it, and none of them keeps another one of it waiting."""

from __future__ import annotations

import atexit
import os
import sys
import weakref
from typing import Protocol

from ringfeed.log import warn


class OpenReader(Protocol):
    """A reader, as the others of its process see it."""

    @property
    def pass_of(self) -> tuple[str, str]:
        """The generation of its ring, and its group."""

    def make_way(self, end: int) -> bool:
        """Do not keep pairs below ``end`` from being published; return whether it had to be closed for that."""

    def close(self, *, keep_place: bool = False) -> None:
        """Detach."""

    def renew_lock(self) -> None:
        """Forget that a thread is in it: this is a forked child, which has only one thread."""


_OPEN: set[weakref.ref[OpenReader]] = set()
"""Not a `WeakSet`, whose length takes Python three calls at each wait."""


def register(reader: OpenReader) -> None:
    """Add a reader that has attached."""
    _OPEN.add(weakref.ref(reader, _OPEN.discard))


def unregister(reader: OpenReader) -> None:
    """Remove a reader that is closed."""
    _OPEN.discard(weakref.ref(reader))


def _open_readers() -> list[OpenReader]:
    return [reader for reference in list(_OPEN) if (reader := reference()) is not None]


def let_make_way(waiting: OpenReader, end: int) -> None:
    """Have the other groups' readers not stand in the way of pairs below ``end``."""
    if len(_OPEN) == 1:
        return
    generation, group = waiting.pass_of
    for reader in _open_readers():
        its_generation, its_group = reader.pass_of
        if its_group != group and its_generation == generation and reader.make_way(end):
            warn("%r was closed: %r waited for it in the same thread.", reader, waiting)


def close_open_readers() -> None:
    """Detach every reader of this process, at its end."""
    # A trainer that ends by an exception is likely to be started again: its place is kept, as if it had been killed.
    failed = getattr(sys, "last_value", None) is not None
    for reader in _open_readers():
        reader.close(keep_place=failed)


def _renew_locks() -> None:
    # The thread that held one at the fork is not in the child, whose calls are to end in an error, not in a hang.
    for reader in _open_readers():
        reader.renew_lock()
    _OPEN.clear()  # they are the parent's, which a child's reader must not ask to make way


atexit.register(close_open_readers)
os.register_at_fork(after_in_child=_renew_locks)

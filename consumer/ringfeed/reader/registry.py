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
    def ring(self) -> str:
        """The ring's name."""

    @property
    def group(self) -> str:
        """The group's name."""

    @property
    def reads_from(self) -> tuple[int, int]:
        """The (epoch, position) up to which it has given everything back."""

    @property
    def may_miss(self) -> bool:
        """Whether no other reader waits for this one."""

    @property
    def reads_in_this_thread(self) -> bool:
        """Whether the thread that calls is the one that read from it last, or attached it."""

    @property
    def pass_of(self) -> tuple[str, str]:
        """The generation of its ring, and its group."""

    def make_way(self, end: int) -> bool:
        """Do not keep pairs below ``end`` from being published; return whether it had to be closed for that."""

    def make_way_for_workers(self) -> bool:
        """Do not keep a whole epoch from being published; return whether it had to be closed for that."""

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


def let_make_way_for_workers(ring: str, group: str) -> None:
    """Have other groups' readers between two iterations not stand in the way of workers that this thread waits for."""
    for reader in _open_readers():
        if reader.ring == ring and reader.group != group and reader.make_way_for_workers():
            warn("%r was closed: a DataLoader's workers that begin in the same thread need its slots.", reader)


def own_readers_beyond(ring: str, group: str, at: tuple[int, int]) -> tuple[str, bool]:
    """Return the other groups' readers of this process that have gone beyond (epoch, position).

    Returns:
        What they are called, empty if there are none, since an error that is kept must keep no reader; and whether one
        of them reads in the thread that calls, which would wait for itself.
    """
    own = [reader for reader in _open_readers() if reader.ring == ring and reader.group != group]
    beyond = [reader for reader in own if not reader.may_miss and reader.reads_from > at]
    return ", ".join(map(repr, beyond)), any(reader.reads_in_this_thread for reader in beyond)


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

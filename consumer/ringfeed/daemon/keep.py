"""Keeping a daemon: a process's word that it needs a daemon whose starter may end before it does.

The word is a shared lock on one byte of each ring's control segment. The kernel takes it back when the process ends,
however it ends. A daemon that was told that its starter is gone locks the same byte for itself before it stops: that
fails while a process keeps it, and from then on none can.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from ringfeed.errors import RingfeedError
from ringfeed.shm import segment
from ringfeed.shm.control import Control
from ringfeed.shm.descriptor import Descriptor
from ringfeed.shm.layout import DAEMON_LOCK_BYTE, KEEP_LOCK_BYTE

_KEPT: dict[str, int] = {}
"""By generation, the descriptor that carries the lock."""


def keep(rings: Iterable[Descriptor]) -> bool:
    """Keep the daemon of these rings for as long as this process lives; False where it is gone, or about to stop.

    A forked child does not keep it: attached readers do so by themselves.
    """
    return all(_keep(ring) for ring in rings)


def _keep(ring: Descriptor) -> bool:
    if ring.generation in _KEPT:
        return segment.is_locked(_KEPT[ring.generation], DAEMON_LOCK_BYTE)
    try:
        fd = segment.open_existing(ring.control, writable=False)
    except FileNotFoundError:
        return False
    if segment.try_share(fd, KEEP_LOCK_BYTE) and segment.is_locked(fd, DAEMON_LOCK_BYTE):
        _KEPT[ring.generation] = fd
        segment.close_in_children(fd)
        return True
    os.close(fd)
    return False


def give_up(rings: Iterable[Descriptor]) -> bool:
    """Keep the daemon no longer. True where it lives and no other process needs it; then none can come to."""
    rings = list(rings)
    for ring in rings:
        if (fd := _KEPT.pop(ring.generation, None)) is not None:
            segment.close_lock(fd)
    try:
        controls = [Control(ring, lockable=True) for ring in rings]
    except (RingfeedError, OSError):
        return False  # it is gone, or serves in a later generation: another process looks after it
    if all(segment.try_lock(control.lock_fd, KEEP_LOCK_BYTE) and not _has_readers(control) for control in controls):
        return True  # with the locks, which end with this process
    for control in controls:
        control.close()
    return False


def _has_readers(control: Control) -> bool:
    return any(control.lane_lives(lane) for lane in range(control.geometry.lanes))


os.register_at_fork(after_in_child=_KEPT.clear)

"""Handing over: when a daemon stops, what tells where consumers stand goes into the service manager's keeping.

A stop leaves nothing in /dev/shm, yet trainers may live through it, busy in a long step, and expect their places with
the next daemon. The same goes for a daemon whose files were removed. systemd keeps descriptors over a restart (its
*file descriptor store*) and drops them when the service is stopped for good: so the control segment, which has no name
any more, goes there. So do the rows of the memory cache, with which the next daemon goes on.
"""

from __future__ import annotations

import contextlib
import json
import os
from typing import TYPE_CHECKING

from ringfeed.errors import RingfeedError
from ringfeed.shm import segment
from ringfeed.shm.control import Control
from ringfeed.shm.descriptor import Descriptor

if TYPE_CHECKING:
    from ringfeedd.system.systemd import Notifier

_CONTROL, _DESCRIPTOR = "ctl", "descriptor"


def hand_over(descriptor: Descriptor, control_fd: int, notifier: Notifier) -> None:
    """Store a generation's control segment and its descriptor in the service manager, unless they are there already."""
    if not notifier.active or _name(descriptor, _CONTROL) in notifier.stored:
        return
    with contextlib.ExitStack() as fds, contextlib.suppress(OSError):
        # An open file of its own: the daemon's carries the lock that says that it lives. Not by name: it may be gone.
        control = segment.reopen(control_fd)
        fds.callback(os.close, control)
        facts = os.memfd_create(f"ringfeed-{descriptor.generation}")
        fds.callback(os.close, facts)
        os.write(facts, descriptor.to_json())
        notifier.store(_name(descriptor, _CONTROL), control)
        notifier.store(_name(descriptor, _DESCRIPTOR), facts)


def drop(descriptor: Descriptor, notifier: Notifier) -> None:
    """Take a generation out of the manager's keeping; nothing where it is not there."""
    for kind in (_CONTROL, _DESCRIPTOR):
        if _name(descriptor, kind) in notifier.stored:
            notifier.unstore(_name(descriptor, kind))


def take_over(notifier: Notifier) -> list[Control]:
    """The control segments that previous daemons of any ring stored."""
    controls = []
    for name, fd in notifier.stored.items():
        generation, _, kind = name.rpartition(".")
        control = notifier.stored.get(f"{generation}.{_CONTROL}")
        if kind != _DESCRIPTOR or control is None:
            continue
        with contextlib.suppress(RingfeedError, OSError, ValueError):
            text = os.pread(fd, 1 << 20, 0)
            controls.append(Control(Descriptor.from_json(json.loads(text)["ring"], text), os.dup(control)))
    return controls


def kept_rows(ring: str, notifier: Notifier) -> int | None:
    """Return the memory cache that a previous daemon stored; ``ring`` is the daemon's first. None for none."""
    return notifier.stored.get(_rows(ring))


def keep_rows(ring: str, fd: int, notifier: Notifier) -> None:
    """Store the file of the memory cache, unless it is there already; its workers have ended."""
    if not notifier.active or _rows(ring) in notifier.stored:
        return
    with contextlib.suppress(OSError):
        rows = segment.reopen(fd)  # without the daemon's lock
        try:
            notifier.store(_rows(ring), rows)
        finally:
            os.close(rows)


def drop_rows(ring: str, notifier: Notifier) -> None:
    """Take a memory cache that is not used out of the manager's keeping, which frees its memory."""
    if _rows(ring) in notifier.stored:
        notifier.unstore(_rows(ring))


def _rows(ring: str) -> str:
    return f"{ring}.cache"


def _name(descriptor: Descriptor, kind: str) -> str:
    return f"{descriptor.ring}.{descriptor.generation}.{kind}"

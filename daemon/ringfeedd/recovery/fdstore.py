"""Handing over: at a clean stop, what tells where consumers stand goes into the service manager's keeping.

A clean stop leaves nothing in /dev/shm, yet trainers may live through it, busy in a long step, and expect their places
with the next daemon. systemd keeps descriptors over a restart (its *file descriptor store*) and drops them when the
service is stopped for good: so the control segment, which has no name any more, goes there.
"""

from __future__ import annotations

import contextlib
import json
import os
from typing import TYPE_CHECKING

from ringfeed.errors import RingfeedError
from ringfeed.reader.attachment import Control
from ringfeed.shm import segment
from ringfeed.shm.descriptor import Descriptor

if TYPE_CHECKING:
    from ringfeedd.system.systemd import Notifier

_CONTROL, _DESCRIPTOR = "ctl", "descriptor"


def hand_over(descriptor: Descriptor, notifier: Notifier) -> None:
    """Give a generation's control segment, which still has its name, and its descriptor into the manager's keeping."""
    if not notifier.active:
        return
    with contextlib.ExitStack() as fds, contextlib.suppress(OSError):
        # An open file of its own: the daemon's carries the lock that says that it lives.
        control = os.open(segment.shm_path(descriptor.control), os.O_RDWR | os.O_CLOEXEC)
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


def _name(descriptor: Descriptor, kind: str) -> str:
    return f"{descriptor.ring}.{descriptor.generation}.{kind}"

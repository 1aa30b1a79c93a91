"""The next daemon of a ring, once one is gone: waiting for it, and insisting that it serves what the former one did."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Final

from ringfeed.attachment import Attachment
from ringfeed.descriptor import Descriptor, read_descriptor
from ringfeed.errors import DaemonGoneError, DaemonNotRunningError, StateMismatchError
from ringfeed.lane import Request
from ringfeed.state import ResumeState

RESTART_S: Final = 120.0
"""How long a reader waits for a new daemon when its own is gone."""

_RETRY_S: Final = 0.05


def attach_to_the_next(
    former: Descriptor,
    gone: Exception,
    ask: Callable[[Descriptor], Request],
    state: ResumeState | None,
    *,
    restart_s: float,
    still_wanted: Callable[[], None],
) -> Attachment:
    """Attach as soon as another daemon than the former one serves the ring.

    Args:
        gone: raised where none comes in time.
        ask: makes the request to the new daemon from what it says of itself.
        state: that the request's place comes from; see `Attachment`.
        restart_s: in time.
        still_wanted: called again and again meanwhile; raises to give up.

    Raises:
        StateMismatchError: it serves another share of the machines, other pixels, or not what ``state`` is of.
        AttachRefusedError: it refused.
    """
    deadline = time.monotonic() + restart_s
    while True:
        still_wanted()
        with contextlib.suppress(DaemonNotRunningError, DaemonGoneError):
            descriptor = read_descriptor(former.ring)
            if descriptor.generation != former.generation:
                check_serves_the_same(descriptor, former)
                return Attachment(former.ring, ask(descriptor), state=state, still_wanted=still_wanted)
        if time.monotonic() >= deadline:
            raise gone
        time.sleep(_RETRY_S)


def check_serves_the_same(descriptor: Descriptor, former: Descriptor) -> None:
    """Raise unless a new daemon serves the same machine's share as the former one, and makes the same arrays of a pair.

    Raises:
        StateMismatchError: it does not.
    """
    node, node_before = ((d.node_rank, d.num_nodes) for d in (descriptor, former))
    if node != node_before:
        raise StateMismatchError(
            f"The daemon of ring {former.ring!r} came back as node {node[0]} of {node[1]}, and this reader was "
            f"reading the share of node {node_before[0]} of {node_before[1]}; start the trainers again from their "
            f"checkpoint."
        )
    pixels, pixels_before = _pixels(descriptor), _pixels(former)
    if pixels != pixels_before:
        raise StateMismatchError(
            f"The daemon of ring {former.ring!r} came back with other pixels, {pixels} after {pixels_before}; restart "
            f"it as it was, or the trainers from their checkpoint."
        )


def _pixels(descriptor: Descriptor) -> str:
    height, width = descriptor.geometry.image.row_shape[:2]
    size = "" if descriptor.fit == "native" else f" to {height}x{width}"  # there a slot's size shapes no pair
    return f"{descriptor.fit}{size} with {descriptor.label_mode} labels"

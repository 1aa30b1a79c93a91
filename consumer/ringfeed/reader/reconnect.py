"""The next daemon of a ring, once one is gone: wait for it, and insist that it serves what the previous one did."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from ringfeed.errors import DaemonGoneError, DaemonNotRunningError, OtherVersionError, StateMismatchError
from ringfeed.log import warn
from ringfeed.reader.attachment import Attachment, restarted
from ringfeed.reader.state import ResumeState
from ringfeed.shm.descriptor import Descriptor, read_descriptor
from ringfeed.shm.identity import Decides, spelled
from ringfeed.shm.lane import Request
from ringfeed.shm.layout import RingState, Start, State

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
    """Attach as soon as another daemon than the previous one serves the ring.

    Args:
        gone: raised where none comes in time, unless one of another layout version did.
        ask: makes the request to the new daemon from what it says of itself.
        state: that the request's place comes from; see `Attachment`.
        restart_s: in time.
        still_wanted: called again and again meanwhile; raises to give up.

    Raises:
        StateMismatchError: it serves another share of the machines, other pixels, or not what ``state`` is of.
        OtherVersionError: it has another layout version, and none with this one came within ``restart_s``.
        AttachRefusedError: it refused.
    """
    deadline = time.monotonic() + restart_s
    while True:
        still_wanted()
        try:
            descriptor = read_descriptor(former.ring)
            if descriptor.generation != former.generation:
                check_serves_the_same(descriptor, former)
                return Attachment(former.ring, ask(descriptor), state=state, still_wanted=still_wanted)
        except (DaemonNotRunningError, DaemonGoneError):
            pass
        except OtherVersionError as error:
            gone = error.with_traceback(None)  # told only where no daemon of this version comes in time
        if time.monotonic() >= deadline:
            raise gone
        time.sleep(_RETRY_S)


def attach_again(
    earlier: Attachment,
    gone: DaemonGoneError,
    request: Request,
    standing: ResumeState,
    *,
    restart_s: float,
    still_wanted: Callable[[], None],
) -> Attachment:
    """Attach to the next daemon, at exactly the next pair.

    Raises:
        DaemonGoneError: none came in time, or the ring was stopped for a reason that a restart does not fix.
        StateMismatchError: the new one serves another order, or other pixels.
    """

    def ask(descriptor: Descriptor) -> Request:
        return replace(request, start=Start.AT, at=standing.place(descriptor, strict=True), resuming=True)

    return _follow(earlier, gone, ask, standing, restart_s=restart_s, still_wanted=still_wanted)


def attach_elsewhere(
    earlier: Attachment,
    request: Request,
    state: ResumeState | None,
    *,
    order_of: ResumeState | None,
    restart_s: float,
    still_wanted: Callable[[], None],
) -> Attachment:
    """Attach to another place of the ring, whose lane was given back; to the next daemon if this one has just gone.

    Args:
        state: that the request's place comes from; see `Attachment`.
        order_of: a state of the order that a next daemon has to serve; None: any order.

    Raises:
        AttachRefusedError: other groups have gone beyond that place.
        DaemonGoneError, DaemonNotRunningError: it is gone, and none came in time.
    """
    ring = earlier.descriptor.ring

    def ask(descriptor: Descriptor) -> Request:
        if order_of is not None:
            order_of.place(descriptor, strict=True)
        return request

    try:
        if read_descriptor(ring).generation != earlier.descriptor.generation:
            raise restarted(ring)
        return Attachment(ring, request, state=state, still_wanted=still_wanted)
    except (DaemonNotRunningError, DaemonGoneError, OtherVersionError) as gone:
        return _follow(earlier, gone, ask, state, restart_s=restart_s, still_wanted=still_wanted)


def _follow(
    earlier: Attachment,
    gone: Exception,
    ask: Callable[[Descriptor], Request],
    state: ResumeState | None,
    *,
    restart_s: float,
    still_wanted: Callable[[], None],
) -> Attachment:
    if earlier.control.word(State.STATE) == RingState.FAILED or not restart_s:
        raise gone
    # As text: a handler that keeps its records would keep the error, its frames, and the batches in those.
    warn("%s This reader waits up to %.0f s for the next one.", str(gone), restart_s)
    return attach_to_the_next(earlier.descriptor, gone, ask, state, restart_s=restart_s, still_wanted=still_wanted)


def check_serves_the_same(descriptor: Descriptor, former: Descriptor) -> None:
    """Raise unless a new daemon serves the same machine's share as the previous one, and makes the same pixels.

    Their order is compared by the resume state, see `ringfeed.reader.state`.

    Raises:
        StateMismatchError: it does not.
    """
    before, now = former.identity, descriptor.identity
    if before.differences_that_decide(now, Decides.SHARE):
        raise StateMismatchError(
            f"The daemon of ring {former.ring!r} came back as node {now.node_rank} of {now.num_nodes}, and this reader "
            f"was reading the share of node {before.node_rank} of {before.num_nodes}; start the trainers again from "
            f"their checkpoint."
        )
    if pixels := before.differences_that_decide(now, Decides.PIXELS):
        raise StateMismatchError(
            f"The daemon of ring {former.ring!r} came back with other pixels ({spelled(pixels, 'before', 'now')}); "
            f"restart it as it was, or the trainers from their checkpoint."
        )

"""Where a group that attached now would begin, told without attaching."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from ringfeed.reader.state import ResumeState, state_at
from ringfeed.shm.control import Control, open_control
from ringfeed.shm.descriptor import read_descriptor
from ringfeed.shm.lane import Accepted, Request
from ringfeed.shm.layout import Lane, State
from ringfeed.torch.beginning import Beginning


def state_of_beginning(ring: str, beginning: Beginning, shape: tuple[int, int, bool]) -> dict[str, Any]:
    """Return the state with which a group's next iteration begins that is not attached; see `state_before_the_start`.

    Raises:
        DaemonNotRunningError: no daemon serves the ring, and no state says where.
    """
    at = beginning.at
    if isinstance(at, Mapping):
        return dict(at)
    if at is None and beginning.epoch is not None:
        at = (beginning.epoch, 0)
    if at is None:
        return state_before_the_start(ring, beginning.start, shape).to_dict()
    return state_at(read_descriptor(ring), epoch=at[0], position=at[1], shape=shape).to_dict()


def state_before_the_start(ring: str, start: str, shape: tuple[int, int, bool]) -> ResumeState:
    """Return the state of a group that has not attached yet: where it would begin at this moment.

    On a ring that others read it is where they are now, and the group will begin a little later; it has read nothing
    of what lies between, so the state is sound all the same.

    Args:
        start: as for `ringfeed.attach`: ``"auto"``, ``"epoch"`` or ``"now"``.
        shape: world size, batch size and drop_last of the group.

    Raises:
        DaemonNotRunningError: no daemon serves the ring.
        NotTrustedError: its files are not trusted.
    """
    control = open_control(ring)
    try:
        epoch, position = _where_others_are(control) or (0, 0)
    finally:
        control.close()
    if start == "epoch" and position:
        epoch, position = epoch + 1, 0
    return state_at(control.descriptor, epoch=epoch, position=position, shape=shape)


def joins_midway_at(ring: str, beginning: Beginning, shape: tuple[int, int, bool]) -> tuple[int, int] | None:
    """Return about which (epoch, position) a group would attach at now; None unless that is amid others' epoch.

    Args:
        shape: world size, batch size and drop_last of the group.

    Raises:
        DaemonNotRunningError: no daemon serves the ring.
    """
    if beginning.chosen or beginning.start == "epoch":
        return None
    state = state_before_the_start(ring, beginning.start, shape)
    position = -(-state.position // read_descriptor(ring).identity.num_nodes)
    return (state.epoch, position) if position else None


def _where_others_are(control: Control) -> tuple[int, int] | None:
    """The (epoch, position) where a group would begin next to those that read; None where none does."""
    epochs, found = control.descriptor.epochs, []
    for lane in range(control.geometry.lanes):
        page = control.lane(lane)
        if page[Lane.ANSWER_NONCE] == 0 or not control.lane_lives(lane):
            continue
        request, answer = page.read_request(), page.read_answer(page[Lane.NONCE])
        if isinstance(request, Request) and isinstance(answer, Accepted):
            place, released = answer.counted(epochs, control.descriptor.base), page[Lane.RELEASED]
            if place is None or request.skips or (request.yields and released < control.word(State.FLOOR)):
                continue  # no daemon said so, or others have gone on without it
            with contextlib.suppress(ValueError):  # a consumer may write any number
                attached = (place.epoch, place.position)
                here = request.plan(epochs).skip_to(place, released)  # a round's start, also for a rank other than 0
                following = epochs.forward(attached, max(0, page[Lane.TAKEN] - place.seq))
                found.append((released, (here.epoch, here.position), following[0]))
    if not found:
        return None
    epoch, position = min(found)[1]
    all_taken = min(following for _, _, following in found) > epoch  # though batches of it may be held
    return (epoch + 1, 0) if position and all_taken else (epoch, position)

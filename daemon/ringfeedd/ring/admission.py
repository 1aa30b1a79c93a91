"""Admission: whether a consumer may have what it asks for, and where its group begins. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from ringfeed.plan import Place
from ringfeed.shm.lane import Refused, Request
from ringfeed.shm.layout import GROUP_BYTES, MAX_SEQ
from ringfeedd.ring.group import Group
from ringfeedd.ring.ring import Ring


@dataclass(frozen=True, slots=True)
class Seek:
    """The ring must go to this place first; ask again then."""

    epoch: int
    position: int


@dataclass(frozen=True, slots=True)
class Wait:
    """No answer yet: ask again later.

    Attributes:
        reason: what is waited for, as a sentence.
    """

    reason: str


def why_never(request: Request, ring: Ring) -> str | None:
    """Return why a request cannot be granted whatever the others do; None if it can."""
    return _why_malformed(request) or _why_not_of(request, ring)


def _why_malformed(request: Request) -> str | None:
    if not 1 <= request.world_size <= 1 << 16 or request.rank >= request.world_size:
        return f"rank {request.rank} is out of range for world_size={request.world_size}; it must be below it"
    if not 1 <= len(request.group.encode()) <= GROUP_BYTES:
        return f"the group's name must have 1 to {GROUP_BYTES} bytes"
    if not request.batch_size:
        return "batch_size=0 asks for batches without pairs; it must be at least 1"
    return None


def _why_not_of(request: Request, ring: Ring) -> str | None:
    needed = 2 * request.world_size * request.batch_size
    if needed > ring.slots:
        return (
            f"batch_size={request.batch_size} with world_size={request.world_size} needs a ring of at least {needed} "
            f"slots (two rounds: one is read while the next comes in), and ring {ring.name!r} has {ring.slots}; use a "
            f"smaller batch, or start the daemon with --slots {needed}"
        )
    shortest = min(length for _, length in ring.epochs.spans)
    if request.plan(ring.epochs).empty:
        return (
            f"an epoch of ring {ring.name!r} has {shortest} pairs, fewer than one round of world_size="
            f"{request.world_size} times batch_size={request.batch_size}, and drop_last=True would drop them all; use "
            f"drop_last=False or a smaller batch"
        )
    if request.at[1] >= ring.epochs.length(request.at[0]) or ring.seq(*request.at) >= MAX_SEQ:
        return (
            f"epoch {request.at[0]}, position {request.at[1]} does not exist: an epoch of ring {ring.name!r} has "
            f"{ring.epochs.length(request.at[0])} pairs, and its stream ends before pair 2**48; start at a place within"
        )
    return None


def place_among_others(request: Request, ring: Ring, at: tuple[int, int]) -> Place | Refused | Wait:
    """Where a group begins that names its place, while others read."""
    seq = ring.seq(*at)
    if seq >= ring.floor:
        return Place(seq, *at)
    here = ring.place(ring.floor)
    if request.skips:
        return here
    if request.wait:
        return Wait(
            f"epoch {at[0]}, position {at[1]} lies behind ring {ring.name!r}, which other groups read from epoch "
            f"{here.epoch}, position {here.position} on, until they have left"
        )
    return Refused(
        f"epoch {at[0]}, position {at[1]} lies behind ring {ring.name!r}, which other groups read from epoch "
        f"{here.epoch}, position {here.position} on; pass wait=True to wait until they have left, or start a daemon "
        f"of your own with --ring"
    )


def same_shape(group: Group, request: Request) -> bool:
    """Whether a request asks for the very shares that the group's ranks have."""
    plan = group.members[0].plan
    ours = (plan.world_size, plan.batch_size, plan.drop_last, group.on_lag)
    return ours == (request.world_size, request.batch_size, request.drop_last, request.on_lag)

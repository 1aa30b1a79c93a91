"""Moves: a rank of a group that is attached goes to a place of its own. Pure.

The ranks of a job go one after another: the first has left its place when the last has not been told yet. A rank that
goes forward begins a pass for all of its group, so the shares of the others are kept from its place on until they come.
"""

from __future__ import annotations

from typing import Final

from ringfeed.plan import Place
from ringfeed.shm.lane import Refused, Request
from ringfeed.shm.layout import Leaving
from ringfeedd.ring.admission import Wait
from ringfeedd.ring.group import Group, Loop, Member
from ringfeedd.ring.ring import Ring

LEFTOVER_S: Final = 10.0
"""How long a loader's worker waits for the end of one of an earlier iteration; torch kills those after 5 s."""


def still_held(member: Member, request: Request, now: float) -> Wait | None:
    """Return whom a request waits for, if a worker of the same loader's earlier iteration still reads as its rank."""
    if not _is_leftover(member, request):
        return None
    if member.contested_since is None:
        member.contested_since = now
    return _wait_for(member) if now - member.contested_since < LEFTOVER_S else None


def _is_leftover(member: Member, request: Request) -> bool:
    """Return whether a worker of an earlier iteration over the loader that asks reads as a rank."""
    holder, kin = member.kin, request.kin
    return member.live and kin.owner == holder.owner != 0 and 0 != kin.loop != holder.loop != 0


def _wait_for(leftover: Member) -> Wait:
    return Wait(
        f"process {leftover.pid} still reads as rank {leftover.plan.rank} of the group, for an earlier iteration over "
        f"the same loader"
    )


def go_to(
    place: Place, group: Group, member: Member, request: Request, ring: Ring, now: float, *, alone: bool
) -> Refused | Wait | None:
    """Let a rank that joins its group stand at the place that it asks for; return why it may not, or not yet.

    Args:
        alone: there is no other group.
    """
    if (member.place.epoch, member.place.position) == request.at or group.skips:
        return None
    if leftovers := [other for other in group.members if _is_leftover(other, request)]:
        return _wait_for(leftovers[0])
    behind = member.plan.block(place).seq < ring.floor
    if behind and not (alone or request.wait):
        return Refused(
            f"rank {request.rank} asks for epoch {place.epoch}, position {place.position}, and its group "
            f"{group.name!r} reads on from epoch {member.place.epoch}, position {member.place.position}; "
            f"start all of its ranks from the same state"
        )
    gone_on = (other.live and other.asked_for != place and other.place.seq > place.seq for other in group.members)
    if behind or not group.has_round_at(*request.at) or (member.given_up and any(gone_on)):
        return Wait(
            f"the other ranks of group {group.name!r} read on from epoch {member.place.epoch}, position "
            f"{member.place.position}; all of them start from the same state once those have left"
        )
    if member.given_up or place.seq > member.place.seq:
        for other in group.members:
            kept_before = not other.given_up and other.place.seq < place.seq
            gone = other.given_up and other.plan.block(place).seq >= ring.floor
            if not other.live and other is not member and (kept_before or gone):
                _expect(other, place, now)
    member.take_place(place)
    return None


def note_loop(group: Group, request: Request) -> None:
    """Let the workers of an iteration that has a place of its own begin where the first of them does."""
    owner, number, (epoch, position) = request.kin.owner, request.kin.loop, request.at
    if not number or position:
        return
    known = group.loops.get(owner)
    if known is None or (known.number, known.epoch) != (number, epoch):
        known = group.loops[owner] = Loop(number, epoch)
    known.came.add(request.rank)


def leave(group: Group, member: Member, leaving: Leaving, now: float) -> None:
    """Keep what is kept for a rank whose consumer has gone."""
    member.lane = None
    member.away_since = now
    if leaving is not Leaving.NO:
        member.released = member.plan.block(member.place).seq
    # Else it was killed, maybe with a batch in hand: that is kept as well, for a job that goes on from its state.
    if leaving is Leaving.LEAVE or member.unclaimed:
        give_up(group, member, now)
    if not group.live:
        for other in group.members:
            other.given_up |= other.unclaimed


def give_up(group: Group, member: Member, now: float) -> None:
    """Keep nothing of what a rank has left, only its share from a place on to which others of its group have gone."""
    if member.given_up:
        return
    asked_for = (other.asked_for for other in group.members if other.live and other.asked_for is not None)
    ahead = [place for place in asked_for if place.seq > member.place.seq]
    if ahead:
        _expect(member, min(ahead, key=lambda place: place.seq), now)
    else:
        member.given_up = True


def _expect(member: Member, place: Place, now: float) -> None:
    """Keep a rank's share from a place on."""
    member.take_place(place)
    member.given_up, member.away_since = False, now

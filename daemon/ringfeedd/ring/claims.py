"""Claims: which process may go on at a place that a group's ranks left, and who begins at a whole epoch. Pure.

A place is kept for one that can claim it: a reader that lives through its daemon's restart, a job that brings a state,
a rank that comes back while others of its group are there, the process that left it. Another process of the same name
is a job that was started again: it begins at a whole epoch, all of its ranks at the same one.
"""

from __future__ import annotations

from ringfeed.plan import Place
from ringfeed.shm.lane import Request
from ringfeed.shm.layout import Start
from ringfeedd.ring.group import Group, Loop, Member
from ringfeedd.ring.ring import Ring


def goes_on(group: Group, request: Request) -> bool:
    """Return whether a request that brings no place continues a pass of which no rank is attached."""
    owner = request.kin.owner
    if not owner or request.start is Start.AT:
        return False
    if request.start is Start.FOLLOWING:
        return any(member.kin.owner == owner for member in group.members)
    member = group.members[request.rank]
    return member.kin.owner == owner and not member.given_up


def is_of(group: Group, request: Request) -> bool:
    """Return whether a group is the one that a request names, and not one of another run of the same job."""
    run = request.kin.run
    runs = {member.kin.run for member in group.members if member.live} if run else set()
    return group.name == request.group and runs <= {0, run}


def still_there(former: Group) -> str:
    """Return the sentence for a run that has to wait for the end of another one's ranks."""
    member = next(member for member in former.members if member.live)
    return (
        f"rank {member.plan.rank} of group {former.name!r} (process {member.pid}) is of an earlier run of this job and "
        f"still attached; this run goes on from its state once that one has ended"
    )


def loop_of(group: Group, request: Request, ring: Ring) -> Loop:
    """Return the iteration over a DataLoader to which a worker belongs.

    All of its workers read the same epoch, also one that comes when others are done: the one after all that the workers
    of earlier iterations have read of.
    """
    owner, number = request.kin.owner, request.kin.loop
    known = group.loops.get(owner)
    if known is not None and known.number == number and request.rank not in known.came:
        return known
    theirs = [member for member in group.members if owner and member.kin.owner == owner]
    # Of a rank whose process was started again while others are there, its earlier workers read.
    theirs = theirs or [member for member in (group.members[request.rank],) if member.came]
    reached = (_following(member, ring) for member in theirs)
    epoch = max(reached, default=group.start.epoch)
    if _first_seq(group, request, Place(ring.seq(epoch, 0), epoch, 0)) >= ring.floor:
        return Loop(number, epoch)
    kept = ring.place(ring.floor)
    return Loop(number, max(epoch, kept.epoch + (kept.position > 0)))


def _first_seq(group: Group, request: Request, place: Place) -> int:
    """Return the number of the first pair that a worker's loader reads in the round at ``place``.

    The ring may have gone beyond that round's first blocks: other ranks, whose workers came earlier, have read them.
    """
    workers, world_size = request.kin.workers, request.world_size
    ranks = world_size // workers if workers and world_size % workers == 0 else 1
    return group.members[request.rank % ranks].plan.block(place).seq


def _following(member: Member, ring: Ring) -> int:
    """Return the first epoch of which a member has read nothing. What a worker was killed with was not read."""
    place = member.place
    if member.lane is None and not member.given_up and member.released < member.plan.block(place).seq:
        here = ring.place(member.released)
        place = Place(member.released, here.epoch, here.position)
        if member.plan.block(Place(place.seq - place.position, place.epoch, 0)).seq == place.seq:
            return place.epoch
    return place.epoch + (place.position > 0)


def loop_place(loop: Loop, ring: Ring) -> Place:
    """Return where an iteration begins."""
    return Place(ring.seq(loop.epoch, 0), loop.epoch, 0)

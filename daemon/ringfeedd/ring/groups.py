"""Groups: which reader reads which pass over the stream, how far, and whose place is kept. Pure; time is an argument.

A group is admitted with all of its ranks at once, so that the pairs of a rank that has not come yet are kept for it. A
rank that goes keeps its place for a while; what "a while" is depends on whom it holds up.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Final

from ringfeed.epochs import Epochs
from ringfeed.plan import Place
from ringfeed.shm.lane import Accepted, Refused, Request
from ringfeed.shm.layout import Leaving, Start
from ringfeed.shm.missing import Absence
from ringfeedd.ring.admission import Seek, Wait, place_among_others, same_shape, why_never
from ringfeedd.ring.claims import goes_on, is_of, loop_of, loop_place, still_there
from ringfeedd.ring.group import Group, Member, PredecessorPlace
from ringfeedd.ring.moves import give_up, go_to, leave, note_loop, still_held
from ringfeedd.ring.rendezvous import GATHER_S, Rendezvous
from ringfeedd.ring.ring import Ring

DEFAULT_LINGER_S: Final = 300.0
DEFAULT_LINGER_BLOCKING_S: Final = 5.0


class Groups:
    """All groups of one ring.

    Attributes:
        skipped_pairs: that ranks missed which came back too late.
        comings_and_goings: of consumers, so far.
    """

    def __init__(
        self,
        *,
        linger_s: float = DEFAULT_LINGER_S,
        linger_blocking_s: float = DEFAULT_LINGER_BLOCKING_S,
        gather_s: float = GATHER_S,
    ) -> None:
        """Start with none.

        Args:
            linger_s: how long the place of a rank that went is kept while that costs its own group alone.
            linger_blocking_s: how long it is kept while another group waits for its slots.
            gather_s: see `Rendezvous`.
        """
        self.linger_s = linger_s
        self.linger_blocking_s = linger_blocking_s
        self.skipped_pairs = 0
        self.comings_and_goings = 0
        self._groups: list[Group] = []
        self._lanes: dict[int, tuple[Group, Member]] = {}
        self._sought: list[Group] = []  # that were there before the latest seek, which was for another run of theirs
        self._waiting = False
        self._gathering = Rendezvous(gather_s)

    def __repr__(self) -> str:
        return f"Groups({len(self._groups)} groups, {len(self._lanes)} lanes, {self.lingering} lingering)"

    def __len__(self) -> int:
        return len(self._groups)

    def __iter__(self) -> Iterator[Group]:
        return iter(self._groups)

    @property
    def lingering(self) -> int:
        """Groups without a lane, whose place is kept."""
        return sum(not group.live for group in self)

    def floor(self) -> int | None:
        """Number of the first pair that any group may still read; None where there is no group."""
        return min((floor for group in self._waited_for() if (floor := group.floor) is not None), default=None)

    def _waited_for(self) -> list[Group]:
        """Groups whose slots are kept: those that block; else those that were not passed over; else all."""
        held = [group for group in self if group.floor is not None]
        there = [group for group in held if not group.passed_over]
        return [group for group in held if not group.skips] or there or held

    @property
    def read(self) -> bool:
        """Whether any consumer is attached, or about to be."""
        return bool(self._lanes) or any(group.live for group in self)

    def front(self) -> int:
        """Number of the first pair that none of the attached consumers has come to yet."""
        return max((member.place.seq for _, member in self._lanes.values()), default=0)

    # Coming and going.

    def attach(self, lane: int, request: Request, ring: Ring, now: float) -> Accepted | Refused | Seek | Wait:
        """Decide on a request. `Wait` and `Seek` change nothing; ask again."""
        if request.start is Start.GIVE_UP:
            return self._give_up(request, now)
        if reason := why_never(request, ring):
            return Refused(reason)
        group = self._named(request)
        if group is not None and (group.live or (same_shape(group, request) and goes_on(group, request))):
            return self._join(lane, group, request, ring, now)
        return self._begin(lane, request, ring, now)

    def _give_up(self, request: Request, now: float) -> Refused:
        """Keep nothing for consumers of a training process that have left a group, or will."""
        given_up = 0
        for group in self:
            ours = [one for one in group.members if request.kin.owner and one.kin.owner == request.kin.owner]
            if group.name != request.group or not ours:
                continue
            for member in ours:
                member.unclaimed = True
                given_up += not member.live and not member.given_up
            for member in group.members:  # where none is left, also of ranks that never came
                if not member.live and (member.unclaimed or not (member.came or group.live)):
                    give_up(group, member, now)
        self.comings_and_goings += 1
        return Refused(f"{given_up} places of group {request.group!r} are given up, as its process has asked")

    def _begin(self, lane: int, request: Request, ring: Ring, now: float) -> Accepted | Refused | Seek | Wait:
        """Decide on a request that begins a pass."""
        at: tuple[int, int] | None = request.at
        if request.start is Start.AT:
            at = self._gathering.place(request, now)
        elif self._gathering.resuming:
            at = None  # those who were here before come first
        if at is None:
            return Wait("the other ranks and groups that go on from a place of their own are awaited first")
        former = [group for group in self if group.name == request.group]  # earlier runs of the job
        self._groups = [group for group in self if group not in former or group.live]
        place = self._starting_place(request, ring, at, whole=bool(former))
        if not isinstance(place, Place):
            if isinstance(place, Seek):
                self._sought = former
            else:  # the new run does not come about, or not yet
                self._groups += [group for group in former if not group.live]
            if isinstance(place, Refused):
                if request.start is Start.AT and (there := [group for group in former if group.live]):
                    return Wait(still_there(there[0]))
                self.withdraw(request)
            return place
        self._gathering.forget(request.group)
        group = self._found(request, ring, place, now)
        for earlier in (*former, *self._sought):
            group.note_done(earlier)
        self._sought = []
        return self._join(lane, group, request, ring, now)

    def _named(self, request: Request) -> Group | None:
        return next((group for group in self if is_of(group, request)), None)

    def withdraw(self, request: Request) -> None:
        """No reader waits for an answer to this request any more."""
        self._gathering.withdraw(request)

    def inherit(self, places: Iterable[PredecessorPlace], ring: Ring, now: float) -> None:
        """Keep the places of those who read from a previous daemon, who may come back in any order.

        The ring must stand at the earliest of them, and have no groups.
        """
        for former in sorted(places, key=lambda former: (former.at, former.request.rank)):
            request = former.request
            place = Place(ring.seq(*former.at), *former.at)
            group = self._named(request) or self._found(request, ring, place, now)
            if not same_shape(group, request) or not group.has_round_at(*former.at):
                continue  # no consumer writes this; then it has no claim
            member = group.members[request.rank]
            member.take_place(place)
            member.came, member.former, member.reaches = True, former.lives, former.reaches
            member.pid, member.kin = request.pid, request.kin

    def _starting_place(
        self, request: Request, ring: Ring, at: tuple[int, int], *, whole: bool
    ) -> Place | Refused | Seek | Wait:
        """Return where a group begins that is not there; ``whole``: with an epoch, unless it says where."""
        if not self._groups:
            return self._idle_place(request, ring, at)
        if not any(group.live for group in self) and request.start is not Start.NOW:
            self._waiting = True  # only kept places are in the way, and not for long
            return Wait("the places of ranks that are away are kept for some seconds")
        here = ring.place(ring.floor)
        if request.start is Start.AT:
            return place_among_others(request, ring, at)
        whole |= request.start in (Start.EPOCH, Start.FOLLOWING) or self._all_have_taken(here.epoch)
        if whole and request.start is not Start.NOW and here.position:
            return Place(here.seq + ring.epochs.length(here.epoch) - here.position, here.epoch + 1, 0)
        return here

    def _all_have_taken(self, epoch: int) -> bool:
        """Whether no reader has anything of ``epoch`` left to take, though batches of it may be held."""
        members = [member for group in self if not group.skips for member in group.members if not member.given_up]
        return bool(members) and all(member.plan.block(member.place).epoch > epoch for member in members)

    def _idle_place(self, request: Request, ring: Ring, at: tuple[int, int]) -> Place | Seek:
        """Where the first group of an idle ring begins."""
        if request.start is Start.NOW:
            return ring.place(ring.floor)
        # The words of a place are zero unless given: "auto" and "epoch" begin at the very beginning.
        first = self._gathering.earliest() if request.resuming and request.start is Start.AT else at
        if not ring.floor <= ring.seq(*first) <= ring.head:
            return Seek(*first)
        return Place(ring.seq(*at), *at)

    def _found(self, request: Request, ring: Ring, place: Place, now: float) -> Group:
        group = Group(request.group, request.anonymous, place, request.on_lag)
        self._groups.append(group)
        for rank in range(request.world_size):
            plan = replace(request.plan(ring.epochs), rank=rank)
            group.members.append(Member(plan, place, place, plan.block(place).seq, now))
        return group

    def _join(self, lane: int, group: Group, request: Request, ring: Ring, now: float) -> Accepted | Refused | Wait:
        if not same_shape(group, request):
            plan = group.members[0].plan
            return Refused(
                f"group {group.name!r} is attached with world_size={plan.world_size}, batch_size={plan.batch_size}, "
                f"drop_last={plan.drop_last}, on_lag={group.on_lag}, and this rank asks for "
                f"{request.world_size}, {request.batch_size}, {request.drop_last}, {request.on_lag}; use the "
                f"same in every rank, or another group's name"
            )
        member = group.members[request.rank]
        if member.lane is not None:
            return still_held(member, request, now) or Refused(
                f"rank {request.rank} of group {group.name!r} is attached already, by process {member.pid} on lane "
                f"{member.lane}; give every process a rank of its own, or another group's name"
            )
        asked_for = Place(ring.seq(*request.at), *request.at) if request.start is Start.AT else None
        if asked_for is not None:
            if why := go_to(asked_for, group, member, request, ring, now, alone=len(self._groups) == 1):
                return why
            note_loop(group, request)
        member.asked_for = asked_for
        if request.start is Start.FOLLOWING:
            loop = group.loops[request.kin.owner] = loop_of(group, request, ring)
            loop.came.add(request.rank)
            member.take_place(loop_place(loop, ring))
        if (member.given_up or group.skips) and member.plan.block(member.place).seq < ring.floor:
            place = group.round_from_floor(member, ring)
            self.skipped_pairs += max(0, place.seq - member.place.seq) // member.plan.world_size
            member.place = place
        member.take_place(member.place)
        member.lane, member.pid = lane, request.pid
        member.came, member.given_up, member.former, member.kin = True, False, None, request.kin
        member.unclaimed, member.contested_since = False, None
        self._lanes[lane] = (group, member)
        self.comings_and_goings += 1
        return Accepted(member.place)

    def progress(self, lane: int, ring: Ring, *, taken: int, released: int) -> None:
        """Take note of how far the consumer on ``lane`` says it has read.

        Numbers to which no consumer can have come are not accepted: it may leave out the rest of an epoch of which it
        has read something, and what it can have read is published. Nor are numbers that go back, save to a block that
        it has not released: it was looked at and is taken back.
        """
        group, member = self._lanes[lane]
        if max(member.released, ring.floor) <= taken < member.plan.block(member.place).seq:
            member.place = group.round_of(member, taken, ring) or member.place
        elif taken <= member.place.seq + member.plan.round_pairs or taken <= _furthest(member, ring):
            member.place = member.plan.skip_to(member.place, taken)
        if member.offered.seq < member.place.seq:
            member.offered = member.place  # it skipped rounds: no reader waits to be told of them
        member.released = max(member.released, min(released, member.plan.block(member.place).seq))
        if group.passed_over and (group.floor or 0) >= ring.floor:
            group.passed_over, group.holds_since = False, None  # it reads on, and is waited for again

    def gone(self, lane: int, leaving: Leaving, now: float) -> str:
        """The consumer on ``lane`` is no more; returns whom that was, for the log."""
        group, member = self._lanes.pop(lane)
        self.comings_and_goings += 1
        leave(group, member, leaving, now)
        return f"rank {member.plan.rank} of group {group.name!r} (pid {member.pid})"

    def expire(self, now: float, ring: Ring) -> list[str]:
        """Give up the places that were kept long enough; returns a sentence for each."""
        told = []
        for group in list(self):
            others = (other for other in self if other is not group and not other.skips)
            blocking = self._waiting or (ring.full and any(other.starving(ring.published) for other in others))
            for member in group.members:
                if member.former is not None and not member.former():
                    member.former, member.away_since = None, now
                    self.comings_and_goings += 1
                if member.live or member.given_up:
                    continue
                limit = self.linger_blocking_s if blocking and (member.came or not group.live) else self.linger_s
                if group.anonymous:
                    limit = 0.0
                if now - member.away_since >= limit:
                    member.given_up = True
                    if not group.anonymous:
                        told.append(
                            f"the place of rank {member.plan.rank} of group {group.name!r} (epoch "
                            f"{member.place.epoch}, position {member.place.position}) is given up: away for "
                            f"{now - member.away_since:.0f} s"
                        )
            if not group.live and all(member.given_up for member in group.members):
                self._groups.remove(group)
        self._waiting = False
        return told + self._pass_over(now, ring)

    def _pass_over(self, now: float, ring: Ring) -> list[str]:
        """Wait no longer for groups that may miss pairs and have held others up for long; returns a sentence for each.

        Those that skip are waited for only where no group blocks.
        """
        told, waited_for = [], self._waited_for()
        for group in self:
            if group.on_lag == "block" or group.passed_over:
                continue
            others = (other for other in self if other is not group and not other.passed_over)
            holds = group in waited_for and ring.full and group.floor == ring.floor
            holds = holds and any(other.starving(ring.published) for other in others)
            if group.has_held_up(now, holds=holds) >= self.linger_blocking_s and not group.starving(ring.published):
                group.passed_over = True
                pid = group.members[0].pid
                told.append(
                    f"group {group.name!r} (pid {pid}) has paused, and others go on without it until it reads on"
                )
        return told

    # Another catalog.

    def earliest_change(self, ring: Ring, length: int) -> int:
        """The first epoch that may get another length, ``length``, of which no reader has planned anything."""
        members = [member for group in self for member in group.members]
        reached = [(member.place.epoch, member.place.position) for member in members]
        reached += (member.reaches for member in members if member.former is not None)
        epoch = max([ring.changeable_epoch, *(epoch + (position > 0) for epoch, position in reached)])
        # A reader may have come to the epoch's start already, and know its first block. That is the same in an epoch
        # of any length, as long as that is a round at least.
        shortest = min(length, *(span for _, span in ring.epochs.spans))
        return epoch + any(member.plan.round_pairs > shortest for member in members)

    def passed(self, epoch: int) -> bool:
        """Whether every reader that is waited for has taken something of ``epoch``, or is beyond it.

        A reader at its very start may have come there before the catalog changed with it, and have slept since.
        """
        members = (member for group in self if not group.skips for member in group.members if not member.given_up)
        return all((member.place.epoch, member.place.position) > (epoch, 0) for member in members)

    def left_empty(self, length: int) -> Group | None:
        """A group to which epochs of ``length`` pairs would give no batch at all."""
        epochs = Epochs.all(length)
        return next((group for group in self if replace(group.members[0].plan, epochs=epochs).empty), None)

    def change(self, ring: Ring) -> None:
        """Let every rank read by the lengths of the ring's epochs."""
        for group in self:
            for member in group.members:
                member.plan = replace(member.plan, epochs=ring.epochs)
                if member.plan.block(member.place).seq < ring.floor:  # for whom nothing is kept
                    member.take_place(group.round_from_floor(member, ring))

    # Reading.

    def offers(self, published: int) -> Iterator[tuple[int, int]]:
        """For each lane that has new whole batches below ``published``: the lane and how many."""
        for lane, (_, member) in self._lanes.items():
            count = 0
            while (block := member.plan.block(member.offered)).end <= published:
                member.offered = block.next
                count += 1
            if count:
                yield lane, count

    def absences(self, now: float) -> Iterator[tuple[int, Absence | None]]:
        """For each lane, who of its group is away."""
        known = {id(group): group.absence(now) for group in self}
        for lane, (group, _) in self._lanes.items():
            yield lane, known[id(group)]

    def lanes(self) -> list[int]:
        """The lanes that are attached."""
        return list(self._lanes)


def _furthest(member: Member, ring: Ring) -> int:
    """No first pair of a block that this consumer may wait for lies beyond this number."""
    epoch = ring.place(max(ring.published, member.place.seq)).epoch
    return ring.seq(epoch + 2, 0) + member.plan.round_pairs

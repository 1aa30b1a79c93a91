"""One group: the ranks that share a pass over the stream, and where each of them stands. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from ringfeed.plan import Place, Plan
from ringfeed.shm.lane import Request
from ringfeed.shm.missing import Absence
from ringfeed.shm.origin import STRANGER, Kin
from ringfeedd.ring.ring import Ring


@dataclass(frozen=True, slots=True)
class PredecessorPlace:
    """Where a rank stood when its daemon went.

    Attributes:
        request: what it had asked for.
        at: (epoch, position) of the next round that it had not taken.
        reaches: the same once it has taken all that its daemon had published.
        lives: whether its process still does.
    """

    request: Request
    at: tuple[int, int]
    reaches: tuple[int, int]
    lives: Callable[[], bool]


@dataclass(slots=True, eq=False)
class Member:
    """One rank of a group.

    Attributes:
        place: of the next round that it has not taken.
        offered: of the next round that it was not told of.
        released: number of the first pair that it may still read.
        lane: where it is attached; None while it is away.
        away_since: when it went, or when the group began without it, in seconds.
        came: it was attached once.
        done_before: a consumer of this rank has read, and left, before the group began again with another rank.
        given_up: nothing is kept for it.
        unclaimed: nothing is to be kept once it goes: its training process has said that no consumer will come for it.
        kin: of the consumer that was attached last.
        former: whether the process that read as this rank from a previous daemon still lives; None once settled.
        reaches: (epoch, position) to which it may read with that daemon's ring.
        asked_for: the place that its latest consumer brought; None where it brought none.
        contested_since: when another consumer of the same loader asked for its rank first, in seconds.
    """

    plan: Plan
    place: Place
    offered: Place
    released: int
    away_since: float
    lane: int | None = None
    pid: int = 0
    came: bool = False
    done_before: bool = False
    given_up: bool = False
    unclaimed: bool = False
    kin: Kin = STRANGER
    former: Callable[[], bool] | None = None
    reaches: tuple[int, int] = (0, 0)
    asked_for: Place | None = None
    contested_since: float | None = None

    @property
    def live(self) -> bool:
        """Whether a process reads as this rank, or is about to."""
        return self.lane is not None or self.former is not None

    @property
    def was_here(self) -> bool:
        """Whether a consumer has read as this rank, also before the group began again."""
        return self.came or self.done_before

    def take_place(self, place: Place) -> None:
        """Stand at ``place``, holding nothing before it."""
        self.place = self.offered = place
        self.released = self.plan.block(place).seq


@dataclass(slots=True)
class Loop:
    """One iteration over a DataLoader, which reads by workers.

    Attributes:
        number: what its workers have in common, see `Kin`.
        epoch: that they read.
        came: ranks of those that have come.
    """

    number: int
    epoch: int
    came: set[int] = field(default_factory=set)


@dataclass(slots=True, eq=False)
class Group:
    """The ranks that share one pass.

    Attributes:
        start: where its first round begins.
        on_lag: ``"block"``, ``"skip"`` or ``"yield"``, see `ringfeed.attach`.
        holds_since: when it began to hold others up without reading, in seconds; None where it does not.
        passed_over: it has held others up for long enough, and has not caught up since.
        loops: the latest of each owner whose DataLoader reads as some of its ranks.
    """

    name: str
    anonymous: bool
    start: Place
    on_lag: str = "block"
    holds_since: float | None = None
    passed_over: bool = False
    members: list[Member] = field(default_factory=list)
    loops: dict[int, Loop] = field(default_factory=dict)

    @property
    def live(self) -> bool:
        """Whether any of its ranks is attached, or about to be."""
        return any(member.live for member in self.members)

    @property
    def skips(self) -> bool:
        """Whether it never stalls other readers, and misses what is overwritten before it has read it."""
        return self.on_lag == "skip" or self.passed_over

    def has_held_up(self, now: float, *, holds: bool) -> float:
        """Take note of whether it holds others up at this moment; return for how long it has, in seconds."""
        if not holds:
            self.holds_since = None
        elif self.holds_since is None:
            self.holds_since = now
        return 0.0 if self.holds_since is None else now - self.holds_since

    def absence(self, now: float) -> Absence | None:
        """Return who of it is away; None where all ranks are there."""
        away = [member for member in self.members if not member.live]
        if not away:
            return None
        first = min(away, key=lambda member: (member.was_here, member.given_up, member.plan.rank))
        return Absence(len(away), first.plan.rank, first.was_here, max(0.0, now - first.away_since))

    def note_done(self, former: Group) -> None:
        """Take note of the ranks that have read in a previous group of this name, and left before this rank came.

        Ranks that nothing keeps in step may come one after another, so their share was read, or is another epoch's.
        """
        if former.name == self.name and len(former.members) == len(self.members):
            for member, earlier in zip(self.members, former.members, strict=True):
                member.done_before |= earlier.was_here and earlier.given_up and not earlier.live

    def has_round_at(self, epoch: int, position: int) -> bool:
        """Whether a round of this group can begin there; one that began elsewhere would deal pairs out twice."""
        origin = self.start.position if epoch == self.start.epoch else 0
        return position >= origin and (position - origin) % self.members[0].plan.round_pairs == 0

    def round_from_floor(self, member: Member, ring: Ring) -> Place:
        """The first of the group's rounds of which ``member`` can still have its block; see `Ring.floor`.

        Not counted from where it stood: the lengths of epochs that no reader needs any more are forgotten.
        """
        floor = ring.place(ring.floor)
        epoch = Place(floor.seq - floor.position, floor.epoch, 0)
        return member.plan.skip_to(self.start if self.start.epoch == floor.epoch else epoch, ring.floor)

    def round_of(self, member: Member, seq: int, ring: Ring) -> Place | None:
        """Return the round in which ``member``'s block begins at ``seq``, not below the floor; None where none does."""
        here = ring.place(seq)
        epoch = Place(seq - here.position, here.epoch, 0)
        place = member.plan.skip_to(self.start if self.start.epoch == here.epoch else epoch, seq)
        return place if member.plan.block(place).seq == seq else None

    def starving(self, published: int) -> bool:
        """Whether one of its ranks waits for pairs that are not published."""
        return any(m.lane is not None and m.plan.block(m.place).end > published for m in self.members)

    @property
    def floor(self) -> int | None:
        """Number of the first pair that some rank may still read; None where no rank's place is kept."""
        return min((member.released for member in self.members if not member.given_up), default=None)

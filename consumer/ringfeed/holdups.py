"""Who holds a ring up: the reader for whose slots the others wait. Pure; a look at one moment is all that it needs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ringfeed.lane import LanePage, Request
from ringfeed.layout import Lane


@dataclass(frozen=True, slots=True)
class Standing:
    """One attached consumer at one moment.

    Attributes:
        released: number of the first pair that it may still read.
        held_pairs: from there to where its next batch begins.
        waiting_s: seconds that it has been waiting for a batch; 0 while it does not.
        skips: it holds nobody up.
        yields: it does not for long.
    """

    group: str
    rank: int
    world_size: int
    pid: int
    released: int
    held_pairs: int
    waiting_s: float
    skips: bool = False
    yields: bool = False

    @classmethod
    def read(cls, page: LanePage, request: Request, now_ns: int) -> Standing:
        """What an attached consumer's words say at ``now_ns``, CLOCK_MONOTONIC."""
        since = page[Lane.WAITING_SINCE_NS]
        return cls(
            group=request.group,
            rank=request.rank,
            world_size=request.world_size,
            pid=request.pid,
            released=page[Lane.RELEASED],
            held_pairs=max(0, page[Lane.TAKEN] - page[Lane.RELEASED]),
            waiting_s=max(0, now_ns - since) / 1e9 if since else 0.0,
            skips=request.skips,
            yields=request.yields,
        )

    @property
    def who(self) -> str:
        """The consumer, for a sentence."""
        return f"rank {self.rank}/{self.world_size} of group {self.group!r} (pid {self.pid})"


@dataclass(frozen=True, slots=True)
class HoldUp:
    """A full ring in which some wait for others to release slots.

    Attributes:
        holders: those who stand at the ring's floor and are busy with something else; empty where the place is kept of
            a rank that is away.
        waiting: how many wait.
        waited_s: seconds, the longest of them.
    """

    holders: tuple[Standing, ...]
    waiting: int
    waited_s: float

    def sentence(self) -> str:
        """Who holds up how many, for how long, and what to look at."""
        others = (
            f"{self.waiting} {'reader waits' if self.waiting == 1 else 'readers wait'} for {self.waited_s:.0f} s now"
        )
        if not self.holders:
            return f"{others} for slots that are kept for a rank that is away, until it comes back or is given up"
        first, *rest = self.holders
        more = f", and {len(rest)} more," if rest else ""
        return (
            f"{first.who}{more} holds up the ring: it has {first.held_pairs} pairs in hand and asks for no others, and "
            f"{others} for its slots (a long step, a stopped process, a debugger?)"
        )


def hold_up(standings: Iterable[Standing], *, floor: int, published: int, slots: int) -> HoldUp | None:
    """Who holds the others up at this moment; None where nobody waits, or they wait for the source.

    Args:
        floor: number of the first pair that any group may still read.
        published: number of the first pair that is not published.
        slots: of the ring.
    """
    readers = list(standings)
    waiting = [reader.waiting_s for reader in readers if reader.waiting_s > 0]
    if not waiting or published < floor + slots:
        return None
    at_the_floor = [
        reader
        for reader in readers
        if reader.released <= floor and not reader.skips and not (reader.yields and reader.released < floor)
    ]
    holders = sorted((reader for reader in at_the_floor if not reader.waiting_s), key=lambda r: (r.group, r.rank))
    if at_the_floor and not holders:
        return None  # a moment between two words
    return HoldUp(tuple(holders), len(waiting), max(waiting))

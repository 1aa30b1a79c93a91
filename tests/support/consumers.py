"""A ring and its groups without memory or processes, and consumers that come, read and go as they are told."""

from __future__ import annotations

from itertools import count
from typing import Any

from order_alone import OrderAlone

from ringfeed.shm.lane import Accepted, Request
from ringfeed.shm.layout import Leaving, Start
from ringfeed.shm.origin import Kin
from ringfeedd.order import make_order
from ringfeedd.ring.admission import Seek
from ringfeedd.ring.groups import Groups
from ringfeedd.ring.ring import Ring
from ringfeedd.ring.timeline import Timeline

LENGTH, BATCH = 40, 2
LINGER_S, BLOCKING_S = 100.0, 10.0


class House:
    """A ring, its groups, and consumers that come, read and go as they are told."""

    def __init__(self, *, slots: int = 400, gather_s: float = 0.0) -> None:
        order = make_order("sequential", length=LENGTH, seed=0)
        self.ring = Ring("train", slots=slots, readahead=0, timeline=Timeline(OrderAlone(order)))
        self.groups = Groups(linger_s=LINGER_S, linger_blocking_s=BLOCKING_S, gather_s=gather_s)
        self.lanes = count()
        self.now = 0.0
        self.turn()

    def turn(self) -> None:
        self.groups.expire(self.now, self.ring)
        if (floor := self.groups.floor()) is not None:
            self.ring.release(floor)
        for job in self.ring.jobs(1000):
            self.ring.finish(job.seq)
        self.ring.publish()

    def ask(
        self,
        rank: int,
        *,
        group: str = "job",
        world: int = 2,
        start: Start = Start.AUTO,
        epoch: int = 0,
        position: int = 0,
        **kin: int,
    ) -> Any:
        """Attach; return the lane and the place, or why that is not so."""
        self.turn()
        at = (epoch, position)
        request = Request(group, rank, world, BATCH, True, start, at, anonymous=False, pid=rank, kin=Kin(**kin))
        lane = next(self.lanes)
        answer = self.groups.attach(lane, request, self.ring, self.now)
        if isinstance(answer, Seek):
            self.ring.seek(answer.epoch, answer.position)
            answer = self.groups.attach(lane, request, self.ring, self.now)
        return (lane, answer.place) if isinstance(answer, Accepted) else answer

    def come(self, rank: int, **options: Any) -> tuple[int, tuple[int, int]]:
        """Attach; return the lane and (epoch, position)."""
        lane, place = self.ask(rank, **options)
        return lane, (place.epoch, place.position)

    def read(self, lane: int, batches: int) -> None:
        _, member = self.groups._lanes[lane]
        place = member.place
        for _ in range(batches):
            place = member.plan.block(place).next
        taken = member.plan.block(place).seq
        self.groups.progress(lane, self.ring, taken=taken, released=taken)

    def go(self, lane: int, leaving: Leaving = Leaving.NO) -> None:
        self.groups.gone(lane, leaving, self.now)

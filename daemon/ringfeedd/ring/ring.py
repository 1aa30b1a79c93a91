"""The ring's decisions: what to fetch, what to publish, which slots may be written. Pure; others carry them out.

Three numbers move upwards: ``floor <= published <= head``. Pairs from ``floor`` on may still be read; pairs below
``published`` may be read now; pairs below ``head`` were assigned to workers. A pair may be decoded into its slot
when its number is below ``limit``: the slot's last pair is neither read nor written any more.

The order may change with an epoch of which nothing was assigned: that is how new pairs come in.

Slots alone do not say how far to fetch ahead: 512 of them hold a set of one pair 512 times. Pairs are
fetched one epoch ahead at most, or `LEAST_AHEAD` pairs once so many were read; and beyond the slots only for a reader.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Collection, Iterator
from operator import attrgetter
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from ringfeed.epochs import Epochs
from ringfeed.plan import Place
from ringfeedd.order import Order
from ringfeedd.ring.fairness import Need
from ringfeedd.ring.timeline import Listed, Timeline

LEAST_AHEAD: Final = 16
"""Pairs that may be fetched ahead where an epoch is shorter: else each epoch of a few pairs waits for the store."""

MAX_DRAWS: Final = 16
"""A position for which this many pairs failed in a row stops the ring: nearly everything is bad."""

_ORDER_BLOCK: Final = 1024
"""Indices of the order that are computed at a time: of fewer, most of the time is the calls into numpy."""


class Job(msgspec.Struct, frozen=True, gc=False):
    """Fetch the pair with this ``index`` of the split and decode it into the slot of ``seq``.

    Attributes:
        attempt: 0, or which replacement this is for pairs that failed to load.
    """

    seq: int
    index: int
    attempt: int


class Ring:
    """The stream of one split through a number of slots.

    Attributes:
        read: a reader is attached, or about to be; see `see_front`.
        seeks: how often it has gone to another place of the order.
        passed_over: pairs whose place in the order came when they had failed in that epoch already. Another draw was
            assigned for each; to be counted, and cleared, by the caller.
    """

    def __init__(self, name: str, *, slots: int, readahead: int, timeline: Timeline[Any]) -> None:
        """Start at epoch 0, position 0.

        Args:
            timeline: which order gives the pairs of which epoch; changed by the ring's methods only.
            readahead: pairs beyond the slots that may be downloaded before there is room to decode them.
        """
        self.name = name
        self.slots = slots
        self.readahead = readahead
        self.timeline = timeline
        self.base = Place(0, 0, 0)
        self.floor = self.published = self.head = self.front = 0
        self.seeks = 0
        self.read = True
        self._in_flight: dict[int, Job] = {}
        self._stale: set[int] = set()
        self._ready: set[int] = set()
        self._retry: list[Job] = []  # in the order in which readers need them
        self._indices: tuple[int, int, npt.NDArray[np.integer]] | None = None
        self._bad: dict[int, dict[int, bool]] = {}  # epoch -> index -> whether to pass over its own place, too
        self.passed_over: list[Job] = []

    def __repr__(self) -> str:
        place = self.place(self.published)
        return (
            f"Ring({self.name!r}, epoch {place.epoch}, position {place.position}, published {self.published}, "
            f"held {self.published - self.floor}/{self.slots}, {len(self._in_flight)} in flight)"
        )

    def place(self, seq: int) -> Place:
        """Where ``seq``, not before the last seek, stands in the order."""
        return Place(seq, *self.epochs.forward((self.base.epoch, self.base.position), seq - self.base.seq))

    def seq(self, epoch: int, position: int) -> int:
        """The number of a place in the order since the last seek; negative or below the floor where it is behind."""
        return self.base.seq + self.epochs.distance((self.base.epoch, self.base.position), (epoch, position))

    @property
    def epochs(self) -> Epochs:
        """The lengths of the epochs."""
        return self.timeline.epochs

    def _order(self, epoch: int) -> Order:
        order: Order = self.timeline.of(epoch).order
        return order

    @property
    def in_flight(self) -> Collection[int]:
        """Numbers of the pairs that were assigned and are not decoded yet."""
        return self._in_flight.keys()

    @property
    def ready(self) -> Collection[int]:
        """Numbers of the pairs that are decoded and not published, since an earlier one is missing."""
        return self._ready

    @property
    def limit(self) -> int:
        """Pairs below this number may be decoded into their slots."""
        # A pair in flight from before a jump may still be written into its slot by its worker.
        return min(self._stale, default=self.floor) + self.slots

    @property
    def horizon(self) -> int:
        """Pairs below this number may be fetched, room or not: about an epoch ahead of the fastest reader."""
        most = self.limit + (self.readahead if self.read else 0)
        front = max(self.front, self.floor)
        epoch = max(length for _, length in self.epochs.spans)
        return min(most, front + max(epoch, min(LEAST_AHEAD, front - self.base.seq)))

    def see_front(self, front: int, *, read: bool = True) -> None:
        """Take note of the number of the first pair that no reader has come to yet, and whether there is a reader."""
        self.front = min(front, self.published)
        self.read = read

    def need(self, *, read: bool) -> Need:
        """What the ring could use of the workers' time.

        Args:
            read: a reader reads it, or is about to.
        """
        horizon = max(self.horizon, self.head)  # beyond it, where the fastest reader has left
        limit = min(self.limit, horizon)
        front = max(self.front, self.floor)
        return Need(
            again=len(self._retry),
            now=max(0, limit - self.head),
            ahead=max(0, horizon - max(self.head, limit)),
            stock=min(self.head, limit) - front,
            ready=self.published - front,
            room=limit - front,
            read=read,
        )

    def jobs(self, most: int) -> list[Job]:
        """Take up to ``most`` pairs to be fetched now, in order; they are in flight from here on."""
        taken: list[Job] = []
        while self._retry and len(taken) < most:
            job = self._retry.pop(0)
            if job.seq in self._in_flight:
                taken.append(self._another_if_bad(job) if self._bad else job)
                self._in_flight[job.seq] = taken[-1]
        end = min(self.horizon, self.head + most - len(taken))
        drawn = [Job(seq, index, 0) for seq, index in enumerate(self._draw(self.head, end), self.head)]
        if self._bad:
            drawn = [self._another_if_bad(job) for job in drawn]
        self._in_flight.update((job.seq, job) for job in drawn)
        self.head = max(self.head, end)
        return taken + drawn

    def _draw(self, seq: int, end: int) -> Iterator[int]:
        """Indices of the order for the pairs from ``seq`` to before ``end``."""
        while seq < end:
            place = self.place(seq)
            count = min(end - seq, self.epochs.length(place.epoch) - place.position)
            block: list[int] = self._block(place.epoch, place.position, count).tolist()
            yield from block
            seq += len(block)

    def _block(self, epoch: int, position: int, count: int) -> npt.NDArray[np.integer]:
        """Indices of the order, at most ``count`` of them from ``position`` on; computed some hundreds at a time."""
        cached = self._indices
        if cached is None or cached[0] != epoch or not cached[1] <= position < cached[1] + len(cached[2]):
            order = self._order(epoch)
            size = min(_ORDER_BLOCK, order.length - position)
            cached = self._indices = (epoch, position, order.indices(epoch, position, size))
        offset = position - cached[1]
        return cached[2][offset : offset + count]

    @property
    def at_the_beginning(self) -> bool:
        """Whether the first pair that is kept is the order's very first."""
        place = self.place(self.floor)
        return place.epoch == place.position == 0

    @property
    def full(self) -> bool:
        """Whether every slot holds a pair that may still be read."""
        return self.published >= self.limit

    def forget(self, seq: int) -> None:
        """The worker dropped a pair that is no longer wanted, and will not write into its slot."""
        self._stale.discard(seq)

    def finish(self, seq: int) -> Job | None:
        """The pair's pixels lie in its slot. None when it is no longer wanted, and its record is not to change."""
        if self._stale:
            self._stale.discard(seq)
        job = self._in_flight.pop(seq, None)
        if job is not None:
            self._ready.add(seq)
        return job

    def job(self, seq: int) -> Job | None:
        """What is in flight under this number, if it is still wanted."""
        return self._in_flight.get(seq)

    def replace(self, seq: int, *, lasting: bool = True) -> Job | None:
        """Queue the next draw for the place of a pair that failed, and return it; None when it is not wanted.

        In this epoch the failed pair is not drawn again for another place. Draws that failed before are passed over, as
        the pair that is found after them is the one that would be found by trying them again.

        Args:
            lasting: another try in this epoch would fail, too: the pair's own place, where that is still to come, is
                given to another draw as well.

        Raises:
            RuntimeError: too many draws in a row failed for this place.
        """
        self._stale.discard(seq)
        failed = self._in_flight.get(seq)
        if failed is None:
            return None
        place = self.place(seq)
        self._note_bad(place.epoch, failed.index, lasting=lasting)
        job = self._in_flight[seq] = self._next_draw(failed, place)
        self._queue_again(job)
        return job

    def _queue_again(self, job: Job) -> None:
        insort(self._retry, job, key=attrgetter("seq"))

    def _note_bad(self, epoch: int, index: int, *, lasting: bool) -> None:
        past = self.place(self.floor).epoch
        for passed in [one for one in self._bad if one < past]:
            del self._bad[passed]
        bad = self._bad.setdefault(epoch, {})
        bad[index] = bad.get(index, False) or lasting

    def _next_draw(self, failed: Job, place: Place) -> Job:
        """The next draw for the place that did not fail in this epoch. Raises: RuntimeError: see `replace`."""
        order, bad = self._order(place.epoch), self._bad.get(place.epoch, {})
        draws = [
            Job(failed.seq, order.index(place.epoch, place.position, attempt), attempt)
            for attempt in range(failed.attempt + 1, MAX_DRAWS)
        ]
        untried = (job for job in draws if job.index not in bad)
        may_come = (job for job in draws if not bad.get(job.index))
        if (job := next(untried, None) or next(may_come, None)) is None:
            raise RuntimeError(f"{MAX_DRAWS} pairs drawn for one place failed to load")
        return job

    def _another_if_bad(self, job: Job) -> Job:
        place = self.place(job.seq)
        if not self._bad.get(place.epoch, {}).get(job.index):
            return job
        try:
            another = self._next_draw(job, place)
        except RuntimeError:
            return job  # to fail as it would have, and stop the ring
        if not job.attempt:
            self.passed_over.append(job)
        return another

    def lost(self, seq: int) -> bool:
        """The worker that had the pair has it no longer: queue it again. False when it is no longer wanted."""
        self._stale.discard(seq)
        job = self._in_flight.get(seq)
        if job is None:
            return False
        self._queue_again(job)
        return True

    def publish(self) -> int:
        """Move ``published`` over every pair that is ready, in order; return how many those are."""
        before = following = self.published
        ready = self._ready
        while following in ready:
            ready.remove(following)
            following += 1
        self.published = following
        return following - before

    def release(self, floor: int) -> bool:
        """No reader reads below ``floor`` any more. True when something changed.

        Where that is beyond what was fetched, the pairs between are never fetched: no group wants them.
        """
        if floor <= self.floor:
            return False
        if floor > self.published:
            self._jump(floor)
        self.floor = floor
        return True

    def seek(self, epoch: int, position: int) -> None:
        """Go on from another place of the order; no reader may be attached. Numbers go on upwards."""
        self._jump(max(self.head, self.published))
        self._bad.clear()
        self.floor = self.published
        self.base = Place(self.published, epoch, position)
        self.seeks += 1

    @property
    def changeable_epoch(self) -> int:
        """The first epoch of which nothing was assigned yet."""
        place = self.place(self.head)
        return place.epoch + (place.position > 0)

    @property
    def changing(self) -> bool:
        """Whether pairs of an earlier order may still be read."""
        return len(self.timeline) > 1 and self.place(self.floor).epoch < self.timeline.last_change

    def change(self, epoch: int, listing: Listed) -> None:
        """Give the pairs of a listing from ``epoch`` on, which is not before `changeable_epoch`.

        Raises:
            ValueError: the epoch is too early, or the last change is still under way.
        """
        if epoch < self.changeable_epoch or self.changing:
            raise ValueError(f"the order of {self!r} cannot change with epoch {epoch}")
        self.forget_former_orders()
        self.timeline.change(epoch, listing)
        self._indices = None

    def forget_former_orders(self) -> bool:
        """Forget the orders of which nothing can be read any more. Whether there was one."""
        if len(self.timeline) == 1 or self.changing:
            return False
        self.base = self.place(self.floor)  # what lies before is not counted from any more
        self._keep_newest_order()
        return True

    def settle(self) -> None:
        """Give the newest order's pairs in all epochs, from the beginning; no reader may be attached."""
        self._keep_newest_order()
        self.seek(0, 0)

    def _keep_newest_order(self) -> None:
        self._bad.clear()  # numbered by another catalog, but for the epoch under way
        self.timeline.restart(self.timeline.newest)
        self._indices = None

    def _jump(self, seq: int) -> None:
        """Forget every pair below ``seq`` that is not published."""
        for passed in [number for number in self._in_flight if number < seq]:
            del self._in_flight[passed]
            self._stale.add(passed)
        for passed in [job.seq for job in self._retry if job.seq < seq]:
            self._stale.discard(passed)  # no worker has it
        self._ready = {number for number in self._ready if number >= seq}
        self.published = seq
        self.head = max(self.head, seq)

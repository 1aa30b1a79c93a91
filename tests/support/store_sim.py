"""A store and its workers in virtual time: real `StoreClient`s against a store of a few lines, without a loop.

Time moves from event to event, so an outage of an hour takes milliseconds, and the same seed gives the same story.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from ringfeedd.catalog.catalog import Pair
from ringfeedd.fetch.client import StoreClient
from ringfeedd.fetch.policy import Fetched, FetchPolicy
from ringfeedd.storage.base import ObjectInfo, SourceError
from ringfeedd.worker.backlog import Backlog, PendingPair
from ringfeedd.worker.downloader import SURPLUS
from ringfeedd.worker.protocol import PairJob

CONTENT = b"\xff" * 100
LOOK_S = 0.5
TICK_S = 0.25


class SimClock:
    """Time that stands until the next event is due."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._events: list[tuple[float, int, SimTimer]] = []
        self._numbers = itertools.count()

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, callback: Callable[[], object]) -> SimTimer:
        timer = SimTimer(callback)
        heapq.heappush(self._events, (self.now + max(0.0, delay), next(self._numbers), timer))
        return timer

    def run(self, seconds: float) -> None:
        """Let so much time pass."""
        end = self.now + seconds
        while self._events and self._events[0][0] <= end:
            self.now, _, timer = heapq.heappop(self._events)
            if timer.callback is not None:
                timer.callback()
        self.now = end


class SimTimer:
    def __init__(self, callback: Callable[[], object]) -> None:
        self.callback: Callable[[], object] | None = callback

    def cancel(self) -> None:
        self.callback = None


class Limit:
    """So many requests a second, with a bucket for a burst; the rest get 429."""

    def __init__(self, clock: SimClock, per_s: float, burst: float = 1.0) -> None:
        self.per_s, self._burst, self._clock = per_s, max(1.0, burst), clock
        self._tokens, self._at = self._burst, clock.now

    def allows(self) -> bool:
        now = self._clock.now
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self.per_s)
        self._at = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True


@dataclass
class SimStore:
    """Answers each request after a latency, unless `fault` gives a failure for it.

    Attributes:
        latency_s: drawn for each request.
        fault: (now, name, number of the request for this name) -> the error, ``"hang"``, or None.
        limit: of the rate; None for none.
        capacity: answers a second that it can give, one after the other; None for as many as are asked for.
        counts: of each second and outcome.
    """

    clock: SimClock
    rng: random.Random
    latency_s: Callable[[random.Random], float] = lambda _rng: 0.01
    fault: Callable[[float, str, int], SourceError | str | None] = lambda _now, _name, _number: None
    limit: Limit | None = None
    capacity: float | None = None
    counts: Counter[tuple[int, str]] = field(default_factory=Counter)
    requests: Counter[str] = field(default_factory=Counter)
    busiest: int = 0
    _under_way: int = 0
    _free_at: float = 0.0

    root = "gs://sim"

    def begin_read(self, name, generation, max_bytes, on_end):
        number = self.requests[name]
        self.requests[name] += 1
        self._under_way += 1
        self.busiest = max(self.busiest, self._under_way)
        now = self.clock.now
        latency_s = self.latency_s(self.rng)
        outcome = self.fault(now, name, number)
        if outcome is None and self.limit is not None and not self.limit.allows():
            outcome = failure("http_429")
        if outcome is None and self.capacity is not None:
            self._free_at = max(now, self._free_at) + 1 / self.capacity
            latency_s += self._free_at - now
        self.counts[int(now), "requests"] += 1
        kind = "ok" if outcome is None else outcome if isinstance(outcome, str) else outcome.cause
        if kind == "hang":
            latency_s = 1e9
        elif kind == "connect":
            latency_s = 0.001
        return SimReading(self, latency_s, on_end, outcome, kind)

    def ended(self) -> None:
        self._under_way -= 1

    def sum(self, kind: str, since: float, until: float) -> int:
        return sum(count for (second, of), count in self.counts.items() if of == kind and since <= second < until)


class SimReading:
    received = 0

    def __init__(self, store, latency_s, on_end, outcome, kind) -> None:
        self._store, self._on_end, self._outcome, self._kind = store, on_end, outcome, kind
        self._timer = store.clock.call_later(latency_s, self._end)

    def _end(self) -> None:
        self._store.ended()
        self._store.counts[int(self._store.clock.now), self._kind] += 1
        self._on_end(CONTENT if self._outcome is None else self._outcome)

    def cancel(self) -> None:
        if self._timer.callback is not None:
            self._timer.cancel()
            self._store.ended()


def failure(cause: str, retry_after_s: float | None = None) -> SourceError:
    return SourceError(f"It failed: {cause}.", cause=cause, retryable=True, retry_after_s=retry_after_s)


def pair_of(number: int) -> Pair:
    return Pair(str(number), ObjectInfo(f"i{number}", len(CONTENT)), ObjectInfo(f"l{number}", len(CONTENT)))


class SimWorker:
    """A client and the backlog that it brings to hand; what its ring has room for is decoded in no time.

    Attributes:
        backlog: the pairs that it was given, which are its own, as a pool's worker's are.
        load: how many these are.
    """

    def __init__(self, sim: Sim, number: int, **options) -> None:
        self.sim, self.number = sim, number
        rng = random.Random(f"{sim.seed} {number}")
        self.client = StoreClient(sim.store, sim.policy, feed=self._feed, clock=sim.clock, rng=rng, **options)
        self.backlog, self.load = Backlog(1), 0
        self._came = 0
        self._look()

    @property
    def room(self) -> int:
        """Pairs that it can be given."""
        room, ahead = self.sim.most_pairs - self.load, self.client.pairs_ahead()
        return room if ahead is None else min(room, ahead - self.backlog.missing)

    def take(self, seq: int) -> None:
        self.load += 1
        self.backlog.add(0, PairJob(seq, pair_of(seq % self.sim.pairs)), at_hand=False)

    def give_back(self) -> list[int]:
        """Forget what is far more than it can ask for soon, and return the numbers."""
        most = self.client.pairs_ahead()
        if most is None or self.backlog.missing <= SURPLUS * most:
            return []
        back = self.backlog.give_back(most)
        self.load -= len(back)
        for pair in back:
            if pair.download is not None:
                pair.download.cancel()
        return [pair.seq for pair in back]

    def decode(self, limit: int) -> None:
        """Answer for what has come, below a number."""
        self.backlog.raise_limit(0, limit)
        while (pair := self.backlog.next_decode()) is not None:
            self.backlog.remove(pair)
            self.load -= 1

    def _feed(self) -> bool:
        pair = self.backlog.next_download()
        if pair is None:
            return False
        pair.download = self.client.fetch(pair.job.pair, partial(self._ended, pair))
        return True

    def _ended(self, pair: PendingPair, came) -> None:
        pair.download = None
        self.backlog.at_hand(pair)
        self._came += 1
        self.sim.came(pair.seq, came)

    def _look(self) -> None:
        self.client.window.look(self.sim.clock.now, pairs=self._came, starved_s=LOOK_S)
        self._came = 0
        self.sim.clock.call_later(LOOK_S, self._look)
        self.client.pump()


class Sim:
    """A ring of `slots`, its read-ahead included, half of each, fed by workers; a trainer takes each pair at once.

    Attributes:
        published: pairs that came, in order.
        failed: those that were given up.
    """

    def __init__(
        self,
        *,
        workers: int = 2,
        slots: int = 512,
        pairs: int = 10**9,
        seed: int = 1,
        policy: FetchPolicy | None = None,
        first: int = 128,
        most: int = 512,
        most_pairs: int = 600,
        hurry: bool = True,
        **store,
    ) -> None:
        self.seed, self.clock = seed, SimClock()
        self.store = SimStore(self.clock, random.Random(seed), **store)
        self.policy = policy or FetchPolicy()
        self.slots, self.pairs, self.most_pairs = slots, pairs, most_pairs
        self.published = self._head = 0
        self.published_at: list[float] = []
        self._ready: set[int] = set()
        self._back: list[int] = []
        self.failed: dict[int, Exception] = {}
        self.retries: Counter[str] = Counter()
        self.workers = [SimWorker(self, number, first=first, most=most) for number in range(workers)]
        if hurry:
            self._hurry()
        self._tick()

    def _give(self) -> None:
        """Give pairs to workers, each to the one that has most room."""
        while self._back or self._head < self.published + self.slots:
            worker = max(self.workers, key=lambda one: one.room)
            if worker.room <= 0:
                break
            if self._back:
                worker.take(heapq.heappop(self._back))
            else:
                worker.take(self._head)
                self._head += 1
        for worker in self.workers:
            worker.client.pump()

    def _tick(self) -> None:
        for worker in self.workers:
            for seq in worker.give_back():
                heapq.heappush(self._back, seq)
        self._give()
        self.clock.call_later(TICK_S, self._tick)

    def came(self, seq: int, came) -> None:
        if isinstance(came, Fetched):
            self.retries.update(came.retries)
        else:
            self.failed[seq] = came
        self._ready.add(seq)
        before = self.published
        while self.published in self._ready:
            self._ready.remove(self.published)
            self.published += 1
            self.published_at.append(self.clock.now)
        for worker in self.workers:
            worker.decode(self.published + self.slots // 2)
        if self.published > before:
            self.clock.call_later(0.0, self._give)

    def _hurry(self) -> None:
        for worker in self.workers:
            for seq in range(self.published, self.published + 32):
                pair = worker.backlog.get(0, seq)
                if pair is not None and pair.download is not None:
                    worker.client.hurry(pair.download, soon=seq > self.published)
        self.clock.call_later(0.1, self._hurry)

    def run(self, seconds: float) -> None:
        self.clock.run(seconds)

    def rate(self, last_s: float) -> float:
        """Pairs a second of the last so many seconds."""
        since = self.clock.now - last_s
        return sum(moment > since for moment in reversed(self.published_at)) / last_s

    def longest_pause_s(self, since: float) -> float:
        moments = [since, *(m for m in self.published_at if m > since), self.clock.now]
        return max(b - a for a, b in itertools.pairwise(moments))

"""The pool: worker processes, which of them has which pair, and what happens when one dies."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from heapq import heapify, heapreplace
from typing import Final, Protocol

import msgspec

from ringfeedd.catalog.catalog import Pair
from ringfeedd.errors import CrashError, StartError
from ringfeedd.fetch.health import StoreMonitor
from ringfeedd.storage import ObjectInfo
from ringfeedd.system.children import describe
from ringfeedd.system.limits import exhausted
from ringfeedd.system.work import Work
from ringfeedd.worker import protocol as messages
from ringfeedd.worker.heartbeat import VITAL_WORDS, read_work
from ringfeedd.worker.link import END_TIMEOUT_S, WorkerLink
from ringfeedd.worker.process import Spawner
from ringfeedd.worker.protocol import (
    Cancel,
    Copied,
    CopyJob,
    Decoded,
    Hello,
    Jobs,
    Limit,
    PairJob,
    Result,
    Stop,
    Tuning,
)

_LOG: Final = logging.getLogger("ringfeedd.pool")

SPARE_PAIRS: Final = 16
"""In each worker, so that it has something to do while more of them are on their way."""

LEAST_GIVEN: Final = SPARE_PAIRS // 2
"""Pairs for one worker at a time, unless there are no more: it has the other spare ones to go on with."""

COPIES_IN_A_ROW: Final = 8
"""Pairs of the memory tier that one worker gets at a time, where there are as many for each: together they take less
than one decode."""

KILLS_BEFORE_QUARANTINE: Final = 2
RESTART_DELAY_S: Final = 1.0
"""Between the deaths of a worker that has finished no pair and its next start: a broken install must not spin."""
LONGEST_RESTART_DELAY_S: Final = 5.0
"""The delay doubles up to here while a worker cannot be started."""
START_PATIENCE_S: Final = 5.0
"""So long a pool tries to start its first worker before it gives up."""
STILLBORN_WORKERS: Final = 4
"""So many workers end before they begin, and none begins, before a pool gives up."""


class PoolListener(Protocol):
    """What a pool tells of, on its event loop."""

    def results(self, results: list[Result]) -> None:
        """Workers have done this."""

    def copied(self, copied: list[Copied]) -> None:
        """Workers have copied these pairs out of the memory tier."""

    def lost(self, ring: int, seq: int, *, quarantine: bool) -> None:
        """A dead worker had this pair.

        Args:
            quarantine: the pair has killed workers before and is not decoded again, also not when it is given in a
                later epoch; or the worker died while it copied the pair.
        """

    def disk_failed(self, reason: str) -> None:
        """A worker could not store a pair on disk."""

    def has_room(self) -> None:
        """A new worker can be given pairs."""


class Pool:
    """Keeps some workers running and gives each pair to the one that has most room.

    Attributes:
        deaths: workers that died since the start.
        store: what the workers, together, make of the store.
    """

    def __init__(
        self,
        hello: Hello,
        tunings: Sequence[Tuning],
        listener: PoolListener,
        *,
        most_pairs: int,
        spawner: Spawner | None = None,
    ) -> None:
        """Prepare a pool; `start` starts it.

        Args:
            hello: what every worker is told at its start, with the tuning and the witness of its own.
            tunings: of each worker.
            listener: is told what becomes of the pairs.
            most_pairs: pairs that one worker may have at a time.
            spawner: starts the processes; by default each on its own.
        """
        self._spawner = spawner or Spawner()
        self.deaths = 0
        self.store = StoreMonitor()
        self._work_of_the_dead = Work()
        self._witness: ObjectInfo | None = None
        self._hello, self._tunings = hello, tunings
        self._listener = listener
        self._most_pairs = most_pairs
        self._workers: dict[int, WorkerLink] = {}
        self._limits: dict[int, int] = {}
        self._waited_for: dict[int, int] = {}
        self._kills: Counter[Pair] = Counter()
        self._keepers: dict[int, asyncio.Task[None]] = {}
        self._stopping = asyncio.Event()
        self._has_begun = False
        self._stillborn = 0
        self._refused: str | None = None

    def __repr__(self) -> str:
        return f"Pool({self.alive}/{self.size} workers, {self.pairs} pairs, {self.deaths} deaths)"

    @property
    def size(self) -> int:
        """Workers that there are to be."""
        return len(self._tunings)

    @property
    def alive(self) -> int:
        """Workers that there are."""
        return len(self._workers)

    @property
    def pairs(self) -> int:
        """Pairs that were dispatched and are not answered."""
        return sum(worker.load for worker in self._workers.values())

    def work(self) -> Work:
        """Return what all workers together have done, also those that have ended."""
        return sum((read_work(worker.vitals) for worker in self._workers.values()), self._work_of_the_dead)

    @property
    def most_requests(self) -> int:
        """Requests that the settings allow at a time, by all workers together."""
        return sum(tuning.most_concurrency for tuning in self._tunings)

    def start(self) -> None:
        """Start all workers."""
        for number in range(self.size):
            if number not in self._keepers or self._keepers[number].done():
                self._keepers[number] = asyncio.create_task(self._keep(number))

    def resize(self, tunings: Sequence[Tuning], *, most_pairs: int) -> None:
        """Go on with other settings and another number of workers; the pairs of those that end go to others."""
        self._tunings, self._most_pairs = tunings, most_pairs
        for number, worker in self._workers.items():
            worker.send(tunings[number] if number < self.size else Stop())
        self.start()

    def check(self) -> None:
        """Look at whether workers can be started at all.

        Raises:
            StartError: not one of them could be, for `START_PATIENCE_S`.
            CrashError: something ended the pool's own tasks, which nothing should.
        """
        self._has_begun |= any(worker.begun for worker in self._workers.values())
        if self._refused is not None and not self._has_begun:
            raise StartError(self._refused)
        ended = (task for task in self._keepers.values() if task.done() and not task.cancelled())
        if error := next((error for task in ended if (error := task.exception())), None):
            raise CrashError(f"the pool of workers failed: {type(error).__name__}: {error}") from error

    def look(self, now: float, timeout_s: float) -> None:
        """Look after the fork server and the workers; one that is killed is replaced as any that dies.

        Args:
            now: seconds, monotonic.
            timeout_s: see `WorkerLink.look`.
        """
        self._spawner.look(now)
        for worker in self._workers.values():
            worker.look(now, timeout_s)

    # Work.

    @property
    def room(self) -> int:
        """Pairs that can be dispatched now; none as long as that would be a frame for each pair that comes back."""
        spare = self._spare()
        # Where the store limits the rate, few pairs come back in a second.
        least = 1 if any(self._workers[number].credit is not None for number in spare) else LEAST_GIVEN
        return sum(spare.values()) if max(spare.values(), default=0) >= min(self._most_pairs, least) else 0

    def _spare(self) -> dict[int, int]:
        """Return how many pairs each worker can be given."""
        spare = {}
        for number, worker in self._workers.items():
            if number < self.size:
                most, credit = self._most_pairs - worker.load, worker.credit
                spare[number] = max(0, most if credit is None else min(most, credit))
        return spare

    def give(self, ring: int, jobs: Iterable[PairJob], copies: Sequence[CopyJob] = ()) -> None:
        """Dispatch pairs, no more than there is room for; each to the worker that has most room.

        Args:
            copies: pairs that are in the memory tier; some are given to a worker at a time.
        """
        spare = self._spare()
        shares: dict[int, Jobs] = {number: Jobs(ring, [], []) for number in spare}
        loads = [(self._most_pairs - room, number) for number, room in spare.items()]
        heapify(loads)
        for job in jobs:
            if self._kills and self._kills[job.pair] >= KILLS_BEFORE_QUARANTINE:
                self._listener.lost(ring, job.seq, quarantine=True)
                continue
            load, number = loads[0]
            heapreplace(loads, (load + 1, number))
            shares[number].jobs.append(job)
        run = max(1, min(COPIES_IN_A_ROW, len(copies) // max(1, len(spare))))
        for first in range(0, len(copies), run):
            load, number = loads[0]
            heapreplace(loads, (load + run, number))
            shares[number].copies.extend(copies[first : first + run])
        for number, share in shares.items():
            if share.jobs or share.copies:
                self._workers[number].give(share)

    def set_limit(self, ring: int, limit: int) -> None:
        """Let pairs of ``ring`` below ``limit`` be decoded."""
        if self._limits.get(ring) != limit:
            self._limits[ring] = limit
            for worker in self._workers.values():
                worker.send(Limit(ring, limit))

    def set_waited_for(self, ring: int, seq: int) -> None:
        """Let workers know which pair of ``ring`` has to come before any later one can be published."""
        self._waited_for[ring] = seq
        for worker in self._workers.values():
            worker.vitals[VITAL_WORDS + ring] = seq

    def cancel(self, ring: int, below: int) -> None:
        """Drop the pairs of ``ring`` below ``below``; each is answered all the same."""
        for worker in self._workers.values():
            worker.send(Cancel(ring, below))

    # Processes.

    async def _keep(self, number: int) -> None:
        while not self._stopping.is_set() and number < self.size:
            worker = await self._spawn_at_last(number)
            if worker is None:
                return
            began = time.monotonic()
            try:
                await self._listen(worker)
            finally:
                del self._workers[number]
                self._work_of_the_dead += read_work(worker.vitals).done
                worker.writer.close()
                self.store.forget(number)
            code = await worker.end()
            if self._stopping.is_set():
                return
            if number >= self.size:
                _LOG.info("worker %d (pid %d) ended, as workers = %d asks", number, worker.process.pid, self.size)
                for ring, seq in [*worker.pairs, *_each(worker.copies)]:
                    self._listener.lost(ring, seq, quarantine=False)
                continue
            self.deaths += 1
            self._note_end(worker, code)
            _LOG.warning(
                "worker %d (pid %d) died with %s after %.1f s; its %d pairs go to others",
                *(number, worker.process.pid, describe(code), time.monotonic() - began, worker.load),
            )
            decoding = worker.decoding
            if decoding is not None and (suspect := worker.pairs.get(decoding)) is not None:
                self._kills[suspect] += 1
            for (ring, seq), pair in worker.pairs.items():
                self._listener.lost(ring, seq, quarantine=self._kills[pair] >= KILLS_BEFORE_QUARANTINE)
            for ring, seq in _each(worker.copies):
                self._listener.lost(ring, seq, quarantine=decoding == (ring, seq))
            if not worker.finished:
                await self._pause(RESTART_DELAY_S)

    def _note_end(self, worker: WorkerLink, code: int) -> None:
        self._has_begun |= worker.begun
        self._stillborn = 0 if worker.begun else self._stillborn + 1
        if self._stillborn >= STILLBORN_WORKERS:
            self._refused = (
                f"{self._stillborn} workers ended before they began, the last one with {describe(code)}; look at their "
                f"own words above, and at `ulimit -u` and `ulimit -v`"
            )

    async def _spawn_at_last(self, number: int) -> WorkerLink | None:
        """Start a worker, after as many tries as it takes, as what prevents it mostly passes; None at the end."""
        began, delay_s, told = time.monotonic(), RESTART_DELAY_S / 2, False
        while not self._stopping.is_set() and number < self.size:
            try:
                worker = await self._spawn(number)
            except OSError as error:
                why = exhausted(error) or error.strerror or str(error)
                if time.monotonic() - began >= START_PATIENCE_S and not self._workers:
                    self._refused = f"no worker could be started: {why}"
                if not told:
                    _LOG.warning("worker %d could not be started, and is tried again: %s", number, why)
                told = True
                await self._pause(delay_s)
                delay_s = min(2 * delay_s, LONGEST_RESTART_DELAY_S)
            else:
                if told:
                    _LOG.info("worker %d was started after %.0f s", number, time.monotonic() - began)
                return worker
        return None

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()

    async def _spawn(self, number: int) -> WorkerLink:
        """Start a worker. Raises: OSError: it cannot be started now."""
        hello = msgspec.structs.replace(self._hello, tuning=self._tunings[number], witness=self._witness)
        worker = await WorkerLink.open(number, hello, self._spawner)
        for ring, limit in self._limits.items():
            worker.send(Limit(ring, limit))
        for ring, seq in self._waited_for.items():
            worker.vitals[VITAL_WORDS + ring] = seq
        self._workers[number] = worker
        self._listener.has_room()
        return worker

    async def _listen(self, worker: WorkerLink) -> None:
        while (message := await messages.read_results(worker.reader)) is not None:
            self._take_answers(worker, message)
            if message.store is not None:
                now = time.monotonic()
                self.store.report(worker.number, message.store, now)
                if news := self.store.news(now):
                    _LOG.warning("%s: %s", self._hello.root, news)
            if message.disk_error:
                self._listener.disk_failed(message.disk_error)
            if message.copied:
                self._listener.copied(message.copied)
            self._listener.results(message.results)

    def _take_answers(self, worker: WorkerLink, message: messages.Results) -> None:
        """Take note of the pairs that a worker has answered for."""
        pairs = worker.pairs
        there: Pair | None = None
        for result in message.results:
            pair = pairs.pop((result.ring, result.seq), None)
            if pair is None:
                worker.copies[result.ring].discard(result.seq)
                continue
            if self._kills:
                self._kills.pop(pair, None)
            if type(result) is Decoded:
                there = pair
        if there is not None:
            self._witness = there.label  # the smaller of the two, mostly
        for copied in message.copied:
            worker.copies[copied.ring].difference_update(copied.seqs, copied.wrong)
        worker.finished += len(message.results) + sum(len(copied.seqs) for copied in message.copied)

    async def stop(self) -> None:
        """End all workers within some `END_TIMEOUT_S`."""
        self._stopping.set()
        for worker in list(self._workers.values()):
            with contextlib.suppress(ConnectionError):
                worker.send(Stop())
        if self._keepers:
            _, late = await asyncio.wait(self._keepers.values(), timeout=END_TIMEOUT_S)
            for worker in list(self._workers.values()):
                worker.kill()
            for task in late:
                task.cancel()
            await asyncio.gather(*self._keepers.values(), return_exceptions=True)


def _each(copies: Mapping[int, Iterable[int]]) -> Iterator[tuple[int, int]]:
    """Yield (ring, seq) of each pair, those of a ring in order."""
    for ring, seqs in copies.items():
        for seq in sorted(seqs):
            yield ring, seq

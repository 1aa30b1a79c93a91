"""One ring in service: carries out what `Ring` and `Groups` decide, in shared memory and on the pool of workers."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Final

from ringfeed.shm.counters import DaemonCounts
from ringfeed.shm.descriptor import Descriptor
from ringfeed.shm.failures import FailedPairs
from ringfeed.shm.layout import RingState, State
from ringfeed.text import count
from ringfeedd.cache.tiers import RingTiers
from ringfeedd.catalog.catalog import Catalog
from ringfeedd.config import Config
from ringfeedd.fetch.health import StoreHealth
from ringfeedd.recovery.expected import ExpectedReaders
from ringfeedd.recovery.fdstore import hand_over
from ringfeedd.recovery.predecessor import Predecessor
from ringfeedd.reporting.errorfile import ErrorsFile
from ringfeedd.reporting.failures import FailureReporter
from ringfeedd.reporting.reporter import Reporter
from ringfeedd.reporting.retries import count_retries
from ringfeedd.ring.failures import LASTING_CAUSES, Failure, Failures
from ringfeedd.ring.fairness import NOTHING, Need
from ringfeedd.ring.groups import Groups
from ringfeedd.ring.revisions import Revision, Revisions
from ringfeedd.ring.ring import Job, Ring
from ringfeedd.shm.memory import RingMemory
from ringfeedd.supervisor.dispatch import Dispatch
from ringfeedd.supervisor.lanes import LaneManager
from ringfeedd.supervisor.ring_refresh import RingRefresh
from ringfeedd.system.systemd import Notifier
from ringfeedd.system.work import Work
from ringfeedd.worker.pool import Pool
from ringfeedd.worker.protocol import Copied, Decoded, Dropped, Failed, Result

_LOG: Final = logging.getLogger("ringfeedd.ring")


class RingService:
    """Serves one split. `step` does what can be done now, and never waits; `give` hands pairs to workers.

    Attributes:
        counters: what is counted for the ring.
        failed: the sentence with which it has stopped; None while it has not.
        expected: readers of earlier daemons that are still to come.
        refresh: the way to the next listing.
    """

    def __init__(
        self,
        number: int,
        *,
        ring: Ring,
        groups: Groups,
        memory: RingMemory,
        failures: Failures,
        notifier: Notifier | None = None,
        clock: Callable[[], float] = time.monotonic,
        consumers_clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """Put the parts together.

        Args:
            number: the ring's number among the daemon's rings, as workers know it.
            notifier: keeps, over a restart, where consumers stand that live through it.
            clock: seconds, monotonic.
            consumers_clock: CLOCK_MONOTONIC in nanoseconds, which consumers' words are compared with.
        """
        self.number = number
        self.name = ring.name
        self.ring = ring
        self.groups = groups
        self.memory = memory
        self.failed: str | None = None
        self._clock = clock
        self._consumers_clock = consumers_clock
        self._notifier = notifier or Notifier()
        self._revisions = Revisions(ring)
        self._dispatch = Dispatch(ring, self._revisions)
        self._failures = FailureReporter(ring.name, failures, ErrorsFile(memory.descriptor, memory.access), clock)
        self._reporter = Reporter(ring, groups, memory, self._pair_id_of)
        self.counters = self._reporter.counts
        self.expected = ExpectedReaders(ring.name, self._notifier)
        self.refresh = RingRefresh(ring, groups, self._revisions, memory)
        self._lanes = LaneManager(ring, groups, memory, self._reporter.settle)
        self._pool: Pool | None = None
        self._called_off = False

    def __repr__(self) -> str:
        return f"RingService({self.ring!r}, {self.groups!r})"

    @property
    def descriptor(self) -> Descriptor:
        """What consumers find of the ring."""
        return self.memory.descriptor

    @property
    def ready(self) -> bool:
        """Whether the first slots are published."""
        return self.ring.published > 0

    @property
    def catalogs(self) -> list[Catalog]:
        """What is served now, to those who are furthest behind first."""
        return self._revisions.catalogs

    @property
    def failures(self) -> Failures:
        """The pairs that failed to load, and the budget for them."""
        return self._failures.failures

    def use_tiers(self, tiers: RingTiers) -> None:
        """Have pairs kept, and taken from where they are kept."""
        self._dispatch.use_tiers(tiers)

    def expect(self, predecessors: list[Predecessor]) -> None:
        """Begin where the consumers of earlier daemons stood, and keep their places."""
        places = self.expected.expect(predecessors, self.memory.descriptor)
        if not places:
            return
        epoch, position = min(place.at for place in places)
        self.ring.seek(epoch, position)
        self.groups.inherit(places, self.ring, self._clock())
        _LOG.info(
            "ring %s: continues for %d readers of an earlier daemon at epoch %d, position %d",
            *(self.name, len(places), epoch, position),
        )

    def reconfigure(self, config: Config, *, readahead: int) -> None:
        """Go on with other settings; see `Groups`, `Failures` and `Ring`."""
        self.groups.linger_s, self.groups.linger_blocking_s = config.linger_s, config.linger_blocking_s
        self.failures.max_failed, self.failures.on_error = config.max_failed, config.on_error
        self.ring.readahead = readahead

    def offer(self, revision: Revision) -> None:
        """Take a new listing of the root; see `RingRefresh.offer`."""
        if self.refresh.offer(revision):
            self._dispatch.serve(revision)

    # What the workers say.

    def result(self, result: Result) -> None:
        """Take note of what a worker has done with one pair."""
        self._dispatch.ended(result)
        if self.failed is not None:
            return
        if result.retries:
            count_retries(self.counters, result.retries)
        match result:
            case Decoded():
                self._finish(result)
            case Failed(seq=seq):
                self._replace(seq, result)
            case Dropped(seq=seq):
                self.ring.forget(seq)
                self.ring.lost(seq)

    def copied(self, copied: Copied) -> None:
        """Take note of pairs that a worker has copied out of the memory tier."""
        for seq in copied.wrong:
            self._dispatch.not_copied(seq)
        there = self._dispatch.copied(copied.seqs)
        for seq in copied.seqs:
            job, sizes = self.ring.finish(seq), there.get(seq)
            if job is not None and sizes is not None and self.failed is None:
                self.failures.succeed()
                self._write_record(job, sizes)

    def _finish(self, result: Decoded) -> None:
        seq = result.seq
        job = self.ring.finish(seq)
        if job is None:
            return
        counters = self.counters
        counters.decoded_pairs += 1
        counters.downloaded_bytes += result.downloaded
        self.failures.succeed()
        pair_id = self._write_record(job, result.sizes)
        if result.size_mismatch:
            self._note_mismatch(pair_id, result)
        if result.turn_unsure:
            self._note_unsure_turn(pair_id)

    def _write_record(self, job: Job, sizes: tuple[int, int, int, int]) -> bytes:
        """Describe a pair that lies in its slot; return its id."""
        revision = self._revisions.of(job.seq)
        index = revision.catalog_index(job.index)
        pair_id = revision.catalog.encoded_id(index)
        self.memory.write_record(job.seq, index=index, valid=job.attempt == 0, sizes=sizes, pair_id=pair_id)
        return pair_id

    def _note_mismatch(self, pair_id: bytes, result: Decoded) -> None:
        self.counters.size_mismatches += 1
        if self.counters.size_mismatches == 1:
            height, width, label_height, label_width = result.sizes
            _LOG.warning(
                "ring %s: the image of %r is %dx%d and its label %dx%d; both are fitted to the slot. Further ones are "
                "counted in `ringfeed status`.",
                *(self.name, pair_id.decode(), height, width, label_height, label_width),
            )

    def _note_unsure_turn(self, pair_id: bytes) -> None:
        self.counters.unsure_turns += 1
        if self.counters.unsure_turns == 1:
            _LOG.warning(
                "ring %s: the EXIF orientation of %r turns the image, and nothing says whether the label was drawn on "
                "the turned one; it is taken to be. Further ones are counted in `ringfeed status`.",
                *(self.name, pair_id.decode()),
            )

    def lost(self, seq: int, *, quarantine: bool) -> None:
        """The worker that had this pair is dead."""
        was_copied = self._dispatch.lost(seq, quarantine=quarantine)
        if self.failed is not None:
            return
        if quarantine and not was_copied:
            reason = "it was being decoded each time a worker process died"
            self._replace(seq, Failed(self.number, seq, reason, "crash", 1))
        else:
            self.ring.lost(seq)

    def _replace(self, seq: int, failed: Failed) -> None:
        job = self.ring.job(seq)
        if job is None:
            self.ring.forget(seq)
            return
        pair_id = self._revisions.of(seq).pair_id(job.index)
        stop = self._failures.failed(Failure(pair_id, failed.reason, failed.cause, failed.attempts))
        try:
            self.ring.replace(seq, lasting=failed.cause in LASTING_CAUSES)
        except RuntimeError as error:
            stop = stop or f"{error}; the latest was {pair_id!r}: {failed.reason}"
        if stop:
            self.fail(stop)

    def _count_passed_over(self) -> None:
        for job in self.ring.passed_over:
            if stop := self.failures.fail_again(self._revisions.of(job.seq).pair_id(job.index)):
                self.fail(stop)
        self.ring.passed_over.clear()

    def fail(self, reason: str) -> None:
        """Stop the ring for good; consumers get the reason."""
        if self.failed is None:
            self.failed = reason
            self._failures.stop(reason)
            self.memory.fail(reason)
            self.memory.ring_all()

    # One turn.

    def step(self) -> None:
        """Read what consumers say, decide, and carry it out."""
        if self.failed is not None:
            if not self._called_off:
                self._called_off = True
                self._workers.cancel(self.number, self.ring.head)
            return
        now = self._clock()
        if self._lanes.poll(now):
            self.expected.forget_gone()
        for sentence in self.groups.expire(now, self.ring):
            self.counters.places_given_up += 1
            _LOG.warning("ring %s: %s", self.name, sentence)
        if self.refresh.step():
            self._cancel_stale()
        self._free_slots()  # before answers: a request begins no earlier than what was released before it was made
        now_ns = self._consumers_clock()
        self._lanes.answer(now, now_ns, self._go_elsewhere)
        if not self.groups and not self.ring.at_the_beginning:
            self._seek(0, 0)  # warm for the next job, and in the same order for it
        self._publish()
        self._lanes.tell_absences(now, now_ns)
        self.ring.see_front(self.groups.front(), read=self.groups.read)

    def _free_slots(self) -> None:
        """Let workers write where no group reads any more."""
        if (floor := self.groups.floor()) is None:
            return
        jumped = floor > self.ring.published
        if self.ring.release(floor):
            # before any worker may write there: a reader that skips looks at this word to see what it lost
            self.memory.set(State.FLOOR, self.ring.floor)
        if jumped:
            self._cancel_stale()

    def _go_elsewhere(self, epoch: int, position: int) -> bool:
        """Go to the place of a consumer that waits for its answer, if no other one reads; False: not yet."""
        if not self.refresh.end_past_change():
            return False
        self._seek(epoch, position)
        return True

    def _seek(self, epoch: int, position: int) -> None:
        self.ring.seek(epoch, position)
        self._cancel_stale()

    def _cancel_stale(self) -> None:
        workers = self._workers
        workers.cancel(self.number, self.ring.published)
        workers.set_waited_for(self.number, self.ring.published)

    def need(self) -> Need:
        """What the ring could use of the workers' time now."""
        return NOTHING if self.failed is not None else self.ring.need(read=self.groups.read)

    def give(self, most: int) -> None:
        """Hand up to ``most`` pairs to the workers."""
        if self.failed is not None:
            return
        self._workers.set_limit(self.number, self.ring.limit)
        jobs = self.ring.jobs(most)
        if self.ring.passed_over:
            self._count_passed_over()
        if jobs and self.failed is None:
            self._workers.give(self.number, *self._dispatch.jobs(jobs))

    def _publish(self) -> None:
        ring, memory = self.ring, self.memory
        if ring.publish():
            memory.set(State.PUBLISHED, ring.published)
            self._workers.set_waited_for(self.number, ring.published)
        for lane, offered in self.groups.offers(ring.published):
            memory.ring_lane(lane, offered)

    def report(
        self,
        daemon: DaemonCounts,
        store: StoreHealth,
        work: Work | None = None,
        others: Mapping[str, int] | None = None,
    ) -> None:
        """Write the words, and the list, that only people and metrics read; see `Reporter.report`."""
        self._failures.look(stopped=self.failed is not None)
        self._dispatch.count(self.counters)
        self.counters.failed_pairs = self._failures.listing.failed_draws
        self.counters.lane_deaths = self._lanes.lane_deaths
        self._reporter.report(self._consumers_clock(), daemon, store, work or Work(), others or {})

    @property
    def waited(self) -> Mapping[tuple[str, int], float]:
        """Seconds that readers waited since the start, by their group's label and rank."""
        return self._reporter.ledger.waited

    def _pair_id_of(self, seq: int) -> str:
        job = self.ring.job(seq)
        return "" if job is None else self._revisions.of(seq).pair_id(job.index)

    def failed_pairs(self) -> FailedPairs:
        """The pairs that failed to load, and why the ring was stopped if it was, as the list in /dev/shm has them."""
        return self._failures.listing

    def totals(self) -> str:
        """What was done in all, for a last line."""
        done = self.counters
        mebibytes = f"{done.downloaded_bytes / 2**20:,.0f} MiB downloaded"
        return ", ".join(
            (f"{self.name}: {count(done.decoded_pairs, 'pair')}", mebibytes, f"{self.failures.total:,} failed")
        )

    @property
    def _workers(self) -> Pool:
        assert self._pool is not None  # there is no turn before `begin`
        return self._pool

    def begin(self, pool: Pool) -> None:
        """Let consumers find the ring, and ``pool`` fetch its pairs."""
        self._pool = pool
        self.memory.set(State.STATE, RingState.SERVING)
        self.memory.announce()

    def end(self) -> None:
        """Tell every consumer that no more will come, and remove every name."""
        self._failures.end(stopped=self.failed is not None)
        if self.failed is None:
            self.memory.set(State.STATE, RingState.STOPPING)
            if any(self.memory.lane_lives(lane) for lane in self.groups.lanes()):
                hand_over(self.memory.descriptor, self.memory.lock_fd, self._notifier)
            self.expected.hand_over()
        self.memory.ring_all()
        self.memory.unlink()
        self.expected.forget()

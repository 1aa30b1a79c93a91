"""One ring in service: carries out what `Ring` and `Groups` decide, in shared memory and on the pool of workers."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from ringfeed.shm.counters import DaemonCounts
from ringfeed.shm.descriptor import Descriptor
from ringfeed.shm.failures import FailedPairs
from ringfeed.shm.layout import RingState, State
from ringfeed.text import count
from ringfeedd.cache.disk_share import DiskOrder
from ringfeedd.cache.tiers import RingTiers
from ringfeedd.catalog.catalog import Catalog
from ringfeedd.fetch.health import StoreHealth
from ringfeedd.recovery.fdstore import drop, hand_over
from ringfeedd.recovery.predecessor import Predecessor
from ringfeedd.reporting.errorfile import ErrorsFile
from ringfeedd.reporting.reporter import Reporter
from ringfeedd.reporting.retries import count_retries
from ringfeedd.ring.failure_log import FailureLog
from ringfeedd.ring.failures import LASTING_CAUSES, Failure, Failures, OnError
from ringfeedd.ring.fairness import NOTHING, Need
from ringfeedd.ring.groups import Groups
from ringfeedd.ring.revisions import Revision, Revisions
from ringfeedd.ring.ring import Job, Ring
from ringfeedd.shm.memory import RingMemory
from ringfeedd.supervisor.lanes import LaneManager
from ringfeedd.system.systemd import Notifier
from ringfeedd.system.work import Work
from ringfeedd.worker.pool import Pool
from ringfeedd.worker.protocol import Copied, CopyJob, Decoded, Dropped, Failed, PairJob, Result

_LOG: Final = logging.getLogger("ringfeedd.ring")


class RingService:
    """Serves one split. `step` does what can be done now, and never waits; `give` hands pairs to workers.

    Attributes:
        counters: what is counted for the ring.
        tiers: the cache; None for none.
    """

    def __init__(
        self,
        number: int,
        *,
        ring: Ring,
        groups: Groups,
        memory: RingMemory,
        revision: Revision,
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
        self.failures = failures
        self.failed: str | None = None
        self.tiers: RingTiers | None = None
        self._failure_log = FailureLog(ring.name)
        self._errors_file = ErrorsFile(memory.descriptor, memory.access)
        self._revisions = Revisions(ring, revision)
        self._clock = clock
        self._consumers_clock = consumers_clock
        self._notifier = notifier or Notifier()
        self._reporter = Reporter(ring, groups, memory, self._pair_id_of)
        self.counters = self._reporter.counts
        self.predecessors: list[Predecessor] = []
        self._reception = LaneManager(ring, groups, memory, self._reporter.settle)
        self._outcome = self._told = ""
        self._listed = self._called_off = False

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

    def use_tiers(self, tiers: RingTiers) -> None:
        """Have pairs kept, and taken from where they are kept."""
        self.tiers = tiers
        for catalog in self.catalogs:
            tiers.serve(catalog)

    def expect(self, predecessors: list[Predecessor]) -> None:
        """Begin where the consumers of earlier daemons stood, and keep their places."""
        for former in predecessors:
            if former.serves_the_same(self.memory.descriptor):
                self.predecessors.append(former)
            else:
                _LOG.warning(
                    "ring %s: %d readers of an earlier daemon read another catalog, seed or order; they get an error",
                    *(self.name, len(former.places)),
                )
                self._let_go(former)
        places = [place for former in self.predecessors for place in former.places]
        if not places:
            return
        epoch, position = min(place.at for place in places)
        self.ring.seek(epoch, position)
        self.groups.inherit(places, self.ring, self._clock())
        _LOG.info(
            "ring %s: continues for %d readers of an earlier daemon at epoch %d, position %d",
            *(self.name, len(places), epoch, position),
        )

    def _forget_formers(self) -> None:
        """Remove the files of earlier daemons whose consumers have all come or gone."""
        for former in [former for former in self.predecessors if not former.lives]:
            self._let_go(former)
            self.predecessors.remove(former)

    def _let_go(self, former: Predecessor) -> None:
        former.forget()
        drop(former.descriptor, self._notifier)

    def reconfigure(
        self, *, linger_s: float, linger_blocking_s: float, max_failed: float, on_error: OnError, readahead: int
    ) -> None:
        """Go on with other settings; see `Groups`, `Failures` and `Ring`."""
        self.groups.linger_s, self.groups.linger_blocking_s = linger_s, linger_blocking_s
        self.failures.max_failed, self.failures.on_error = max_failed, on_error
        self.ring.readahead = readahead

    # Another listing.

    def refresh(self, revision: Revision) -> None:
        """Take a new listing of the root; its pairs come in with the first epoch that no group has begun."""
        try:
            self._outcome = self._revisions.offer(revision, self.groups)
        except ValueError as error:
            self.refuse_refresh(str(error))
        else:
            self._listed = True
            if self.tiers is not None:
                self.tiers.serve(revision.catalog)

    def begin_later(self, epoch: int, revision: Revision) -> None:
        """Let ``revision`` begin with ``epoch``, as an earlier daemon had promised; before the ring is announced."""
        self._revisions.offer(revision, self.groups)
        self.memory.descriptor = replace(self.memory.descriptor, catalogs=self._revisions.after(epoch))
        self._revisions.begin(epoch)

    def refuse_refresh(self, reason: str) -> None:
        """Say that a refresh came to nothing."""
        _LOG.error("ring %s: refresh: %s", self.name, reason)
        self.memory.end_refresh(reason, taken=False)

    def _change_edition(self, pool: Pool) -> None:
        revisions = self._revisions
        try:
            if (epoch := revisions.due(self.groups)) is not None:
                self.memory.announce_catalogs(revisions.after(epoch))
                self._outcome = revisions.begin(epoch)
                self.groups.change(self.ring)
            if not self.groups and len(self.memory.descriptor.catalogs) > 1:
                self.memory.announce_catalogs((revisions.newest.served(0),))
                self._outcome += "; no group reads, so from the beginning"
                revisions.settle()
                self._cancel_stale(pool)
        except OSError as error:  # nothing has changed yet, and the next turn tries again
            self._outcome = f"the descriptor in /dev/shm could not be written: {error.strerror}; tried again"
        if not self._listed and self._outcome == self._told:
            return
        _LOG.info("ring %s: refresh: %s", self.name, self._outcome)
        self._told = self._outcome
        if self._listed:
            self._listed = False
            self.memory.end_refresh(self._outcome, taken=True)
        else:
            self.memory.tell_refresh(self._outcome)

    # What the workers say.

    def result(self, result: Result) -> None:
        """Take note of what a worker has done with one pair."""
        if self.tiers is not None:
            self._note_in_tiers(self.tiers, result)
            self._release(self.tiers)
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

    @staticmethod
    def _note_in_tiers(tiers: RingTiers, result: Result) -> None:
        if type(result) is Decoded:
            tiers.decoded(
                result.seq,
                sizes=result.sizes,
                from_disk=result.from_disk,
                wrong=result.wrong,
                stored=result.stored,
                total=result.total,
            )
        else:
            tiers.ended(result.seq)

    def _release(self, tiers: RingTiers) -> None:
        """Queue again what waited for an earlier pair, which is kept now or came to nothing."""
        for seq in tiers.released:
            self.ring.lost(seq)
        tiers.released.clear()

    def copied(self, copied: Copied) -> None:
        """Take note of pairs that a worker has copied out of the memory tier."""
        assert self.tiers is not None
        for seq in copied.wrong:
            self.tiers.not_copied(seq)
            self.ring.lost(seq)
        for seq in copied.seqs:
            sizes = self.tiers.copied(seq)
            job = self.ring.finish(seq)
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
        was_copied = False
        if self.tiers is not None:
            was_copied = self._lost_in_tiers(self.tiers, seq, quarantine=quarantine)
            self._release(self.tiers)
        if self.failed is not None:
            return
        if quarantine and not was_copied:
            reason = "it was being decoded each time a worker process died"
            self._replace(seq, Failed(self.number, seq, reason, "crash", 1))
        else:
            self.ring.lost(seq)

    @staticmethod
    def _lost_in_tiers(tiers: RingTiers, seq: int, *, quarantine: bool) -> bool:
        """Whether it was only to be copied; with ``quarantine``, the worker died of that, and it is fetched again."""
        if quarantine and tiers.is_copying(seq):
            tiers.not_copied(seq)
            return True
        return tiers.ended(seq)

    def _replace(self, seq: int, failed: Failed) -> None:
        job = self.ring.job(seq)
        if job is None:
            self.ring.forget(seq)
            return
        pair_id = self._revisions.of(seq).pair_id(job.index)
        known = pair_id in self.failures  # it is named once, not every epoch
        if not known and (line := self._failure_log.failed(pair_id, failed.reason, failed.cause, self._clock())):
            _LOG.warning("ring %s: %s", self.name, line)
        stop = self.failures.fail(Failure(pair_id, failed.reason, failed.cause, failed.attempts))
        try:
            self.ring.replace(seq, lasting=failed.cause in LASTING_CAUSES)
        except RuntimeError as error:
            stop = stop or f"{error}; the latest was {pair_id!r}: {failed.reason}"
        if stop:
            self.fail(stop)

    def _summarise_failures(self, *, end: bool = False) -> None:
        if line := self._failure_log.summary(self._clock(), end=end):
            _LOG.warning("ring %s: %s", self.name, line)

    def _count_passed_over(self) -> None:
        for job in self.ring.passed_over:
            if stop := self.failures.fail_again(self._revisions.of(job.seq).pair_id(job.index)):
                self.fail(stop)
        self.ring.passed_over.clear()

    def fail(self, reason: str) -> None:
        """Stop the ring for good; consumers get the reason."""
        if self.failed is None:
            self.failed = reason
            self._summarise_failures(end=True)
            _LOG.error("ring %s stops: %s", self.name, reason)
            self._errors_file.write(self.failures, stopped=reason)
            self.memory.fail(reason)
            self.memory.ring_all()

    # One turn.

    def step(self, pool: Pool) -> None:
        """Read what consumers say, decide, and carry it out."""
        if self.failed is not None:
            if not self._called_off:
                self._called_off = True
                pool.cancel(self.number, self.ring.head)
            return
        now = self._clock()
        if self._reception.hear(now):
            self._forget_formers()
        for sentence in self.groups.expire(now, self.ring):
            self.counters.places_given_up += 1
            _LOG.warning("ring %s: %s", self.name, sentence)
        self._change_edition(pool)
        now_ns = self._consumers_clock()
        self._reception.answer(now, now_ns, lambda epoch, position: self._go_elsewhere(pool, epoch, position))
        floor = self.groups.floor()
        if floor is not None:
            jumped = floor > self.ring.published
            if self.ring.release(floor):
                # before any worker may write there: a reader that skips looks at this word to see what it lost
                self.memory.set(State.FLOOR, self.ring.floor)
            if jumped:
                self._cancel_stale(pool)
        elif not self.groups and not self.ring.at_the_beginning:
            self._seek(pool, 0, 0)  # warm for the next job, and in the same order for it
        self._publish(pool)
        self._reception.tell_absences(now, now_ns)
        self.ring.see_front(self.groups.front(), read=self.groups.read)

    def _go_elsewhere(self, pool: Pool, epoch: int, position: int) -> bool:
        """Go to the place of a consumer that waits for its answer, if no other one reads; False: not yet.

        It may lie before a change that is over, from when there is nothing left: then consumers are told so first, and
        one that insists on a state of that time finds that it cannot have it.
        """
        if len(self.memory.descriptor.catalogs) > 1 and not self._revisions.changing:
            try:
                self.memory.announce_catalogs((self._revisions.newest.served(0),))
            except OSError as error:
                _LOG.error("ring %s: the descriptor in /dev/shm could not be written: %s", self.name, error.strerror)
                return False
        self._seek(pool, epoch, position)
        return True

    def _seek(self, pool: Pool, epoch: int, position: int) -> None:
        self.ring.seek(epoch, position)
        self._cancel_stale(pool)

    def _cancel_stale(self, pool: Pool) -> None:
        pool.cancel(self.number, self.ring.published)
        pool.set_waited_for(self.number, self.ring.published)

    def need(self) -> Need:
        """What the ring could use of the workers' time now."""
        return NOTHING if self.failed is not None else self.ring.need(read=self.groups.read)

    def give(self, pool: Pool, most: int) -> None:
        """Hand up to ``most`` pairs to the workers."""
        if self.failed is not None:
            return
        pool.set_limit(self.number, self.ring.limit)
        jobs = self.ring.jobs(most)
        if self.ring.passed_over:
            self._count_passed_over()
        if jobs and self.failed is None:
            if self.tiers is not None:
                self._give_cached(self.tiers, pool, jobs)
                return
            pairs = self._revisions.pairs(jobs)
            pool.give(self.number, [PairJob(job.seq, pair) for job, pair in zip(jobs, pairs, strict=True)])

    def _give_cached(self, tiers: RingTiers, pool: Pool, jobs: list[Job]) -> None:
        """Hand pairs to the workers: those of the memory tier to be copied, the others with what is to be kept."""
        copies: list[CopyJob] = []
        fetched: list[Job] = []
        orders: list[tuple[int, DiskOrder | None]] = []
        for job in jobs:
            revision = self._revisions.of(job.seq)
            index = revision.catalog_index(job.index)
            if (found := tiers.copy(job.seq, revision.catalog, index)) is not None:
                copies.append(CopyJob(job.seq, *found))
            elif not tiers.waits(job.seq, revision.catalog, index):
                fetched.append(job)
                orders.append(tiers.order(job.seq, revision.catalog, index))
        pairs = self._revisions.pairs(fetched)
        pool.give(
            self.number,
            [PairJob(job.seq, pair, *order) for job, pair, order in zip(fetched, pairs, orders, strict=True)],
            copies,
        )

    def _publish(self, pool: Pool) -> None:
        ring, memory = self.ring, self.memory
        if ring.publish():
            memory.set(State.PUBLISHED, ring.published)
            pool.set_waited_for(self.number, ring.published)
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
        if self.failed is None:
            self._errors_file.write_if_due(self.failures, self._clock())
        self._summarise_failures()
        if self.tiers is not None:
            hits = self.tiers.hits
            self.counters.memory_hits, self.counters.disk_hits = hits.memory, hits.disk
            self.counters.cache_saved_bytes = hits.bytes
        self.counters.failed_pairs = self._errors_file.listing.failed_draws
        self.counters.lane_deaths = self._reception.lane_deaths
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
        return self._errors_file.listing

    def totals(self) -> str:
        """What was done in all, for a last line."""
        done = self.counters
        mebibytes = f"{done.downloaded_bytes / 2**20:,.0f} MiB downloaded"
        return ", ".join(
            (f"{self.name}: {count(done.decoded_pairs, 'pair')}", mebibytes, f"{self.failures.total:,} failed")
        )

    def begin(self) -> None:
        """Let consumers find the ring."""
        self.memory.set(State.STATE, RingState.SERVING)
        self.memory.announce()

    def end(self) -> None:
        """Tell every consumer that no more will come, and remove every name."""
        self._summarise_failures(end=True)
        if self.failed is None:
            self.memory.set(State.STATE, RingState.STOPPING)
            self._errors_file.remove()
            if any(self.memory.lane_lives(lane) for lane in self.groups.lanes()):
                hand_over(self.memory.descriptor, self.memory.lock_fd, self._notifier)
            for former in self.predecessors:
                hand_over(former.descriptor, former.control.lock_fd, self._notifier)
        self.memory.ring_all()
        self.memory.unlink()
        for former in self.predecessors:
            former.forget()

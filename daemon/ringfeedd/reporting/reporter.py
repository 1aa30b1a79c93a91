"""Writes what people and metrics read of a ring: counts, what happened lately, and what bounds the ring."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Final

from ringfeed.health.evidence import Evidence, Verdict
from ringfeed.health.stalls import Stall, hold_up
from ringfeed.health.verdict import WAITED, judge, unreachable
from ringfeed.shm.counters import DaemonCounts, RingCounts, StoreCounts
from ringfeed.shm.lane import LanePage, Request
from ringfeed.shm.layout import REASON_BYTES, RING_BYTES, Lane, State
from ringfeed.shm.progress import Standing
from ringfeedd.fetch.health import StoreHealth
from ringfeedd.reporting.lately import LatePair, Look, Recent
from ringfeedd.reporting.ledger import Ledger, Reader
from ringfeedd.reporting.stalls import HoldUpWatch
from ringfeedd.reporting.verdict_log import VerdictLog
from ringfeedd.ring.groups import Groups
from ringfeedd.ring.ring import Ring
from ringfeedd.shm.memory import RingMemory
from ringfeedd.system.work import Work

_LOG: Final = logging.getLogger("ringfeedd.ring")


class Reporter:
    """The reporter of one ring. Looks at every lane, four times a second or so.

    Attributes:
        counts: what is counted for the ring; others add to it.
        ledger: what readers took and waited.
        verdict: what bounds the ring, at the last look.
    """

    def __init__(self, ring: Ring, groups: Groups, memory: RingMemory, pair_id: Callable[[int], str]) -> None:
        """Nothing was seen yet.

        Args:
            pair_id: the id of the pair that a worker has under this number.
        """
        self.counts = RingCounts()
        self.ledger = Ledger()
        self.verdict: Verdict | None = None
        self._ring, self._groups, self._memory, self._pair_id = ring, groups, memory, pair_id
        self._recent, self._late = Recent(), LatePair()
        self._hold_ups, self._verdicts = HoldUpWatch(), VerdictLog()

    def __repr__(self) -> str:
        return f"Reporter({self._ring.name!r}, {self._recent!r})"

    def report(
        self, now_ns: int, daemon: DaemonCounts, store: StoreHealth, work: Work, others: Mapping[str, int]
    ) -> None:
        """Write every word, and name in the log what holds readers back.

        Args:
            now_ns: CLOCK_MONOTONIC, which readers' words are compared with.
            daemon: what is counted for all rings.
            store: how the store fares.
            work: what the workers have done.
            others: pairs that were decoded for each other ring of the daemon.
        """
        ring, memory, counts, now = self._ring, self._memory, self.counts, now_ns / 1e9
        standings = self._look_at_readers(now_ns)
        found = hold_up(standings.values(), floor=ring.floor, published=ring.published, slots=ring.slots)
        holds = self._slower_group(standings) if found is None else found
        waited_s = {reader: self._waited_s(reader, standing) for reader, standing in standings.items()}
        counted = {reader: one for reader, one in standings.items() if not one.skips} or standings
        look = Look(
            waited_s=waited_s,
            aside=frozenset(standings.keys() - counted.keys()),
            holder=holds.holders[0].lane + 1 if holds is not None and holds.holders else 0,
            missing=0 if holds is None or holds.missing is None else holds.missing.lane + 1,
            held=holds is not None and holds.waiting > 0,
            limit_per_s=store.limit_per_s,
            full=ring.full,
            workers=daemon.workers,
            work=work,
            requests=store.counts.requests,
            retries=counts.fetch_retries,
            pairs=counts.decoded_pairs,
            others=others,
        )
        self._recent.add(now, look)
        lately, other = self._recent.sums()
        job = ring.job(ring.published)
        late_since = self._late.look(
            now,
            head=ring.head,
            published=ring.published,
            behind=len(ring.ready),
            room=min(ring.limit, ring.head) - ring.published,
            in_flight=job is not None,
        )
        counts.next_pair_age_ns = int(1e9 * (now - self._late.handed_out_at)) if job is not None else 0
        late_id = ""
        if late_since is not None and job is not None:
            lately.late_since_ns, late_id = int(1e9 * late_since), self._pair_id(job.seq)
        counts.in_flight_pairs, counts.unpublished_pairs = len(ring.in_flight), len(ring.ready)
        counts.groups, counts.lingering_groups = len(self._groups), self._groups.lingering
        counts.seeks, counts.skipped_pairs = ring.seeks, self._groups.skipped_pairs
        self._count_savings()
        store_counts = StoreCounts(
            waiting_workers=store.waiting_workers,
            outages=store.outages,
            requests=store.counts.requests,
            second_requests=store.counts.second,
            second_requests_won=store.counts.second_won,
            limited_requests=store.counts.limited,
            requests_under_way=work.under_way,
            window=work.window,
            concurrency=store.concurrency,
        )
        memory.set_text(State.LATE, State.LATE_LENGTH, late_id, REASON_BYTES)
        memory.set_text(State.OTHER_RING, State.OTHER_RING_LENGTH, other, RING_BYTES)
        memory.count(counts, daemon, store_counts, lately)
        for offset, value in {
            State.PUBLISHED: ring.published,  # as it is already, unless another process wrote there
            State.FLOOR: ring.floor,
            State.HEAD: ring.head,
            State.BASE_SEQ: ring.base.seq,
            State.BASE_EPOCH: ring.base.epoch,
            State.BASE_POSITION: ring.base.position,
            State.HEARTBEAT_NS: time.monotonic_ns(),
            State.STORE_FAILING_SINCE_NS: int(1e9 * (store.failing_since or 0)),
            State.STORE_NEXT_TRY_NS: int(1e9 * (store.next_try_at or 0)),
            State.STORE_LIMIT_MILLI: round(1000 * store.limit_per_s),
        }.items():
            memory.set(offset, value)
        shares = self._recent.shares()
        for lane, nonce in standings:
            memory.lanes[lane][Lane.WAITED_LATELY_MILLI] = round(1000 * shares.get((lane, nonce), 0.0))
        failing_s = max(0.0, now - store.failing_since) if store.failing_since else 0.0
        self.verdict = judge(
            Evidence(
                slots=ring.slots,
                filled=ring.published - ring.floor,
                published=ring.published,
                failing_s=failing_s,
                store=unreachable(
                    failing_s,
                    waiting=store.waiting_workers,
                    workers=daemon.workers,
                    next_try_s=max(0.0, (store.next_try_at or now) - now),
                ),
                late_s=now - late_since if late_since is not None else 0.0,
                late_id=late_id,
                other=other,
                held_up=found.sentence() if found is not None and found.worth_saying else "",
                silent=found is not None and not found.waiting,
                readers=list(counted.values()),
                ring_counts=counts,
                daemon_counts=daemon,
                store_counts=store_counts,
                lately=lately,
            )
        )
        self._tell(found, now, max((waited_s[reader] for reader in counted), default=0.0))

    def settle(self, lane: int) -> None:
        """Add what a reader did up to its end; its words are still there."""
        page = self._memory.lanes[lane]
        if isinstance(request := page.read_request(), Request):
            nonce = page[Lane.ANSWER_NONCE]
            standing = self._read_standing(page, request, 0, lane)
            self._note((lane, nonce), standing, page[Lane.WAITED_NS] / 1e9)
        self.ledger.gone(lane)

    def _look_at_readers(self, now_ns: int) -> dict[Reader, Standing]:
        found = {}
        for lane in self._groups.lanes():
            page = self._memory.lanes[lane]
            if isinstance(request := page.read_request(), Request):
                standing = self._read_standing(page, request, now_ns, lane)
                found[lane, page[Lane.ANSWER_NONCE]] = standing
        return found

    def _read_standing(self, page: LanePage, request: Request, now_ns: int, lane: int) -> Standing:
        ring = self._ring
        return Standing.read(page, request, ring.epochs, now_ns, ring.published, lane, ring.base)

    def _slower_group(self, standings: Mapping[Reader, Standing]) -> Stall | None:
        """Return who sets the pace, though slots are free at this moment: those that it has just given back.

        A group that hardly waits, while another one waits for what fills the slots of its latest round.
        """
        ring = self._ring
        found = hold_up(standings.values(), floor=ring.floor, published=ring.floor + ring.slots, slots=ring.slots)
        if found is None or not found.waiting or not found.holders:
            return None
        holder = found.holders[0]
        just_free = holder.world_size * holder.batch_size
        reader = next(reader for reader, standing in standings.items() if standing is holder)
        others = any(standing.waiting_s and standing.group != holder.group for standing in standings.values())
        near = ring.published >= ring.floor + ring.slots - just_free
        return found if others and near and self._recent.shares().get(reader, 0.0) < WAITED else None

    def _waited_s(self, reader: Reader, standing: Standing) -> float:
        """Return how long a reader has waited since it attached, and take note of what it took."""
        waited_s = self._memory.lanes[reader[0]][Lane.WAITED_NS] / 1e9 + standing.waiting_s
        self._note(reader, standing, waited_s)
        return waited_s

    def _note(self, reader: Reader, standing: Standing, waited_s: float) -> None:
        batches = self._memory.lanes[reader[0]][Lane.BATCHES]
        self.ledger.note(reader, standing, published=self._ring.published, batches=batches, waited_s=waited_s)

    def _count_savings(self) -> None:
        counts = self.counts
        counts.delivered_pairs = self.ledger.delivered_pairs
        fetched = counts.decoded_pairs - counts.disk_hits
        saved = counts.delivered_pairs - fetched
        counts.saved_requests = max(counts.saved_requests, 2 * saved)
        if fetched:
            mean_bytes = counts.downloaded_bytes / fetched
            counts.saved_bytes = max(counts.saved_bytes, int(saved * mean_bytes))

    def _tell(self, found: Stall | None, now: float, waited_s: float) -> None:
        """Name in the log what makes readers wait for long."""
        assert self.verdict is not None
        news = self._verdicts.look(self.verdict, now, waited_s)
        if sentence := self._hold_ups.look(found, now):  # says more of the same
            self._verdicts.told(self.verdict, now)
        if line := sentence or news:
            well = not sentence and self.verdict.well
            _LOG.log(logging.INFO if well else logging.WARNING, "ring %s: %s", self._ring.name, line)

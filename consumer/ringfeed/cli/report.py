"""One ring at one moment, as people, programs and the status page are shown it. Pure: `ring_status` makes it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any, Final

from ringfeed.health.evidence import UNMEASURED, Verdict
from ringfeed.health.verdict import unreachable
from ringfeed.shm.counters import DaemonCounts, RingCounts, StoreCounts
from ringfeed.shm.identity import Value
from ringfeed.shm.missing import Absence
from ringfeed.text import count, one_line

HEARTBEAT_LATE_S: Final = 5.0
"""The daemon's loop turns four times a second: after this long without a turn it hangs, or is stopped."""


@dataclass(frozen=True, slots=True)
class LaneStatus:
    """One attached consumer.

    Attributes:
        taken: number of the pair at which its next batch begins.
        held_pairs: from the first pair that it may still read to ``taken``, other ranks' pairs included.
        waited_s: seconds that it has waited for batches, in all.
        waiting_s: seconds that it has been waiting now; 0 when it does not.
        waited_lately: part of the latest 10 s or so that it waited, 0 to 1.
        on_lag: ``"block"``, ``"skip"`` or ``"yield"``.
        missed_pairs: that were overwritten before it could read them; only where it skips or yields.
        absence: who of its group is away; None where all ranks are there.
        run: the start of the job that it belongs to, as a number; 0 where it is not known.
        attached_s: seconds since the daemon answered it.
    """

    lane: int
    pid: int
    group: str
    rank: int
    world_size: int
    batch_size: int
    batches: int
    taken: int
    held_pairs: int
    waited_s: float
    waiting_s: float
    on_lag: str
    missed_pairs: int
    absence: Absence | None = None
    run: int = 0
    attached_s: float = 0.0
    waited_lately: float = 0.0


def by_pass(lanes: Iterable[LaneStatus]) -> list[tuple[str, list[LaneStatus]]]:
    """Return the lanes of each pass over the ring, by rank, with a name for it, by name.

    Two runs of one job may be attached under one group's name: the earlier one's ranks have yet to end.
    """
    found = []
    for group, named in groupby(sorted(lanes, key=lambda lane: lane.group), key=lambda lane: lane.group):
        members = list(named)
        runs = {lane.run for lane in members if lane.run}
        only = runs.pop() if len(runs) == 1 else 0  # a lane that does not say its run joins the others
        passes = defaultdict(list)
        for lane in members:
            passes[lane.run or only].append(lane)
        by_age = sorted(passes.values(), key=lambda ranks: min(lane.attached_s for lane in ranks))
        names = (group, *(f"{group} (earlier run)" for _ in by_age[1:]))
        found += [(name, sorted(ranks, key=lambda lane: lane.rank)) for name, ranks in zip(names, by_age, strict=True)]
    return found


@dataclass
class StoreStatus(StoreCounts):
    """Whether the store that the daemon reads from answers; counts are since the daemon's start.

    Attributes:
        failing_s: seconds since when it has answered no worker; 0 while it answers.
        next_try_s: seconds until the first of them asks it again; 0 while none is about to.
        limit_per_s: requests a second that it lets through; 0 while it does not limit the rate.
    """

    failing_s: float = 0.0
    next_try_s: float = 0.0
    limit_per_s: float = 0.0

    @property
    def unreachable(self) -> bool:
        """Whether it answers no worker."""
        return self.failing_s > 0.0

    def sentence(self, workers: int) -> str:
        """Return how it fares, for people."""
        if self.unreachable:
            return unreachable(
                self.failing_s, waiting=self.waiting_workers, workers=workers, next_try_s=self.next_try_s
            )
        limit = f", limited to about {self.limit_per_s:.0f} requests/s" if self.limit_per_s else ""
        second = f", {self.second_requests:,} of them second ones for a late object" if self.second_requests else ""
        return f"answers{limit}; {count(self.requests, 'request')}{second}, {count(self.outages, 'outage')}"


@dataclass(kw_only=True)
class RingStatus(RingCounts, DaemonCounts):
    """One ring at one moment; what is counted since the daemon's start, and its words, stand in `RingCounts` and so on.

    Attributes:
        state: ``"starting"``, ``"serving"``, ``"stopping"``, ``"failed"``, or ``"dead"`` when its daemon is.
        reason: why it failed.
        refresh: what came of the latest refresh, or will; empty where there was none since the daemon's start.
        fingerprint: of the whole split, so that it is the same on every machine that shares it.
        epoch_length: pairs in an epoch of this machine.
        num_nodes, node_rank: machines whose daemons share every epoch, and this one's number.
        epoch, position: of the first pair that is kept.
        filled_slots: slots that hold pairs which may be read.
        heartbeat_age_s: seconds since the daemon's loop turned.
        failures_by_cause: ``failed_pairs`` apart; empty where the list of failed pairs cannot be read.
        store: how the bucket fares, as all rings of the daemon see it.
        held_up: who holds the ring up at this moment, as a sentence; empty where no reader waits for another.
        verdict: what bounds the ring.
        identity: the settings that decide ids, pixels and order, by name.
    """

    ring: str
    state: str
    reason: str
    refresh: str
    root: str
    split: str
    fingerprint: str
    daemon_pid: int
    uptime_s: float
    heartbeat_age_s: float
    order: str
    seed: int
    fit: str
    label_mode: str
    slots: int
    slot_height: int
    slot_width: int
    memory_bytes: int
    mirrored: bool
    epoch_length: int
    num_nodes: int
    node_rank: int
    epoch: int
    position: int
    floor: int
    published: int
    head: int
    filled_slots: int
    store: StoreStatus
    failures_by_cause: dict[str, int]
    lanes: int
    consumers: list[LaneStatus]
    identity: dict[str, Value]
    held_up: str = ""
    verdict: Verdict = UNMEASURED

    @property
    def hangs(self) -> str:
        """Since when the daemon does nothing though it lives, as a phrase; empty where it does its work."""
        if self.state == "dead" or self.heartbeat_age_s <= HEARTBEAT_LATE_S:
            return ""
        return f"its loop has not turned for {self.heartbeat_age_s:.0f} s"

    @property
    def headline(self) -> str:
        """The ring's name and state, and what is wrong with it."""
        return ", ".join(part for part in (f"{self.ring}: {self.state}", self.reason, self.hangs) if part)

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self) | {"retries_by_cause": self.retries_by_cause}

    def rows(self) -> dict[str, str]:
        """The ring for people: by a word, a line."""
        memory = f"{self.memory_bytes / 2**20:.0f} MiB" + ("" if self.mirrored else ", not mirrored")
        slot = f"{self.slot_height}x{self.slot_width}, {self.fit}, label {self.label_mode}"
        causes = ", ".join(f"{many:,} {cause}" for cause, many in self.retries_by_cause.items() if many)
        retries = count(self.fetch_retries, "retry", "retries") + (f" ({causes})" if causes else "")
        why = ", ".join(f"{many:,} {cause}" for cause, many in sorted(self.failures_by_cause.items()))
        failed = f"{self.failed_pairs:,} failed" + (f" ({why})" if why else "")
        failed = f"{failed}, {retries}, {self.size_mismatches} of unequal size"
        if self.unsure_turns:
            failed += f", {count(self.unsure_turns, 'label')} that may not be turned as their images are"
        readers = f"{count(self.lane_deaths, 'reader')} died, {count(self.skipped_pairs, 'pair')} skipped"
        if self.places_given_up:
            readers += f", {count(self.places_given_up, 'place')} given up"
        forks = f", {count(self.fork_server_deaths, 'fork server')} died" if self.fork_server_deaths else ""
        node = f"node {self.node_rank}/{self.num_nodes}, " if self.num_nodes > 1 else ""
        pairs = count(self.epoch_length, "pair")
        rows = {
            "verdict": self.verdict.sentence,
            "source": f"{self.root} ({self.split}, {node}{pairs}, {self.order}, seed {self.seed})",
            "slots": f"{self.filled_slots}/{self.slots} filled, {slot}, {memory}",
            "stream": f"epoch {self.epoch}, position {self.position}; pairs {self.floor} to {self.published} are kept",
            "decoded": f"{count(self.decoded_pairs, 'pair')}, {self.downloaded_bytes / 1e6:,.1f} MB; {failed}",
            "store": self.store.sentence(self.workers),
            "daemon": f"pid {self.daemon_pid}, up {self.uptime_s:.0f} s, {count(self.workers, 'worker')} "
            f"({self.worker_deaths} died)" + forks,
            "readers": f"{len(self.consumers)}/{count(self.lanes, 'lane')} in {count(self.groups, 'group')} "
            f"({self.lingering_groups} lingering; {readers})",
        }
        if self.cache_rows or self.cache_disk_chosen:
            rows["cache"] = self._cache()
        if self.refresh:
            rows["refresh"] = self.refresh
        return rows

    def _cache(self) -> str:
        """Return how full the tiers are, and what they saved."""
        tiers = []
        if self.cache_rows:
            size = self.cache_rows_filled * self.cache_row_bytes / 2**30
            tiers.append(f"memory holds {self.cache_rows_filled:,}/{self.cache_rows:,} pairs ({size:.1f} GiB)")
        if self.cache_disk_chosen:
            size = self.cache_disk_bytes / 2**30
            tiers.append(f"disk holds {self.cache_disk_pairs:,}/{self.cache_disk_chosen:,} pairs ({size:.1f} GiB)")
        hits, seen = self.memory_hits + self.disk_hits, self.memory_hits + self.decoded_pairs
        rate = f"{hits / seen:.0%}" if seen else "0%"
        said = f"{'; '.join(tiers)}; {self.memory_hits:,} + {self.disk_hits:,} hits ({rate})"
        wrong = f", {self.cache_wrong_entries} damaged entries" if self.cache_wrong_entries else ""
        return f"{said} saved {2 * hits:,} requests, {self.cache_saved_bytes / 1e9:,.2f} GB{wrong}"

    def lines(self) -> list[str]:
        """The ring and its readers for people."""
        lines = [self.headline]
        lines += [f"  {name:<9} {text}" for name, text in self.rows().items()]
        passes = by_pass(self.consumers)
        for group, lane in ((group, lane) for group, lanes in passes for lane in lanes):
            missed = f", {lane.on_lag}s, missed {count(lane.missed_pairs, 'pair')}" if lane.on_lag != "block" else ""
            waiting = f" ({lane.waited_lately:.0%} lately)" if lane.waited_lately else ""
            waiting += f", waiting for {lane.waiting_s:.1f} s" if lane.waiting_s else ""
            batches, held = count(lane.batches, "batch", "batches"), count(lane.held_pairs, "pair")
            lines.append(
                f"    {group} rank {lane.rank}/{lane.world_size} (pid {lane.pid}): {batches} of {lane.batch_size}, "
                f"holds {held}, waited {lane.waited_s:.1f} s{waiting}{missed}"
            )
        if self.held_up and self.held_up not in self.verdict.sentence:
            lines.append(f"    {self.held_up}")
        for group, lanes in passes:
            ranks, world, absence = {lane.rank for lane in lanes}, lanes[0].world_size, lanes[0].absence
            if away := sorted(set(range(world)) - ranks):
                why = f": {absence.sentence(lanes[0].group, world)}" if absence is not None else ""
                lines.append(f"    {group} misses rank {', '.join(map(str, away))}{why}")
        return [one_line(line) for line in lines]

"""What bounds a ring: one verdict, from the ring's words. Pure; `status`, `doctor`, log, page and metrics share it.

A ring is bound by what its readers wait for. The daemon sums up, four times a second, who waited, for whom, and how
busy the workers were meanwhile (`ringfeed.shm.counters.Lately`); here those sums become one sentence with the number
behind it, the one setting that helps, and what it would gain.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Final

from ringfeed.health.evidence import Attached, Bound, Evidence, Verdict
from ringfeed.text import one_line

WAITED: Final = 0.1
"""Readers that wait for a smaller part of the time are not held back."""

LONG_WAIT_S: Final = 3.0
"""A reader that has waited this long at a stretch is held back, whatever it did before."""

MEASURED_S: Final = 2.0
"""Before that, the sums say nothing."""

MOSTLY: Final = 0.5
LIMITED: Final = 0.3
"""Part of the waiting time in which the store limited the rate, from which that is the cause."""

BUSY: Final = 0.8
"""Workers that have pairs to decode for this part of the time cannot decode more."""

OTHERS_PART: Final = 1 / 3
"""Part of the decoded pairs that go to another ring, from which that ring is the cause."""

WINDOW_FULL: Final = 0.7
"""Part of the window that is in use, from which more requests at a time bring more."""

SPARE: Final = 0.6
BURST_FULL: Final = 0.2
"""Workers that are busy for less than this part of the time, in a ring that is full for so much of it, could fill a
larger ring between two bursts."""

LEAST_GAIN: Final = 1.1
MOST_GAIN: Final = 10.0
MOST_CONCURRENCY: Final = 4096
MOST_SLOTS_GAIN: Final = 4


_TITLES: Final = {
    Bound.NOTHING: "bound by nothing",
    Bound.STORE_LATENCY: "bound by store latency",
    Bound.STORE_LIMIT: "bound by the store's rate limit",
    Bound.STORE_DOWN: "bound by the store, which is down",
    Bound.DECODING: "bound by decoding",
    Bound.READER: "bound by a reader",
    Bound.MISSING_RANK: "bound by a missing rank",
    Bound.LATE_OBJECT: "bound by one late object",
    Bound.OTHER_RING: "bound by the other ring",
    Bound.DAEMON: "bound by the daemon",
    Bound.IDLE: "not read",
    Bound.STARTING: "not measured yet",
}


@dataclass(frozen=True, slots=True)
class _Advice:
    """The one setting that helps, as a sentence, and what `Verdict` has of it."""

    sentence: str = ""
    setting: str = ""
    suggested: int | None = None
    gain: float | None = None


_NONE: Final = _Advice()


def unreachable(failing_s: float, *, waiting: int, workers: int, next_try_s: float) -> str:
    """Return how a store fares that answers no worker, as a clause that begins with a verb.

    Args:
        failing_s: since when.
        waiting: workers that wait.
        next_try_s: until one asks again.
    """
    since = time.strftime("%H:%M", time.localtime(time.time() - failing_s))
    next_try = f"in {next_try_s:.0f} s" if next_try_s else "now"
    return f"is unreachable since {since} ({failing_s:.0f} s); {waiting} of {workers} workers wait, next try {next_try}"


def judge(evidence: Evidence) -> Verdict:
    """Say what bounds the ring."""
    for look in (_without_readers, _without_waits, _others, _store, _unmeasured, _work):
        if (found := look(evidence)) is not None:
            return found
    return _latency(evidence)


# What needs no sums.


def _without_readers(e: Evidence) -> Verdict | None:
    if e.gone:
        return _verdict(e, Bound.DAEMON, e.gone)
    if not e.readers:
        return _verdict(e, Bound.IDLE, f"no reader is attached, and {_filled(e)}")
    return None


def _without_waits(e: Evidence) -> Verdict | None:
    if e.lately.span_ns < MEASURED_S * 1e9 and not _waits_long(e):
        return _verdict(e, Bound.STARTING, "the readers, or the daemon, have just begun")
    if _waited(e) >= WAITED or _waits_long(e):
        return None
    if e.held_up and e.silent:
        return _verdict(e, Bound.READER, e.held_up)
    return _verdict(
        e,
        Bound.NOTHING,
        f"the trainers are the bottleneck: readers waited {_waited(e):.0%} of the last {_span(e)}, and {_filled(e)}",
        number=_waited(e),
        unit="of the time waited",
    )


def _others(e: Evidence) -> Verdict | None:
    """Slots that another reader keeps."""
    lately = e.lately
    held = _part(lately.held_ns, lately.waited_ns)
    if held < MOSTLY:
        return None
    missing = next((reader for reader in e.readers if reader.lane + 1 == lately.missing_lane), None)
    if missing is not None or not lately.holder_lane:
        return _missing_rank(e, missing, held)
    holder = next((reader for reader in e.readers if reader.lane + 1 == lately.holder_lane), None)
    if holder is None:
        return None  # it has just gone
    who = f"rank {holder.rank}/{holder.world_size} of group {holder.group!r} (pid {holder.pid})"
    alone = all(reader.group == holder.group for reader in e.readers)
    skip = _Advice('Attach that reader with on_lag="skip" to let the others go on without it', "on_lag")
    found = e.held_up or f"{who} is slower than the others, which wait for the slots that it keeps"
    return _verdict(
        e,
        Bound.READER,
        f"{found}; so it was for {held:.0%} of the time that readers waited",
        _NONE if alone else skip,
        number=float(holder.held_pairs),
        unit="pairs held",
    )


def _missing_rank(e: Evidence, reader: Attached | None, held: float) -> Verdict:
    if e.held_up:
        found = e.held_up
    elif reader is not None and reader.absence is not None:
        found = f"{reader.absence.sentence(reader.group, reader.world_size)}, and its slots are kept for it"
    else:
        found = "readers wait for slots that are kept for a rank that is away"
    return _verdict(
        e,
        Bound.MISSING_RANK,
        found,
        _Advice("Start that rank, or the whole job again; linger_s says how long a place is kept", "linger_s"),
        number=held,
        unit="of the waiting time",
    )


# The store's own trouble, and one object's.


def _store(e: Evidence) -> Verdict | None:
    lately = e.lately
    behind = e.ring_counts.unpublished_pairs
    if e.failing_s:
        return _verdict(e, Bound.STORE_DOWN, f"it {e.store}", number=e.failing_s, unit="s without an answer")
    # A pair that waits for its turn under a limit is late, too.
    if _part(lately.limited_ns, lately.waited_ns) >= LIMITED:
        limit_per_s = lately.limit_milli / 1000
        saved = e.ring_counts.saved_requests
        shared = f"; sharing has saved {saved:,} requests so far" if saved else ""
        return _verdict(
            e,
            Bound.STORE_LIMIT,
            f"it lets about {limit_per_s:,.0f} requests/s through, which is {limit_per_s / 2:,.0f} pairs/s{shared}",
            _Advice("Ask for a higher quota; no setting here helps"),
            number=limit_per_s,
            unit="requests/s",
        )
    if e.late_s:
        since = time.strftime("%H:%M:%S", time.localtime(time.time() - e.late_s))
        return _verdict(
            e,
            Bound.LATE_OBJECT,
            f"{e.late_id} was asked for at {since}, {e.late_s:.0f} s ago, and {behind} later pairs wait for it",
            _Advice(
                f"Set slots = {2 * e.slots} to let readers go on for longer meanwhile; a smaller attempt_s cuts such a "
                f"request earlier",
                *("slots", 2 * e.slots),
            ),
            number=e.late_s,
            unit="s since it was asked for",
        )
    return None


def _unmeasured(e: Evidence) -> Verdict | None:
    if not e.published:
        return _verdict(e, Bound.STARTING, "the first pairs are on their way")
    if e.lately.span_ns < MEASURED_S * 1e9:
        return _verdict(e, Bound.STARTING, "the readers, or the daemon, have just begun")
    return None


# What the workers do.


def _work(e: Evidence) -> Verdict | None:
    lately, counts = e.lately, e.daemon_counts
    busy, all_pairs = lately.busy_milli / 1000, lately.pairs_milli + lately.other_pairs_milli
    others = _part(lately.other_pairs_milli, all_pairs)
    if others >= OTHERS_PART:
        decoding = busy >= BUSY
        advice = _more_workers(e) if decoding else _more_requests(e)
        why = "who have pairs to decode" if decoding else "who wait for the store"
        part = busy if decoding else 1 - busy
        share = f"ring {e.other} gets {others:.0%} of the pairs of the workers, {why} {part:.0%}"
        return _verdict(e, Bound.OTHER_RING, f"{share} of the time", advice, number=others, unit="of the pairs")
    if busy < BUSY:
        return None
    rate = f"{lately.pairs_milli / 1000:,.0f} pairs/s"
    whole = f"{counts.workers} {'worker has' if counts.workers == 1 else 'workers have'} pairs to decode"
    return _verdict(
        e,
        Bound.DECODING,
        f"{whole} {busy:.0%} of the time, which gives {rate}",
        _larger_ring(e) or _more_workers(e),
        number=busy,
        unit="of the workers' time",
    )


def _latency(e: Evidence) -> Verdict:
    lately = e.lately
    requests, latency_s = lately.requests_milli / 1000, lately.fetch_ns / 1e9
    failed = _part(lately.retries_milli, lately.requests_milli)
    again = f"; {failed:.0%} of the requests fail and are sent again" if failed >= 0.02 else ""
    return _verdict(
        e,
        Bound.STORE_LATENCY,
        f"an object takes {_seconds(latency_s)}, and {lately.under_way_milli / 1000:.0f} requests at a time give "
        f"{requests:,.0f} a second, which is {lately.pairs_milli / 1000:,.0f} pairs/s{again}",
        _larger_ring(e) or _more_requests(e),
        number=latency_s,
        unit="s for an object",
    )


# The one setting.


def _more_workers(e: Evidence) -> _Advice:
    counts, cpu = e.daemon_counts, e.lately.cpu_milli / 1000
    if 0 < counts.workers < counts.cores:
        gain = counts.cores / counts.workers
        return _Advice(
            f"Set workers = {counts.cores}, one for each core, for up to {gain:.1f} times as many pairs",
            *("workers", counts.cores, gain),
        )
    if cpu < SPARE:
        return _Advice(
            f"Each worker gets {cpu:.0%} of a core, since other processes use the CPU: leave more of it to the daemon"
        )
    return _Advice(f"All {counts.cores} cores decode: smaller images in the bucket or more cores would help")


def _more_requests(e: Evidence) -> _Advice:
    store, lately = e.store_counts, e.lately
    gain = min(MOST_GAIN, 1 / max(1e-3, lately.busy_milli / 1000))
    in_use = _part(lately.under_way_milli, lately.window_milli)
    if in_use < WINDOW_FULL:
        slots = e.slots * MOST_SLOTS_GAIN
        return _Advice(
            f"Only {lately.under_way_milli / 1000:.0f} of {lately.window_milli / 1000:.0f} requests are under way, "
            f"since no more pairs "
            f"have room. Set slots = {slots} to fetch more of them ahead",
            *("slots", slots, None),
        )
    if store.window >= 0.9 * store.concurrency and store.concurrency < MOST_CONCURRENCY and gain >= LEAST_GAIN:
        wanted = min(MOST_CONCURRENCY, _rounded_up(store.concurrency * gain))
        gain = wanted / store.concurrency
        return _Advice(
            f"Set concurrency = {wanted} (now {store.concurrency})"
            f" for up to {gain:.1f} times as many pairs, by Little's law",
            *("concurrency", wanted, gain),
        )
    return _Advice(
        f"The workers have {store.window} of {store.concurrency} requests under way, as more of them brought no more: "
        f"the network or the store gives no more"
    )


def _larger_ring(e: Evidence) -> _Advice | None:
    """What helps where the workers are idle between two bursts."""
    lately = e.lately
    if lately.busy_always_milli >= 1000 * SPARE or _part(lately.full_ns, lately.span_ns) < BURST_FULL:
        return None
    slots = 2 * e.slots
    return _Advice(
        f"Readers take pairs in bursts: for {_part(lately.full_ns, lately.span_ns):.0%} of the time no slot is free, "
        f"and the workers pause. Set slots = {slots} for bursts that are twice as long",
        *("slots", slots, None),
    )


# Words.


def _verdict(  # a row of a table
    e: Evidence, by: Bound, detail: str, advice: _Advice = _NONE, *, number: float = 0.0, unit: str = ""
) -> Verdict:
    text = f"{_TITLES[by]}: {detail}" + (f". {advice.sentence}" if advice.sentence else "")
    return Verdict(by, one_line(text), _waited(e), number, unit, advice.setting, advice.suggested, advice.gain)


def _waits_long(e: Evidence) -> bool:
    return any(reader.waiting_s >= LONG_WAIT_S for reader in e.readers)


def _waited(e: Evidence) -> float:
    return _part(e.lately.waited_ns, e.lately.span_ns)


def _span(e: Evidence) -> str:
    return f"{e.lately.span_ns / 1e9:.0f} s"


def _filled(e: Evidence) -> str:
    return f"{e.filled} of {e.slots} slots are filled"


def _part(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{1000 * seconds:.0f} ms"


def _rounded_up(number: float) -> int:
    """Return a number that people like, not below this one."""
    step = int(10 ** max(0, math.floor(math.log10(number)) - 1))
    return int(math.ceil(number / step) * step)

"""One verdict a ring: from the words alone, and right in each situation that operators meet."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringfeed.health.evidence import Bound, Evidence
from ringfeed.health.verdict import MOST_GAIN, judge
from ringfeed.shm.counters import DaemonCounts, Lately, RingCounts, StoreCounts
from ringfeed.shm.missing import Absence

SECOND = 10**9


@dataclass(frozen=True)
class Reader:
    lane: int = 0
    group: str = "job"
    rank: int = 0
    world_size: int = 1
    pid: int = 4711
    held_pairs: int = 8
    waiting_s: float = 0.0
    absence: Absence | None = None


HUNGRY = Lately(
    span_ns=10 * SECOND,
    waited_ns=9 * SECOND,
    busy_milli=200,
    busy_always_milli=200,
    cpu_milli=200,
    fetch_ns=300_000_000,
    requests_milli=106_000,
    pairs_milli=53_000,
    under_way_milli=32_000,
    window_milli=32_000,
)
"""A reader waits for most of the time, and the workers for the store."""


def evidence(lately: Lately = HUNGRY, **change: object) -> Evidence:
    facts = {
        "slots": 64,
        "published": 1000,
        "readers": [Reader()],
        "ring_counts": RingCounts(decoded_pairs=1000),
        "daemon_counts": DaemonCounts(workers=2, cores=8),
        "store_counts": StoreCounts(window=32, concurrency=32),
    }
    return Evidence(lately=lately, **facts | change)


def lately(**change: int) -> Lately:
    return replace(HUNGRY, **change)


SITUATIONS = {
    "no reader": (evidence(readers=[]), Bound.IDLE, "no reader is attached"),
    "a dead daemon": (evidence(gone="its process (pid 7) died"), Bound.DAEMON, "(pid 7) died"),
    "just begun": (evidence(lately(span_ns=SECOND, waited_ns=SECOND)), Bound.STARTING, "just begun"),
    "no pair yet": (evidence(published=0), Bound.STARTING, "first pairs"),
    "slow trainers": (
        evidence(lately(waited_ns=SECOND // 2), filled=60),
        Bound.NOTHING,
        "the trainers are the bottleneck: readers waited 5% of the last 10 s, and 60 of 64 slots are filled",
    ),
    "latency": (
        evidence(),
        Bound.STORE_LATENCY,
        "an object takes 300 ms, and 32 requests at a time give 106 a second, which is 53 pairs/s. Set concurrency =",
    ),
    "latency and failures": (evidence(lately(retries_milli=21_200)), Bound.STORE_LATENCY, "20% of the requests fail"),
    "a small ring": (
        evidence(lately(under_way_milli=8_000)),
        Bound.STORE_LATENCY,
        "Only 8 of 32 requests are under way, since no more pairs have room. Set slots = 256",
    ),
    "more requests do not help": (
        evidence(store_counts=StoreCounts(window=40, concurrency=1024)),
        Bound.STORE_LATENCY,
        "the network or the store gives no more",
    ),
    "a limit": (
        evidence(lately(limited_ns=8 * SECOND, limit_milli=50_000)),
        Bound.STORE_LIMIT,
        "it lets about 50 requests/s through, which is 25 pairs/s",
    ),
    "a limit that makes a pair late": (
        evidence(lately(limited_ns=8 * SECOND, limit_milli=50_000), late_s=3.0, late_id="images/7"),
        Bound.STORE_LIMIT,
        "it lets about 50 requests/s through",
    ),
    "a store that is down": (
        evidence(failing_s=64.0, store="is unreachable since 12:03 (64 s)"),
        Bound.STORE_DOWN,
        "down: it is unreachable since 12:03 (64 s)",
    ),
    "decoding": (
        evidence(lately(busy_milli=970, busy_always_milli=970, cpu_milli=950)),
        Bound.DECODING,
        "97% of the time, which gives 53 pairs/s. Set workers = 8, one for each core, for up to 4.0 times as many",
    ),
    "decoding on all cores": (
        evidence(
            lately(busy_milli=970, busy_always_milli=970, cpu_milli=950),
            daemon_counts=DaemonCounts(workers=8, cores=8),
        ),
        Bound.DECODING,
        "All 8 cores decode",
    ),
    "decoding beside others": (
        evidence(
            lately(busy_milli=970, busy_always_milli=970, cpu_milli=300),
            daemon_counts=DaemonCounts(workers=8, cores=8),
        ),
        Bound.DECODING,
        "Each worker gets 30% of a core, since other processes use the CPU",
    ),
    "bursts": (
        evidence(lately(busy_milli=970, busy_always_milli=300, full_ns=6 * SECOND)),
        Bound.DECODING,
        "Readers take pairs in bursts: for 60% of the time no slot is free, and the workers pause. Set slots = 128",
    ),
    "the other ring": (
        evidence(lately(busy_milli=990, other_pairs_milli=60_000), other="test"),
        Bound.OTHER_RING,
        "ring test gets 53% of the pairs of the workers, who have pairs to decode 99% of the time. Set workers = 8",
    ),
    "a small share of the other ring": (
        evidence(lately(busy_milli=990, busy_always_milli=990, other_pairs_milli=9_000), other="test"),
        Bound.DECODING,
        "2 workers have pairs to decode 99%",
    ),
    "a slower reader": (
        evidence(lately(held_ns=8 * SECOND, holder_lane=2), readers=[Reader(), Reader(1, "eval", pid=7)]),
        Bound.READER,
        "rank 0/1 of group 'eval' (pid 7) is slower than the others",
    ),
    "a stopped reader": (
        evidence(
            lately(held_ns=8 * SECOND, holder_lane=2),
            readers=[Reader(), Reader(1, "eval", pid=7)],
            held_up="rank 0/1 of group 'eval' (pid 7) holds up the ring",
        ),
        Bound.READER,
        "(pid 7) holds up the ring; so it was for 89% of the time that readers waited",
    ),
    "a rank that its own group waits for": (
        evidence(lately(held_ns=8 * SECOND, holder_lane=2), readers=[Reader(), Reader(1, pid=7)]),
        Bound.READER,
        "for 89% of the time that readers waited",
    ),
    "a reader that never says that it reads": (
        evidence(lately(waited_ns=0), held_up="rank 0/1 of group 'c' has taken no batch", silent=True),
        Bound.READER,
        "has taken no batch",
    ),
    "a missing rank": (
        evidence(
            lately(held_ns=8 * SECOND, missing_lane=1),
            readers=[Reader(world_size=2, absence=Absence(1, 1, False, 30.0))],
        ),
        Bound.MISSING_RANK,
        "its slots are kept for it",
    ),
    "a kept place": (
        evidence(lately(held_ns=8 * SECOND)),
        Bound.MISSING_RANK,
        "readers wait for slots that are kept for a rank that is away",
    ),
    "a late object": (
        evidence(late_s=12.0, late_id="images/7", ring_counts=RingCounts(unpublished_pairs=63)),
        Bound.LATE_OBJECT,
        "images/7 was asked for at",
    ),
    "an outage with pairs behind": (
        evidence(late_s=12.0, late_id="x", failing_s=11.0, ring_counts=RingCounts(unpublished_pairs=20)),
        Bound.STORE_DOWN,
        "which is down",
    ),
    "a wait that has just become long": (
        evidence(lately(waited_ns=0), readers=[Reader(waiting_s=4.0)]),
        Bound.STORE_LATENCY,
        "an object takes",
    ),
}


@pytest.mark.parametrize("situation", SITUATIONS)
def test_each_situation_is_named_with_its_number(situation):
    facts, by, words = SITUATIONS[situation]
    verdict = judge(facts)
    assert (verdict.by, verdict.sentence) == (by, verdict.sentence)
    assert words in verdict.sentence


def test_the_advice_is_readable_by_programs():
    decoding = judge(SITUATIONS["decoding"][0])
    assert (decoding.setting, decoding.suggested, decoding.gain) == ("workers", 8, 4.0)
    latency = judge(SITUATIONS["latency"][0])
    assert (latency.setting, latency.suggested, latency.gain) == ("concurrency", 160, 5.0)
    assert latency.number == pytest.approx(0.3)


def test_only_another_group_is_told_to_skip():
    assert "on_lag" in judge(SITUATIONS["a slower reader"][0]).sentence
    assert "on_lag" not in judge(SITUATIONS["a rank that its own group waits for"][0]).sentence


def test_every_verdict_has_a_situation():
    assert {by for _, by, _ in SITUATIONS.values()} == set(Bound)


NUMBERS = st.integers(0, 2**63)


@given(
    sums=st.builds(Lately, **dict.fromkeys(Lately.__dataclass_fields__, NUMBERS)),
    ring=st.builds(RingCounts, **dict.fromkeys(RingCounts.__dataclass_fields__, NUMBERS)),
    daemon=st.builds(DaemonCounts, **dict.fromkeys(DaemonCounts.__dataclass_fields__, NUMBERS)),
    store=st.builds(StoreCounts, **dict.fromkeys(StoreCounts.__dataclass_fields__, NUMBERS)),
    text=st.text(max_size=8),
    seconds=st.floats(0, 1e6),
    readers=st.lists(st.builds(Reader, lane=st.integers(0, 5), group=st.text(max_size=5)), max_size=3),
)
def test_any_words_give_one_line(sums, ring, daemon, store, text, seconds, readers):
    verdict = judge(
        Evidence(
            slots=64,
            published=ring.decoded_pairs,
            failing_s=seconds,
            late_s=seconds,
            late_id=text,
            other=text,
            readers=readers,
            ring_counts=ring,
            daemon_counts=daemon,
            store_counts=store,
            lately=sums,
        )
    )
    assert verdict.sentence.isprintable()
    assert verdict.gain is None or verdict.gain >= 1
    assert verdict.setting != "concurrency" or (verdict.gain or 0) <= 1.1 * MOST_GAIN

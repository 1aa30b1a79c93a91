"""What happened lately, who took and waited how much, and when the log says so: pure, with time as an argument."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringfeed.health.evidence import Bound, Verdict
from ringfeed.shm.progress import Standing
from ringfeedd.reporting.lately import SPAN_S, LatePair, Look, Recent
from ringfeedd.reporting.ledger import MOST_READERS, Ledger
from ringfeedd.reporting.verdict_log import AGAIN_AFTER_S, WAITED_S, VerdictLog
from ringfeedd.system.histogram import Histogram, Times
from ringfeedd.system.work import Work

A, B = (0, 11), (1, 12)


def busy(seconds: float) -> Work:
    return Work(busy_ns=int(1e9 * seconds))


def looks(count: int, *, waits: float, busy_part: float = 0.0, **grows: float) -> list[tuple[float, Look]]:
    """A look each quarter of a second, at which a reader has waited, and workers were busy, for a part of the time."""
    found = []
    for number in range(count):
        now = 0.25 * number
        sums = {name: rate * now for name, rate in grows.items()}
        found.append((now, Look(waited_s={A: waits * now}, workers=2, work=busy(busy_part * now), **sums)))
    return found


def recent(found: list[tuple[float, Look]]) -> Recent:
    sums = Recent()
    for now, look in found:
        sums.add(now, look)
    return sums


def test_the_sums_are_of_the_latest_seconds():
    sums, _ = recent(looks(200, waits=0.4, busy_part=1.0, requests=50, pairs=25)).sums()
    assert sums.span_ns == pytest.approx(SPAN_S * 1e9, rel=0.05)
    assert sums.waited_ns / sums.span_ns == pytest.approx(0.4)
    assert sums.busy_milli == 500  # one of two workers
    assert (sums.requests_milli, sums.pairs_milli) == (50_000, 25_000)


def test_a_reader_that_comes_begins_new_sums():
    before = [(0.25 * n, Look(pairs=1000 * n)) for n in range(20)]
    came = [(5 + now, look) for now, look in looks(9, waits=1.0)]
    sums, _ = recent(before + came).sums()
    assert sums.span_ns == sums.waited_ns == 2e9
    assert sums.pairs_milli == 0


def test_work_counts_by_the_waiting_beside_it():
    """In a burst the workers are busy while the reader waits, and idle while it does not."""
    found, waited_s, busy_s = [], 0.0, 0.0
    for number in range(40):
        burst = number % 4 == 0
        waited_s += 0.25 * burst
        busy_s += 0.25 * 2 * burst
        found.append((0.25 * number, Look(waited_s={A: waited_s}, workers=2, work=busy(busy_s))))
    sums, _ = recent(found).sums()
    assert sums.busy_milli == 1000
    assert sums.busy_always_milli == pytest.approx(250, abs=30)


def test_the_most_frequent_holder_is_named():
    found = looks(20, waits=1.0)
    held = [Look(waited_s=look.waited_s, held=n > 4, holder=3 if n % 5 else 2) for n, (_, look) in enumerate(found)]
    sums, _ = recent([(now, look) for (now, _), look in zip(found, held, strict=True)]).sums()
    assert sums.holder_lane == 3
    assert sums.missing_lane == 0
    assert 0 < sums.held_ns < sums.waited_ns


def test_each_reader_has_its_own_share():
    sums = Recent()
    for number in range(20):
        sums.add(0.25 * number, Look(waited_s={A: 0.25 * number, B: 0.025 * number}))
    assert sums.shares() == {A: pytest.approx(1.0), B: pytest.approx(0.1)}


def test_waits_of_skipping_readers_do_not_count():
    sums = Recent()
    for number in range(20):
        waits = {A: 0.25 * number, B: 0.025 * number}
        sums.add(0.25 * number, Look(waited_s=waits, aside=frozenset({A})))
    found, _ = sums.sums()
    assert found.waited_ns / found.span_ns == pytest.approx(0.1)


def test_a_daemon_that_stood_still_saw_nothing():
    sums, _ = recent([*looks(4, waits=1.0), (100.0, Look(waited_s={A: 100.0}))]).sums()
    assert sums.span_ns == pytest.approx(0.75e9)


def test_the_other_ring_is_the_busiest():
    found = [(0.25 * n, Look(waited_s={A: 0.1}, others={"a": 5 + n, "b": 1000, "c": 2 * n})) for n in range(5)]
    sums, other = recent(found).sums()
    assert (other, sums.other_pairs_milli) == ("c", 8000)


@given(
    st.lists(
        st.builds(
            Look,
            waited_s=st.dictionaries(st.tuples(st.integers(0, 2), st.integers(1, 2)), st.floats(0, 1e6), max_size=3),
            held=st.booleans(),
            workers=st.integers(0, 3),
            work=st.builds(
                Work,
                busy_ns=st.integers(0, 10**15),
                fetched=st.builds(Times, st.just((1.0,)), st.tuples(st.integers(0, 1000)), st.integers(0, 10**15)),
            ),
        ),
        max_size=30,
    ),
    st.floats(0.001, 3.0),
)
def test_parts_are_never_more_than_the_whole(found, step):
    sums, _ = recent([(step * number, look) for number, look in enumerate(found)]).sums()
    assert 0 <= sums.held_ns <= sums.waited_ns + 1 <= sums.span_ns + 2
    assert 0 <= sums.busy_milli <= 1000


# One late object.


def late(pair: LatePair, now: float, *, published: int = 10, behind: int = 40, room: int = 50) -> float | None:
    return pair.look(now, head=80, published=published, behind=behind, room=room, in_flight=True)


def test_a_pair_is_late_once_the_ring_stands():
    pair = LatePair()
    assert [late(pair, now) for now in (1.0, 2.0, 3.0)] == [None, None, 1.0]
    assert late(pair, 4.0, published=11) is None


def test_no_pair_is_late_among_few_others():
    pair = LatePair()
    assert [late(pair, now, behind=3) for now in (1.0, 5.0, 9.0)] == [None] * 3
    assert late(pair, 10.0, behind=1, room=2) is not None  # in a small ring


# What readers took.


def standing(group: str = "job", rank: int = 0, *, taken: int = 0, world_size: int = 1) -> Standing:
    return Standing(group, rank, world_size, 8, 4711, first=0, taken=taken, released=0)


def test_pairs_are_delivered_once_for_each_group():
    ledger = Ledger()
    for batches in range(5):
        for lane, group in enumerate(("a", "b")):
            ledger.note((lane, 1), standing(group, taken=8 * batches), published=10**6, batches=batches, waited_s=0.0)
    assert ledger.delivered_pairs == 64


def test_left_out_pairs_are_not_delivered():
    ledger = Ledger()
    ledger.note(A, standing(taken=1000), published=10**6, batches=2, waited_s=0.0)
    assert ledger.delivered_pairs == 16
    ledger.note(B, standing(taken=20), published=10**6, batches=3, waited_s=0.0)
    assert ledger.delivered_pairs == 36


def test_waiting_adds_up_over_several_readers():
    ledger = Ledger()
    for nonce in range(3):
        ledger.note((0, nonce), standing("anonymous-5-1"), published=10**6, batches=0, waited_s=2.0)
        ledger.gone(0)
    ledger.note((1, 9), standing("anonymous-6-1"), published=10**6, batches=0, waited_s=1.0)
    assert ledger.waited == {("anonymous", 0): 7.0}


def test_any_number_of_groups_leaves_the_ledger_small():
    ledger = Ledger()
    for number in range(2 * MOST_READERS):
        ledger.note((0, number), standing(f"group-{number}"), published=10**6, batches=0, waited_s=1.0)
        ledger.gone(0)
    assert len(ledger.waited) == MOST_READERS


# The log.


def verdict(by: Bound) -> Verdict:
    return Verdict(by, f"bound by {by}")


def test_the_log_names_a_cause_after_long_waits():
    log = VerdictLog()
    said = [log.look(verdict(Bound.DECODING), now, waited_s=0.9 * now) for now in range(30)]
    assert [now for now, sentence in enumerate(said) if sentence] == [12]
    assert said[12] == "bound by decoding"


def test_the_log_says_when_waiting_is_over():
    log = VerdictLog()
    for now in range(20):
        log.look(verdict(Bound.DECODING), now, waited_s=float(now))
    said = [log.look(verdict(Bound.NOTHING), now, waited_s=20.0) for now in range(20, 50)]
    assert [sentence for sentence in said if sentence] == ["bound by nothing"]


def test_alternating_causes_do_not_fill_the_log():
    log = VerdictLog()
    causes = (Bound.DECODING, Bound.STORE_LATENCY)
    said = [log.look(verdict(causes[now // 20 % 2]), now, waited_s=float(now)) for now in range(int(AGAIN_AFTER_S))]
    assert len([sentence for sentence in said if sentence]) == 2
    assert WAITED_S < 20


# Histograms.


def test_a_histogram_counts_each_duration_in_its_bucket():
    histogram = Histogram((0.1, 1.0))
    for seconds in (0.05, 0.1, 0.5, 3.0):
        histogram.add(seconds)
    assert histogram.times.buckets == (2, 1, 1)
    assert histogram.times.total_ns == pytest.approx(3.65e9)
    assert (histogram.times + histogram.times).count == 8

"""One worker's window and pace, and what all workers' reports add up to: decisions, with time as an argument."""

from __future__ import annotations

import math
import random
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringfeedd.fetch.health import RequestCounts, StoreMonitor, StoreReport, reason_of
from ringfeedd.fetch.pace import LEAST_PER_S, Pace
from ringfeedd.fetch.starvation import StarvationTimer
from ringfeedd.fetch.window import FIRST_REQUESTS, MOST_WAIT_S, Window

NOW = 100.0


def window_of(first=64, most=256):
    return Window(first, most, random.Random(1))


def test_a_window_doubles_with_each_round_trip():
    """It begins small."""
    window, sizes = window_of(), []
    for _ in range(5):
        for _ in range(int(window.size)):
            window.answered(NOW, NOW - 0.1)
        sizes.append(window.size)
    assert sizes == [2 * FIRST_REQUESTS, 4 * FIRST_REQUESTS, 8 * FIRST_REQUESTS, 64, 64]
    assert window.wait_s(NOW, 63) == 0.0
    assert window.wait_s(NOW, 64) == math.inf


def fail(window, now, times=8, **options):
    for _ in range(times):
        window.sent(now)
        window.failed(now, now, **options)


def test_a_window_without_answers_probes_ever_more_slowly():
    """One request at a time."""
    window, now, waits = window_of(), NOW, []
    fail(window, now)
    assert not window.down
    fail(window, now + 1, 1)
    assert (window.down, window.down_since) == (True, NOW)
    for _ in range(12):
        wait_s = window.wait_s(now, 0)
        waits.append(wait_s)
        now += wait_s
        assert window.wait_s(now, 0) == 0.0
        window.sent(now)
        assert window.wait_s(now, 0) == math.inf
        window.failed(now, now)
    assert waits[-1] <= MOST_WAIT_S
    assert max(waits) > MOST_WAIT_S / 2
    assert waits[1] < 1.0
    window.sent(now)
    window.answered(now + 0.1, now)
    assert not window.down
    assert window.size == 2.0


def test_a_down_window_obeys_the_stores_wait():
    window = window_of()
    fail(window, NOW)
    fail(window, NOW + 1, 1, retry_after_s=40.0)
    assert 39.0 <= window.wait_s(NOW + 1, 0) <= 41.0


def test_failures_between_answers_are_no_outage():
    window, now = window_of(), NOW
    for _ in range(1000):
        fail(window, now, 7)
        assert not window.down
        window.answered(now, now)
        now += 0.5


def test_only_later_requests_tell_the_store_answers():
    """A request that was sent after the failure."""
    window = window_of()
    window.answered(NOW + 5, NOW)
    assert not window.answered_since(NOW + 1)
    window.answered(NOW + 6, NOW + 2)
    assert window.answered_since(NOW + 1)


def test_an_outage_like_overload_leaves_no_pace():
    window = window_of()
    for number in range(64):
        window.sent(NOW + number / 64)
        window.failed(NOW + number / 64, NOW + number / 64, overloaded=True)
    window.failed(NOW + 2, NOW + 2, overloaded=True)
    assert window.down
    assert window.pace.per_s is None


@given(st.lists(st.tuples(st.booleans(), st.floats(0.0, 5.0)), max_size=300))
def test_a_pace_stays_finite_and_never_ends_sending(answers):
    pace, now = Pace(random.Random(1)), NOW
    for limited, passed_s in answers:
        now += passed_s
        if pace.wait_s(now):
            continue
        pace.sent(now)
        if limited:
            pace.limited(now, now - 0.01)
        else:
            pace.good(now, now - 0.01)
        assert pace.per_s is None or LEAST_PER_S <= pace.per_s < 1e7
        assert 0.0 <= pace.wait_s(now) <= 1.5 / LEAST_PER_S + 1e-6


def test_an_unneeded_pace_is_forgotten():
    pace = Pace(random.Random(1))
    for number in range(20):
        pace.sent(NOW + number / 20)
        pace.limited(NOW + number / 20, NOW + number / 20)
    pace.look(NOW + 200)
    assert pace.per_s is not None
    pace.look(NOW + 302)
    assert pace.per_s is None


def test_a_hold_for_all_needs_nearly_all_waiting():
    few, all_of_them = window_of(), window_of()
    for window, times in ((few, 30), (all_of_them, 2)):
        for _ in range(times):
            window.sent(NOW)
            window.answered(NOW, NOW)
    for window in (few, all_of_them):
        for _ in range(10):
            window.sent(NOW)
            window.limited(NOW, NOW, 30.0)
    assert few.wait_s(NOW, 0) < 5
    assert 30 <= all_of_them.wait_s(NOW, 0) <= 33.1


def answer(pace, part, seconds, now, rng):
    """As many requests as the pace lets through, a part of which is refused; `part` may depend on the rate."""
    end, sent = now + seconds, deque([now], maxlen=50)
    while now < end:
        now += max(0.002, pace.wait_s(now))
        pace.sent(now)
        sent.append(now)
        refused = rng.random() < part(len(sent) / max(0.01, now - sent[0]))
        (pace.limited if refused else pace.good)(now, now)
    return now


@pytest.mark.parametrize("part", [0.05, 0.15, 0.3, 0.6])
def test_a_constant_part_of_refusals_is_tolerated(part):
    """One that the rate does not change."""
    pace, rng = Pace(random.Random(1)), random.Random(3)
    now = answer(pace, lambda _per_s: part, 20.0, NOW, rng)
    assert (pace.per_s, pace.confirmed) == (None, False)
    assert part <= 0.1 or 0.5 * part <= pace.random <= 1.5 * part
    answer(pace, lambda _per_s: part, 20.0, now, rng)
    assert pace.per_s is None


def test_refusals_that_rise_with_the_rate_are_limits():
    pace = Pace(random.Random(1))
    now = answer(pace, lambda per_s: max(0.0, 1 - 100 / per_s), 60.0, NOW, random.Random(3))
    assert pace.confirmed
    assert 50 <= pace.per_s <= 130
    assert pace.bounds(now)


def test_a_cut_without_demand_is_in_proportion():
    """A worker that sends a tenth of its pace learns nothing of what the store lets through."""
    pace = Pace(random.Random(1))
    now = answer(pace, lambda per_s: max(0.0, 1 - 100 / per_s), 60.0, NOW, random.Random(3))
    before = pace.per_s
    for number in range(20):
        now += 10 / before
        pace.sent(now)
        pace.good(now, now) if number % 3 else pace.limited(now, now)
        if pace.per_s < before:
            break
    assert 0.4 * before <= pace.per_s < before


# -- what workers report


def down(since, answered_at=None):
    return StoreReport(since, since + 8, answered_at, "connect")


def test_one_silent_worker_is_no_outage():
    """While others have answers."""
    monitor = StoreMonitor()
    monitor.report(0, down(50.0, 49.0), 50.5)
    monitor.report(1, StoreReport(answered_at=51.0), 51.0)
    monitor.report(0, down(50.0, 49.0), 52.0)
    health = monitor.statistics()
    assert (health.waiting_workers, health.failing_since, health.outages) == (1, None, 0)
    assert monitor.news(60.0) is None


@pytest.mark.parametrize(
    ("cause", "wanted", "at", "down"),
    [
        ("timeout", 1, 65.0, False),
        ("slow", 4, 65.0, False),
        ("slow", 5, 65.0, True),
        ("timeout", 1, 110.5, True),
        ("connect", 1, 65.0, True),
    ],
)
def test_few_late_objects_are_no_outage(cause, wanted, at, down):
    """They may be late by themselves, as the verdict says then; not where nothing can be asked, or for a minute."""
    monitor = StoreMonitor()
    monitor.report(0, StoreReport(50.0, 58.0, 49.0, cause, wanted=wanted), at)
    monitor.report(1, StoreReport(answered_at=49.5), at)
    assert (monitor.news(at) is not None) == down == (monitor.statistics().outages == 1)


def test_an_outage_is_reported_once_until_answered():
    monitor = StoreMonitor()
    for worker in (0, 1):
        monitor.report(worker, down(50.0 + worker, 49.0), 52.0)
    sentence = monitor.news(52.0)
    assert sentence.startswith("the store is unreachable since ")
    assert "(no connection); next try in 6 s" in sentence
    for worker in (0, 1):
        monitor.forget(worker)
    monitor.report(0, StoreReport(), 60.0)
    assert monitor.news(60.0) is None
    assert monitor.statistics().failing_since == 50.0
    monitor.report(0, StoreReport(answered_at=70.0), 71.0)
    assert monitor.news(71.0) == "the store answers again, after 20 s"
    assert (monitor.news(72.0), monitor.statistics().outages) == (None, 1)


def test_counts_outlive_the_workers_that_counted():
    monitor = StoreMonitor()
    monitor.report(0, StoreReport(counts=RequestCounts(7, limited=2, second=1)), 1.0)
    monitor.forget(0)
    monitor.report(0, StoreReport(counts=RequestCounts(5, second_won=1)), 2.0)
    assert monitor.statistics().counts == RequestCounts(12, 2, 1, 1)


@pytest.mark.parametrize(
    ("cause", "reason"), [("connect", "no connection"), ("http_503", "it answers 503"), ("x", "x")]
)
def test_causes_have_words(cause, reason):
    assert reason_of(cause) == reason


def test_a_starvation_timer_counts_between_two_looks():
    timer = StarvationTimer()
    timer.begin(11.0)
    assert timer.look(12.0) == 1.0
    timer.end(13.0)
    assert timer.look(16.0) == 1.0
    assert timer.look(18.0) == 0.0

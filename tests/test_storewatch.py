"""What the workers together make of the store, and how it is told."""

from __future__ import annotations

import pytest

from ringfeed.layout import State
from ringfeedd.circuit import CircuitState
from ringfeedd.retrycauses import retry_words
from ringfeedd.storewatch import StoreWatch
from ringfeedd.traffic import TrafficReport

WELL = TrafficReport(CircuitState.CLOSED, answered_at=90.0, requests=10)


def waiting(since=100.0, probe_at=142.0, **more):
    counts = {"answered_at": 90.0, "cause": "http_503", "outages": 1, **more}
    return TrafficReport(CircuitState.OPEN, failing_since=since, next_probe_at=probe_at, **counts)


def test_an_outage_is_told_once_and_its_end_once_however_many_workers_meet_it():
    watch = StoreWatch()
    for worker in range(3):
        watch.hear(worker, WELL)
    assert watch.news(99.0) is None
    watch.hear(1, waiting(since=100.0, probe_at=142.0))
    watch.hear(2, waiting(since=104.0, probe_at=150.0))
    assert watch.news(134.0) == (
        "the store has not answered for 34 s (http_503); 2 of 3 workers wait, next try in 8.0 s. "
        "No pair is lost: all go on by themselves when it is back"
    )
    watch.hear(0, waiting())
    assert watch.news(135.0) is None
    for worker in range(2):
        watch.hear(worker, TrafficReport(CircuitState.CLOSED, answered_at=160.0 + worker, outages=1))
        assert watch.news(162.0) is None
    watch.hear(2, TrafficReport(CircuitState.HALF_OPEN, answered_at=163.0, failing_since=100.0))
    assert watch.news(163.0) is None
    watch.hear(2, TrafficReport(CircuitState.CLOSED, answered_at=164.0))
    assert watch.news(170.0) == "the store answers again, after 64 s"
    assert watch.news(171.0) is None


def test_a_worker_that_dies_while_it_waits_does_not_bring_the_store_back():
    watch = StoreWatch()
    watch.hear(0, waiting())
    assert watch.news(110.0)
    watch.forget(0)
    watch.hear(0, TrafficReport())
    assert watch.news(111.0) is None
    watch.hear(0, TrafficReport(answered_at=120.0))
    assert watch.news(121.0) == "the store answers again, after 20 s"


def test_counts_outlive_the_workers_and_moments_do_not():
    watch = StoreWatch()
    watch.hear(0, waiting(requests=7, probes=3, hedges=2, hedges_won=1))
    watch.forget(0)
    watch.hear(0, TrafficReport(requests=5, hedges=1))
    health = watch.statistics()
    assert (health.requests, health.probes, health.hedges, health.hedges_won, health.outages) == (12, 3, 3, 1, 1)
    assert (health.workers, health.waiting_workers, health.failing_since, health.next_probe_at) == (1, 0, None, None)


@pytest.mark.parametrize(
    ("cause", "word"),
    [
        ("timeout", State.RETRIES_TIMEOUT),
        ("connect", State.RETRIES_CONNECTION),
        ("crc32c", State.RETRIES_BODY),
        ("http_429", State.RETRIES_429),
        ("http_503", State.RETRIES_5XX),
        ("http_408", State.RETRIES_OTHER),
        ("io", State.RETRIES_OTHER),
    ],
)
def test_every_retry_is_in_one_word_by_its_cause(cause, word):
    words = retry_words({cause: 3, "reset": 2})
    assert words[word] == (5 if word == State.RETRIES_CONNECTION else 3)
    assert sum(words.values()) == 5
    assert len(retry_words({})) == len(words) == 6

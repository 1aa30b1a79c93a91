"""Workers and their store in virtual time: rate limits, stragglers, faults, outages. What one window each comes to."""

from __future__ import annotations

import random
import re

import pytest
from store_sim import Limit, Sim, failure

from ringfeedd.fetch.health import StoreMonitor
from ringfeedd.fetch.policy import FetchPolicy

START = 1000.0
KINDS = ["429", "500", "502", "503", "504", "408"]
CAUSES = [*(f"http_{status}" for status in KINDS), "reset", "reset", "truncated", "size", "redirect"]


def outcomes(sim, since, until):
    store = sim.store
    good, limited = (store.sum(kind, START + since, START + until) for kind in ("ok", "http_429"))
    return good / (until - since), good / max(1, good + limited)


def states(sim):
    """Whether workers see the store down, and whether limited."""
    reports = [worker.client.report() for worker in sim.workers]
    return {(report.down, report.pace > 0) for report in reports}


QUICK = [(50, 2, 0.05), (50, 32, 0.05), (500, 8, 0.3)]
ALL = [
    (per_s, workers, latency_s) for per_s in (50, 500) for workers in (1, 2, 8, 32) for latency_s in (0.003, 0.05, 0.3)
]


@pytest.mark.parametrize(
    ("per_s", "workers", "latency_s"),
    [pytest.param(*one, marks=() if one in QUICK else pytest.mark.slow) for one in ALL],
)
def test_workers_converge_to_a_limit_of_the_rate(per_s, workers, latency_s):
    sim = Sim(workers=workers, latency_s=lambda _rng: latency_s)
    sim.store.limit = Limit(sim.clock, per_s, burst=per_s / 5)
    sim.run(150)
    rate, good = outcomes(sim, 90, 150)
    assert rate >= 0.9 * per_s
    assert good >= 0.9
    assert not sim.failed


@pytest.mark.parametrize("workers", [2, 8])
def test_unequal_shares_of_a_limit_stall_nothing(workers):
    """Also where one of two workers has nearly all of it: no ten seconds of minutes bring much less."""
    for seed in range(4):
        sim = Sim(workers=workers, latency_s=lambda _rng: 0.05, seed=seed)
        sim.store.limit = Limit(sim.clock, 50, burst=10)
        sim.run(200)
        rates = [outcomes(sim, since, since + 10)[0] for since in range(40, 200, 10)]
        assert min(rates) >= 0.8 * 50, seed
        assert not sim.failed


def test_a_limit_in_windows_of_seconds_is_kept():
    sim = Sim(workers=2, latency_s=lambda _rng: 0.01)
    counted = {}

    def allows():
        second = int(sim.clock.now)
        counted[second] = counted.get(second, 0) + 1
        return counted[second] <= 50

    sim.store.limit = sim.store.limit or Limit(sim.clock, 50)
    sim.store.limit.allows = allows
    sim.run(120)
    rate, good = outcomes(sim, 60, 120)
    assert rate >= 45
    assert good >= 0.9


def test_falling_and_lifted_limits_are_followed():
    sim = Sim(workers=2, latency_s=lambda _rng: 0.1, first=25, most=25)
    sim.store.limit = Limit(sim.clock, 500, burst=100)
    sim.run(60)
    sim.store.limit = Limit(sim.clock, 50, burst=10)
    sim.run(90)
    rate, good = outcomes(sim, 110, 150)
    assert rate >= 45
    assert good >= 0.9
    sim.store.limit = None
    sim.run(90)
    assert outcomes(sim, 200, 240)[0] >= 450


def at_random(causes, part, *, first=None):
    """Requests that fail whatever the rate; only the `first` so many for each object."""
    rng = random.Random(5)

    def fault(_now, _name, number):
        failing = [failure(cause) for cause in causes if rng.random() < part]
        return failing[0] if failing and (first is None or number < first) else None

    return fault


@pytest.mark.parametrize(
    ("causes", "part", "first", "least"),
    [
        (CAUSES, 0.05, 3, 0.5),
        (CAUSES, 0.05, None, 0.4),
        (["http_429"], 0.15, None, 0.8),
        (["http_429"], 0.5, None, 0.4),
        pytest.param(["http_429"], 0.01, None, 0.8, marks=pytest.mark.slow),
        pytest.param(["http_429"], 0.05, None, 0.8, marks=pytest.mark.slow),
        pytest.param(["http_503"], 0.05, None, 0.8, marks=pytest.mark.slow),
        pytest.param(["http_503"], 0.3, None, 0.7, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("slots", [96 + 256, 512 + 256])
def test_random_faults_cost_only_their_repeats(causes, part, first, least, slots):
    """At least half of the fault-free rate while four requests of ten fail; next to all of it for fewer."""
    server = {"latency_s": lambda rng: rng.expovariate(1 / 0.003), "capacity": 1700.0, "slots": slots}
    well, sick = Sim(**server), Sim(**server, fault=at_random(causes, part, first=first))
    for sim in (well, sick):
        sim.run(20)
    assert sick.rate(15) >= least * well.rate(15)
    assert not sick.failed
    assert sum(sick.store.requests.values()) <= 2.2 * 2 * sick.published + 1000
    assert states(sick) == {(False, False)}
    assert sick.longest_pause_s(START + 5) < (3 if first else 6)  # six failures in a row of one object take so long


@pytest.mark.parametrize("part", [0.05, 0.1])
def test_a_few_random_failures_are_no_limit(part):
    few = {"latency_s": lambda _rng: 0.1, "first": 4, "most": 4}
    well, sick = Sim(**few), Sim(**few, fault=at_random(["http_429"], part))
    for sim in (well, sick):
        sim.run(60)
    assert sick.rate(20) >= 0.6 * well.rate(20)
    assert states(sick) == {(False, False)}


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("slots", [96 + 64, 512 + 64])
def test_stragglers_cost_less_than_a_third(workers, slots):
    """Of what the latency allows."""

    def latency_s(rng):
        return 0.3 * (20 if rng.random() < 0.01 else 1)

    under_way = 64
    sim = Sim(workers=workers, latency_s=latency_s, slots=slots, first=under_way // workers, most=under_way // workers)
    sim.run(120)
    assert sim.rate(100) >= 0.7 * under_way / 2 / 0.3
    second = sum(worker.client.report().counts.second for worker in sim.workers)
    assert second <= 0.02 * sum(sim.store.requests.values())
    assert sim.longest_pause_s(START + 5) < 3 * 6


@pytest.mark.parametrize("seed", [0, 2, 3, 4])  # with 1 the ring waits for an object that fails 13 times in a row
@pytest.mark.parametrize("begin", [0, 20])
@pytest.mark.parametrize(("cause", "part"), [("http_503", 0.5), ("http_429", 0.3)])
def test_refusals_that_are_over_leave_no_crawl(cause, part, begin, seed):
    """The store refuses a part of all requests for seconds, and a few afterwards: the stream is well again at once."""
    rng = random.Random(seed)

    def fault(now, _name, _number):
        if START + begin <= now < START + begin + 4 and rng.random() < part:
            return failure(cause)
        return failure("http_503" if rng.random() < 0.5 else "reset") if rng.random() < 0.02 else None

    sim = Sim(latency_s=lambda _rng: 0.005, slots=96, first=8, most=32, capacity=400.0, fault=fault, seed=seed)
    sim.run(begin + 4)
    assert sim.rate(3.0) >= 20
    sim.run(20)
    assert sim.rate(15) >= 0.8 * 200


@pytest.mark.parametrize("workers", [1, 2, 8])
@pytest.mark.parametrize("per_s", [50, 200])
def test_a_limit_is_found_among_random_refusals(per_s, workers):
    """A limit, and besides 429 for one request in twenty."""
    sim = Sim(workers=workers, latency_s=lambda _rng: 0.05, first=25, most=25, fault=at_random(["http_429"], 0.05))
    sim.store.limit = Limit(sim.clock, per_s, burst=per_s / 5)
    sim.run(150)
    rate, good = outcomes(sim, 90, 150)
    assert rate >= 0.8 * per_s
    assert good >= 0.85


def outage(begin, end, how):
    def fault(now, _name, _number):
        return how if START + begin <= now < START + end else None

    return fault


@pytest.mark.parametrize("how", ["connect", "http_503", "reset", "redirect", "hang"])
def test_an_outage_costs_time_and_few_requests(how):
    """No pair is lost."""
    fault = outage(60, 180, how if how == "hang" else failure(how))
    few = {"first": 8, "most": 8}
    sim = Sim(workers=4, latency_s=lambda _rng: 0.05, fault=fault, policy=FetchPolicy(max_attempts=3), **few)
    sim.run(175)
    assert {down for down, _ in states(sim)} == {True}
    healthy = sim.store.sum("requests", START + 40, START + 60) / 20
    assert sim.store.sum("requests", START + 120, START + 180) / 60 <= 0.05 * healthy
    sim.run(60)
    assert not sim.failed
    assert states(sim) == {(False, False)}
    rate = sum(START + 195 < moment <= START + 235 for moment in sim.published_at) / 40
    assert rate >= 0.95 * sum(START + 40 < moment <= START + 60 for moment in sim.published_at) / 20


def test_a_store_slower_than_patience_is_waited_for():
    """It has not answered yet, so each silence is followed by more patience, up to the timeout of a request."""
    sim = Sim(workers=1, latency_s=lambda _rng: 15.0, slots=16)
    sim.run(200)
    assert sim.published >= 16
    assert not sim.failed


def test_requests_after_a_rest_are_no_silence():
    """Nothing came for a minute because nothing was asked for."""
    sim = Sim(workers=1, latency_s=lambda _rng: 2.0, slots=16, pairs=40)
    sim.run(20)
    sim.slots = 0
    sim.run(60)
    sim.slots = 32
    sim.workers[0].client.pump()
    sim.run(1.5)
    assert sim.workers[0].client.under_way > 8
    assert states(sim) == {(False, False)}


def test_an_outage_that_returns_loses_no_pair():
    sim = Sim(
        latency_s=lambda _rng: 0.05,
        first=4,
        most=4,
        fault=lambda now, _name, _number: failure("reset") if now % 40 > 20 else None,
        policy=FetchPolicy(max_attempts=2),
    )
    sim.run(200)
    assert not sim.failed
    assert sim.published > 200 * 0.3 * 80


@pytest.mark.parametrize("pairs", [1, 500])
@pytest.mark.parametrize("cause", ["http_503", "reset", "hang"])
def test_one_object_that_always_fails_is_given_up(pairs, cause):
    def fault(_now, name, _number):
        return (cause if cause == "hang" else failure(cause)) if name == "i0" else None

    policy = FetchPolicy(max_attempts=3, max_delay_s=1.0, deadline_s=60.0)
    sim = Sim(workers=1, pairs=pairs, slots=1, latency_s=lambda _rng: 0.02, fault=fault, policy=policy)
    sim.run(150)
    assert 0 in sim.failed
    assert sim.published >= 1


def watched(sim, seconds, then=None):
    """What a monitor of all workers says meanwhile; `then` is called after 200 s."""
    monitor, said = StoreMonitor(), []
    for tick in range(2 * seconds):
        sim.run(0.5)
        if then and tick == 400:
            then()
        for worker in sim.workers:
            monitor.report(worker.number, worker.client.report(), sim.clock.now)
        said.append(monitor.news(sim.clock.now))
    return [sentence for sentence in said if sentence], monitor.statistics().outages


@pytest.mark.parametrize("late", [{"i40"}, {"i40", "l41"}])
def test_one_late_object_is_no_outage(late):
    """All else that the ring has room for is there, so nothing else is asked for, and nothing else is answered."""

    def fault(now, name, _number):
        return "hang" if name in late and now < START + 50 else None

    sim = Sim(workers=2, slots=64, latency_s=lambda _rng: 0.02, fault=fault)
    assert watched(sim, 80) == ([], 0)
    assert sim.longest_pause_s(START) > 40
    assert not sim.failed


def test_a_worker_without_answers_recovers_within_a_moment():
    """A worker whose first objects all fail asks again soon: the stream stands for a moment, and not for a minute."""
    sim = Sim(
        workers=2, latency_s=lambda _rng: 0.05, fault=lambda _n, name, number: failure("reset") if number < 2 else None
    )
    sim.run(60)
    assert not sim.failed
    assert sim.longest_pause_s(START) < 10


def test_windows_grow_by_distance_and_not_congestion():
    """For a store far away, and not for a full network."""
    far = Sim(workers=1, latency_s=lambda _rng: 1.0, slots=2000, first=128, most=512)
    far.run(60)
    assert far.store.busiest > 400
    full = Sim(workers=1, latency_s=lambda _rng: 0.02, capacity=200, slots=2000, first=64, most=512)
    full.run(60)
    assert full.store.busiest <= 2 * 64 + 2
    assert full.workers[0].client.window.size <= 64


def test_a_window_shrinks_when_answers_take_ever_longer():
    sim = Sim(workers=1, latency_s=lambda _rng: 0.2, slots=2000, first=256, most=256)
    sim.run(20)
    sim.store.capacity = 50.0
    sim.run(150)
    assert sim.workers[0].client.window.size < 100
    assert sim.rate(30) >= 22


def test_a_window_shrinks_when_all_is_cut():
    """Else a link that is slower than the attempts' longest time brings nothing at all."""
    policy = FetchPolicy(attempt_s=6.0)
    sim = Sim(workers=1, latency_s=lambda _rng: 0.05, capacity=4.0, first=64, most=64, policy=policy)
    sim.run(200)
    assert sim.rate(100) >= 1.0  # of 2
    assert not sim.failed


def test_limits_and_outages_are_logged_briefly():
    def fault(now, _name, _number):
        return failure("connect") if START + 100 <= now < START + 150 else None

    sim = Sim(workers=4, latency_s=lambda _rng: 0.1, first=8, most=8, fault=fault)
    sim.store.limit = Limit(sim.clock, 100, burst=20)
    (limited, down, up, unlimited), outages = watched(sim, 300, lambda: setattr(sim.store, "limit", None))
    assert outages == 1
    assert limited.startswith("limited by the store to about ")
    assert 80 <= float(limited.split()[-2]) <= 130
    assert re.match(r"the store is unreachable since \d\d:\d\d \(no connection\); next try (now|in \d+ s)", down)
    assert 49 <= float(re.match(r"the store answers again, after (\d+) s", up)[1]) <= 62
    assert unlimited == "no longer limited by the store"

"""What keeps requests within what the store can take: the retry budget, the ramp, the share of hedges."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringfeedd.budget import LEAST_RETRIES_PER_S, RetryBudget
from ringfeedd.hedging import LEAST_READS, QUIET_S, Hedging
from ringfeedd.ramp import BURST_S, PERIOD_S, Ramp


@given(st.lists(st.booleans(), max_size=500), st.sampled_from([0.0, 0.1, 0.2, 1.0]))
def test_no_more_is_tried_again_than_successes_earn_beyond_the_burst(events, per_success):
    budget, spent = RetryBudget(per_success, burst=10.0), 0
    for succeeded in events:
        if succeeded:
            budget.earn()
        else:
            spent += budget.spend(now=7.0)
    assert spent <= 10 + per_success * sum(events)


def test_a_budget_that_nothing_earns_still_gives_some_retries_a_second():
    budget, now = RetryBudget(0.2, burst=3.0), 50.0
    while budget.spend(now):
        pass
    given_at = []
    for _ in range(10):
        while not budget.spend(now):
            assert 0 < budget.wait_s() <= 1 / LEAST_RETRIES_PER_S
            now += budget.wait_s() + 1e-9
        given_at.append(now)
    assert given_at[-1] - given_at[0] == pytest.approx(9 / LEAST_RETRIES_PER_S, abs=0.01)


def test_a_ramp_lets_through_its_rate_and_a_burst():
    ramp = Ramp(100.0)
    times = [ramp.take(10.0) + 10.0 for _ in range(500)]
    assert times == sorted(times)
    for start in (10.0, 11.0, 12.5):
        assert sum(start <= time < start + 1 for time in times) <= 100 * (1 + BURST_S) + 1
    assert times[-1] == pytest.approx(10 + 500 / 100, abs=2 * BURST_S)


def test_a_ramp_doubles_every_20_minutes_while_it_is_used_and_never_faster():
    ramp, now, rates = Ramp(1.0), 0.0, []
    for _ in range(3 * int(PERIOD_S)):
        now += 1
        for _ in range(int(ramp.rate_per_s)):
            ramp.take(now)
        rates.append(ramp.rate_per_s)
    assert rates[int(PERIOD_S) - 2] == 1.0
    assert set(rates) == {1.0, 2.0, 4.0}


def test_a_ramp_that_is_not_used_does_not_grow_and_falls_back_to_where_it_began():
    ramp = Ramp(10.0)
    for now in range(0, 10 * int(PERIOD_S), 60):
        ramp.take(now)
    assert ramp.rate_per_s == 10.0
    ramp.rate_per_s = 80.0
    ramp.take(20 * PERIOD_S)
    assert ramp.rate_per_s == 10.0


def test_without_a_rate_nothing_waits():
    ramp = Ramp(0.0)
    assert not any(ramp.take(1.0) for _ in range(10**5))


def trained(seconds=0.01, reads=400):
    hedging = Hedging()
    for _ in range(reads):
        hedging.read(seconds)
    return hedging


def test_a_read_takes_unusually_long_when_95_of_100_take_less():
    hedging, rng = Hedging(), random.Random(1)
    for _ in range(LEAST_READS - 1):
        hedging.read(1.0)
    assert hedging.delay_s is None
    for _ in range(1000):
        hedging.read(rng.random())
    assert hedging.delay_s == pytest.approx(0.95, abs=0.05)


def test_hedges_are_a_twentieth_of_the_reads_at_most():
    hedging, hedges = Hedging(), 0
    for _ in range(10_000):
        hedging.read(0.01)
        hedges += hedging.allow(5.0, free_connections=10)
    assert 450 <= hedges <= 500


def test_nothing_is_hedged_after_a_429_or_with_the_last_free_connection():
    assert not trained().allow(5.0, free_connections=1)
    hedging = trained()
    hedging.rate_limited(10.0)
    assert not hedging.allow(10.0 + QUIET_S - 1, free_connections=10)
    assert hedging.allow(10.0 + QUIET_S, free_connections=10)

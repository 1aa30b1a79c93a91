"""One worker and its store: an outage loses no pair, one object that cannot be had holds nobody up."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
from collections import Counter

import google_crc32c
import pytest
from fetch_ways import BY_TASKS_ONLY, WAYS
from gcs_fixtures import ManualClock

from ringfeedd.budget import LEAST_RETRIES_PER_S
from ringfeedd.catalog import Pair
from ringfeedd.circuit import FULL_PERMITS, CircuitState
from ringfeedd.errors import BadPairError
from ringfeedd.fetch import FetchPolicy, fetch_pair
from ringfeedd.sources import ObjectInfo, SourceError
from ringfeedd.traffic import Traffic

POLICY = FetchPolicy(max_attempts=4, base_delay_s=0.1, max_delay_s=1.0, deadline_s=100.0)


@pytest.fixture(autouse=True, params=WAYS)
def way(request, monkeypatch):
    """Every test here holds however a pair is fetched."""
    monkeypatch.setitem(globals(), "fetch_pair", WAYS[request.param])
    return request.param


def content(name):
    return name.encode() * 20


def info(name):
    data = content(name)
    return ObjectInfo(name, len(data), 1, google_crc32c.value(data))


def pair(number):
    return Pair(str(number), info(f"i{number}"), info(f"l{number}"))


class WeatherSource:
    """Answers after no time; `weather` (clock, name, read number) says with what error, or None."""

    root = "mem://set"

    def __init__(self, clock, weather=lambda _now, _name, _number: None):
        self.clock, self.weather = clock, weather
        self.reads, self.times = Counter(), []
        self.reading = self.busiest = 0

    async def read(self, name, generation, max_bytes=None):
        number = self.reads[name]
        self.reads[name] += 1
        self.times.append(self.clock.now)
        self.reading += 1
        self.busiest = max(self.busiest, self.reading)
        try:
            await asyncio.sleep(0)
        finally:
            self.reading -= 1
        if failure := self.weather(self.clock.now, name, number):
            raise failure
        return content(name)


class SteppingClock(ManualClock):
    """Sleeping waits for its moment; time moves on to the next one once all others had some turns of the loop."""

    TURNS = 12

    def __init__(self):
        super().__init__()
        self._sleepers = []
        self._numbers = itertools.count()
        self._turns = 0

    async def sleep(self, seconds):
        woken = asyncio.get_running_loop().create_future()
        if not self._sleepers:
            asyncio.get_running_loop().call_soon(self._turn)
        heapq.heappush(self._sleepers, (self.now + seconds, next(self._numbers), woken))
        await woken

    def _turn(self):
        self._turns += 1
        if self._turns >= self.TURNS:
            self._turns = 0
            moment, _, woken = heapq.heappop(self._sleepers)
            if not woken.done():  # else it was cancelled
                self.now = moment
                woken.set_result(None)
        if self._sleepers:
            asyncio.get_running_loop().call_soon(self._turn)


def down(cause="http_503", retry_after_s=None):
    return SourceError(f"It failed: {cause}.", cause=cause, retryable=True, retry_after_s=retry_after_s)


def story(weather, use, *, warm=True, **options):
    """`use(traffic, source, clock)`, with one object known to be there."""

    async def main():
        before = asyncio.all_tasks()
        clock = SteppingClock()
        source = WeatherSource(clock, weather)
        known = [info("known")] if warm else []
        traffic = Traffic(source, known=known, clock=clock, rng=random.Random(3), **options)
        try:
            return await use(traffic, source, clock)
        finally:
            await traffic.close()
            assert asyncio.all_tasks() == before

    return asyncio.run(asyncio.wait_for(main(), 30))


def storm(begin, end, cause="http_503"):
    return lambda now, _name, _number: down(cause) if begin <= now < end else None


@pytest.mark.parametrize("cause", ["http_503", "http_429", "connect", "reset", "timeout", "redirect", "html"])
@pytest.mark.parametrize("pairs", [1, 40])
def test_an_outage_of_twenty_minutes_loses_no_pair_and_costs_few_requests(cause, pairs):
    async def use(traffic, source, clock):
        fetched = await asyncio.gather(*(fetch_pair(traffic, pair(n), POLICY) for n in range(pairs)))
        assert [one.image for one in fetched] == [content(f"i{n}") for n in range(pairs)]
        during = sum(time < 1300 for time in source.times)
        # what was in flight, a retry of some, and a probe every 15 s or more
        assert during <= 2 * pairs + 20 + 1200 / 15 + 10
        assert 1300 <= clock.now <= 1300 + 31 + 10  # it is found to be back at the next probe
        statistics = traffic.statistics()
        assert (statistics.outages, statistics.circuit) == (1, CircuitState.CLOSED)
        assert statistics.requests == len(source.times)
        assert statistics.failing_since is statistics.next_probe_at is None

    story(storm(100, 1300, cause), use)


def test_a_store_that_comes_back_is_not_overrun():
    at_once = dict.fromkeys(CircuitState, 0)

    async def use(traffic, source, clock):
        def weather(now, _name, _number):
            state = traffic.statistics().circuit
            at_once[state] = max(at_once[state], source.reading + 1)  # what has just ended included
            return down() if now < 160 else None

        source.weather = weather
        await asyncio.gather(*(fetch_pair(traffic, pair(n), POLICY) for n in range(200)))

    story(storm(0, 0), use, concurrency=400)
    assert at_once[CircuitState.CLOSED] > 300
    assert at_once[CircuitState.HALF_OPEN] <= FULL_PERMITS


def test_state_and_time_of_the_next_try_are_told_when_they_change():
    seen = []

    async def use(traffic, source, clock):
        traffic._on_change = lambda: seen.append(traffic.statistics())
        await fetch_pair(traffic, pair(1), POLICY)

    story(storm(100, 130), use)
    assert [one.circuit for one in (seen[0], seen[-1])] == [CircuitState.DOUBTED, CircuitState.CLOSED]
    waiting = [one for one in seen if one.circuit is CircuitState.OPEN]
    assert len(waiting) >= 4
    assert {one.cause for one in waiting} == {"http_503"}
    assert len({one.failing_since for one in waiting}) == 1
    assert all(one.next_probe_at is not None for one in waiting)


@pytest.mark.parametrize("max_attempts", [1, 4, 30])
def test_one_object_that_always_fails_is_given_up_and_does_not_pass_for_an_outage(max_attempts):
    policy = FetchPolicy(max_attempts=max_attempts, base_delay_s=0.1, max_delay_s=1.0)

    async def use(traffic, source, clock):
        with pytest.raises(BadPairError, match="http_503") as caught:
            await fetch_pair(traffic, pair(7), policy)
        assert (caught.value.cause, caught.value.attempts) == ("http_503", max_attempts)
        assert caught.value.retries.get("http_503", 0) == max_attempts - 1
        assert source.reads["i7"] == max_attempts
        assert traffic.statistics().outages == 0
        assert (await fetch_pair(traffic, pair(8), policy)).attempts == 1

    story(lambda _now, name, _number: down() if name == "i7" else None, use)


@BY_TASKS_ONLY
def test_an_object_that_only_hangs_is_given_up_at_its_deadline():
    async def use(traffic, source, clock):
        hanging = asyncio.Event()
        read = source.read

        async def hang(name, generation, max_bytes=None):
            await (hanging.wait() if name == "i7" else asyncio.sleep(0))
            return await read(name, generation)

        source.read = hang
        with pytest.raises(BadPairError, match="i7 was not there within") as caught:
            await fetch_pair(traffic, pair(7), FetchPolicy(deadline_s=0.05))
        assert caught.value.cause == "deadline"
        assert traffic.statistics().outages == 0

    story(lambda *_: None, use)


def test_an_outage_that_begins_at_an_objects_last_attempt_gives_it_all_of_them_back():
    def weather(now, name, number):
        if name == "i7" and number < POLICY.max_attempts - 1:
            return down()
        return down() if now < 200 else None

    async def use(traffic, source, clock):
        assert (await fetch_pair(traffic, pair(7), POLICY)).image == content("i7")
        assert clock.now > 200

    story(weather, use)


def test_a_store_that_goes_away_again_and_again_loses_no_pair_either():
    async def use(traffic, source, clock):
        for number in range(60):
            await fetch_pair(traffic, pair(number), POLICY)
            await clock.sleep(10)
        assert traffic.statistics().outages >= 4

    story(lambda now, _name, _number: down("reset") if now % 100 > 30 else None, use)


def test_a_final_answer_is_an_answer_even_while_everything_else_fails():
    def weather(_now, name, _number):
        return SourceError("Not there.", cause="missing") if name == "known" else down()

    async def use(traffic, source, clock):
        with pytest.raises(BadPairError, match="http_503"):
            await fetch_pair(traffic, pair(1), POLICY)
        assert traffic.statistics().outages == 0

    story(weather, use)


def test_a_worker_that_never_read_anything_fails_its_pairs_as_nobody_can_tell():
    async def use(traffic, source, clock):
        with pytest.raises(BadPairError, match="After 4 attempts"):
            await fetch_pair(traffic, pair(1), POLICY)

    story(storm(0, 1e9), use, warm=False)


def test_damaged_bytes_are_no_outage():
    async def use(traffic, source, clock):
        read = source.read

        async def flipped(name, generation, max_bytes=None):
            data = await read(name, generation)
            return data if name == "known" else b"x" + data[1:]

        source.read = flipped
        for number in range(10):
            with pytest.raises(BadPairError, match="crc32c"):
                await fetch_pair(traffic, pair(number), POLICY)
        assert source.reads["known"] == 0
        assert traffic.statistics().outages == 0

    story(lambda *_: None, use)


def test_a_sick_store_gets_no_more_retries_than_successes_earn_and_no_pair_is_lost():
    policy = FetchPolicy(max_attempts=100, base_delay_s=0.1, max_delay_s=1.0, deadline_s=20.0)

    def weather(_now, name, number):
        chance = random.Random(name)
        fails_first = next(n for n in itertools.count() if chance.random() > 0.5)
        return down() if number < fails_first else None

    async def use(traffic, source, clock):
        began = clock.now
        await asyncio.gather(*(fetch_pair(traffic, pair(n), policy) for n in range(300)))
        statistics = traffic.statistics()
        retries = len(source.times) - 600 - statistics.probes
        assert statistics.outages == 0
        assert retries > 500
        assert retries <= 50 + 0.2 * 600 + LEAST_RETRIES_PER_S * (clock.now - began) + 1
        assert clock.now - began > 3 * policy.deadline_s  # which it does not use up

    story(weather, use, retry_budget=0.2)


def test_requests_wait_for_the_ramp_and_that_uses_up_no_deadline():
    async def use(traffic, source, clock):
        policy = FetchPolicy(max_attempts=4, deadline_s=1.0)
        await asyncio.gather(*(fetch_pair(traffic, pair(n), policy) for n in range(30)))
        assert 5.5 <= clock.now - 100 <= 6.5
        assert max(Counter(int(time) for time in source.times).values()) <= 12

    story(lambda *_: None, use, requests_per_s=10.0)


def test_cancelling_pairs_that_wait_for_the_store_leaves_room_for_others():
    async def use(traffic, source, clock):
        tasks = [asyncio.create_task(fetch_pair(traffic, pair(n), POLICY)) for n in range(50)]
        while traffic.statistics().circuit is not CircuitState.OPEN:
            await clock.sleep(0.01)
        for task in tasks[::2]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert [task.cancelled() for task in tasks] == [True, False] * 25
        assert traffic._in_flight == 0
        assert not traffic._turns

    story(storm(100, 130), use)


class TwoSpeedSource(WeatherSource):
    """The first read of an object named in `slow` hangs until it is cancelled."""

    slow = frozenset[str]()

    async def read(self, name, generation, max_bytes=None):
        data = await super().read(name, generation)
        if name in self.slow and self.reads[name] == 1:
            try:
                await asyncio.Event().wait()
            finally:
                self.cancelled = name
        return data


def hedged(use, *, hedge=True, concurrency=64, weather=lambda *_: None):
    async def main():
        source = TwoSpeedSource(ManualClock(), weather)
        traffic = Traffic(source, hedge=hedge, concurrency=concurrency)
        for number in range(100):
            await fetch_pair(traffic, pair(number), POLICY)
        try:
            await use(traffic, source)
        finally:
            await traffic.close()

    asyncio.run(asyncio.wait_for(main(), 20))


def test_a_read_that_takes_unusually_long_is_overtaken_by_a_second_one_and_cancelled():
    async def use(traffic, source):
        before = traffic.statistics()
        source.slow = {"i1000"}
        fetched = await fetch_pair(traffic, pair(1000), POLICY)
        assert (fetched.image, fetched.attempts) == (content("i1000"), 1)
        after = traffic.statistics()
        assert after.hedges_won - before.hedges_won == 1
        assert source.cancelled == "i1000"
        assert source.reading == traffic._in_flight == 0

    hedged(use)


@pytest.mark.parametrize("options", [{"hedge": False}, {"concurrency": 2}], ids=["off", "no free connection"])
def test_without_hedging_or_room_for_it_a_slow_read_is_waited_for(options):
    async def use(traffic, source):
        source.slow = {"i1000"}
        with pytest.raises(BadPairError, match="not there within"):
            await fetch_pair(traffic, pair(1000), FetchPolicy(max_attempts=1, deadline_s=0.2))
        assert traffic.statistics().hedges == 0

    hedged(use, **options)

"""A start that meets a store which does not answer waits for it, and no start waits for what somebody has to mend."""

from __future__ import annotations

import asyncio
import random
import re
import signal
import socket
import time
from contextlib import ExitStack

import aiohttp
import pytest
from gcs_fixtures import ManualClock
from house import Daemon, photographs, traces, wait_until, write_objects
from hypothesis import given, settings
from hypothesis import strategies as st
from store_process import StoreProcess
from transports import TRANSPORTS

import ringfeed
from ringfeed.cli.status import ring_status
from ringfeedd.errors import EXIT_COULD_NOT_START, StartError, StoreDownError
from ringfeedd.fetch.health import StoreHealth
from ringfeedd.storage import SourceError
from ringfeedd.storage.transport.aiohttp_errors import outage_cause
from ringfeedd.supervisor.store_wait import NOTICE_S, PAUSES, SILENCE_S, Patience, StoreWait

WAITS = "the store does not answer, and the start waits for it"


def down(retry_after_s=None, *, unreachable=False):
    return StoreDownError("gs://b cannot be listed.", retry_after_s=retry_after_s, unreachable=unreachable)


# -- the decision


@settings(deadline=None)
@given(
    wait_s=st.floats(0.5, 10_000),
    seed=st.integers(0, 1000),
    attempt_s=st.floats(0.0, 300.0),
    asked_s=st.none() | st.floats(0, 4000),
)
def test_a_start_waits_its_time_and_retries_last(wait_s, seed, attempt_s, asked_s):
    patience, now, tries = Patience(wait_s, random.Random(seed)), 50.0, 0
    while (pause_s := patience.failed(now, asked_s)) is not None:
        tries += 1
        assert patience.waiting
        assert 0.0 <= pause_s <= max(PAUSES.max_s, (asked_s or 0.0) + PAUSES.base_s)
        assert patience.waited_s(now + pause_s) <= wait_s * (1 + 1e-9)
        now += pause_s + attempt_s
        assert tries < 10_000
    assert wait_s - 0.1 <= patience.waited_s(now) <= wait_s * (1 + 1e-9) + attempt_s


def test_without_patience_nothing_is_tried_again():
    assert Patience(0.0).failed(5.0) is None


@pytest.mark.parametrize("asked_s", [None, 0.0])
def test_pauses_grow_to_half_a_minute(asked_s):
    """However little the store asks for."""
    patience, now, pauses = Patience(86_400.0, random.Random(3)), 0.0, []
    for _ in range(400):
        pauses.append(patience.failed(now, asked_s))
        now += pauses[-1]
    assert pauses[0] <= 1.0
    assert 25.0 < max(pauses[10:]) <= 30.0


def test_only_unanswered_time_counts_over_a_starts_outages():
    patience = Patience(100.0, random.Random(0))
    assert patience.answered(0.0) is None
    patience.failed(10.0)
    assert patience.answered(40.0) == 30.0
    patience.failed(1000.0)
    assert patience.waited_s(1060.0) == 90.0
    assert patience.failed(1070.0) is None


@pytest.mark.parametrize(
    ("cause", "retryable", "waits"),
    [
        *((cause, True, True) for cause in ("connect", "timeout", "reset", "truncated", "http_429", "http_503")),
        ("deadline", False, True),
        *((cause, True, False) for cause in ("not_json", "redirect", "html", "status", "unauthorized", "crc32c")),
        *((cause, False, False) for cause in ("missing", "forbidden", "unauthorized", "http_400", "io")),
    ],
)
def test_a_start_waits_for_silence_or_requested_patience(cause, retryable, waits):
    """It does not wait after a wrong answer."""
    error = SourceError("It failed.", cause=cause, retryable=retryable, retry_after_s=7.0).start_error()
    assert type(error) is (StoreDownError if waits else StartError)
    assert str(error) == "It failed."
    assert error.exit_code == EXIT_COULD_NOT_START
    if waits:
        assert error.retry_after_s == 7.0


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (aiohttp.ServerDisconnectedError(), "reset"),
        (TimeoutError(), "timeout"),
        (aiohttp.ClientResponseError(None, (), status=503), "http_503"),
        (aiohttp.ClientResponseError(None, (), status=400), None),  # a key that was revoked
        (ValueError("no key"), None),
    ],
)
def test_who_gives_tokens_may_be_down_too(error, cause):
    assert outage_cause(error) == cause


# -- the shell round it


class Told:
    """What a `StoreWait` says, and tells the service manager."""

    def __init__(self, wait_s, **more):
        self.clock, self.said, self.told = ManualClock(), [], []
        self.wait = StoreWait(
            wait_s,
            say=self.said.append,
            tell=lambda seconds, status: self.told.append((seconds, status)),
            clock=self.clock,
            rng=random.Random(5),
            **more,
        )


def attempts(*outcomes):
    """An attempt that ends each time as the next of these says; the last of them for ever."""
    left = list(outcomes)

    async def attempt():
        await asyncio.sleep(0)
        outcome = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    return attempt


def test_waiting_and_continuing_are_each_reported_once():
    """The service manager is told, too."""

    async def story():
        told = Told(600.0)
        assert await told.wait.has(attempts(down(), down(), down(), "pairs")) == "pairs"
        waits, goes_on = told.said
        assert waits.startswith(f"{WAITS}: gs://b cannot be listed.")
        assert "600 s" in waits
        assert goes_on.startswith("the store answers again, after ")
        assert told.told == [(NOTICE_S, "waits for the store: gs://b cannot be listed.")]
        assert len(told.clock.slept) == 3
        assert await told.wait.has(attempts("more")) == "more"
        assert len(told.said) == 2
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(story())


def test_an_answer_within_an_attempt_is_reported_there():
    async def story():
        told = Told(600.0)

        async def listing():
            await asyncio.sleep(0)
            told.wait.answered()
            assert len(told.said) == 2 * bool(told.clock.slept)
            if not told.clock.slept:
                raise down()
            return "pairs"

        assert await told.wait.has(listing) == "pairs"
        assert len(told.said) == 2

    asyncio.run(story())


def test_what_the_store_asks_for_is_waited():
    async def story():
        told = Told(600.0)
        await told.wait.has(attempts(down(retry_after_s=100.0), "pairs"))
        assert 100.0 <= told.clock.slept[0] <= 101.0

    asyncio.run(story())


def test_an_absent_store_is_given_up_with_cause():
    """The sentence names the time and the cause."""

    async def story():
        told = Told(60.0)
        with pytest.raises(StoreDownError, match=r"not answered for 60 s.*gs://b cannot be listed\.$") as caught:
            await told.wait.has(attempts(down()))
        assert caught.value.exit_code == EXIT_COULD_NOT_START
        assert sum(told.clock.slept) == pytest.approx(60.0)
        assert len(told.said) == 1

    asyncio.run(story())


def test_without_patience_the_stores_error_ends_the_start():
    async def story():
        told, error = Told(0.0), down()
        with pytest.raises(StoreDownError) as caught:
            await told.wait.has(attempts(error))
        assert caught.value is error
        assert (told.said, told.told, told.clock.slept) == ([], [], [])

    asyncio.run(story())


def test_an_error_that_needs_an_operator_ends_waiting():
    """Even after an outage."""

    async def story():
        told, error = Told(600.0), StartError("There is no bucket b.")
        with pytest.raises(StartError) as caught:
            await told.wait.has(attempts(down(), error))
        assert caught.value is error
        await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(story())


def test_an_unreachable_store_without_history_is_not_awaited():
    """It has never answered."""

    async def story():
        told, error = Told(600.0, has_answered=lambda: False), down(unreachable=True)
        with pytest.raises(StoreDownError, match=r"^gs://b cannot be listed\. It has never answered.*--store-wait-s"):
            await told.wait.has(attempts(error))
        assert (told.said, told.told, told.clock.slept) == ([], [], [])
        assert await told.wait.has(attempts(down(), "a source"), is_answer=False) == "a source"  # it may be slow
        assert not told.wait.has_answered
        assert await told.wait.has(attempts("a page")) == "a page"
        assert await told.wait.has(attempts(error, "pairs")) == "pairs"  # it answered before

    asyncio.run(story())


def test_workers_awaiting_the_first_pairs_are_given_up():
    """Later ones never."""
    told = Told(60.0)
    told.wait.first_pairs(StoreHealth(), there=False)
    assert told.told == []
    silent = StoreHealth(failing_since=told.clock.now - 59.0, cause="http_503")
    told.wait.first_pairs(silent, there=False)
    assert [seconds for seconds, _ in told.told] == [NOTICE_S]
    told.clock.now += 2.0
    told.wait.first_pairs(silent, there=True)
    with pytest.raises(StoreDownError, match=r"first pairs .* not answered for 61 s \(http_503\)"):
        told.wait.first_pairs(silent, there=False)
    hasty = Told(0.0)  # requests under way have some seconds all the same
    hasty.wait.first_pairs(StoreHealth(failing_since=hasty.clock.now - SILENCE_S + 1), there=False)


# -- real daemons


@pytest.fixture(scope="module")
def bucket():
    return photographs(24)


@pytest.fixture
def store(bucket, tmp_path):
    """A store that does not run."""
    write_objects(tmp_path / "b", bucket)
    store = StoreProcess(tmp_path)
    yield store
    store.kill()


PATIENT = ("--store-wait-s", "600")


def daemon_of(store, ring, *arguments, root="gs://b/set"):
    return Daemon(root, "--emulator", store.url, "--slots", "16", "--workers", "1", *arguments, ring=ring)


def ended(*daemons):
    """The exit code of each daemon, which ends by itself, and what it said."""
    with ExitStack() as cleaning:
        for daemon in daemons:
            daemon.start()
            cleaning.callback(daemon.kill)
        found = [(daemon.process.wait(60), daemon.output.rest()) for daemon in daemons]
    assert not any("Traceback" in said for _, said in found)
    return found


def epoch_of(ring):
    with ringfeed.attach(f"{ring}-train", batch_size=8) as reader:
        return sorted(pair_id for batch in reader for pair_id in batch.ids)


def test_a_daemon_started_in_an_outage_recovers_alone(store, ring, bucket, tmp_path):
    manager = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(manager))
        receiver.settimeout(30)
        daemon = daemon_of(store, ring, *PATIENT)
        daemon.command = ["env", f"NOTIFY_SOCKET={manager}", *daemon.command]
        daemon.start()
        try:
            said = daemon.output.wait_for(WAITS)
            assert f"{store.url}: it cannot be reached" in said
            told = []
            while not told or b"waits for the store" not in told[-1]:
                told.append(receiver.recv(4096))
            assert told[-1].startswith(b"EXTEND_TIMEOUT_USEC=30000000\n")
            store.start()
            daemon.output.wait_for("the store answers again, after ")
            daemon.output.wait_for("ready")
            assert len(epoch_of(ring)) == len(bucket) // 2
            assert ring_status(f"{ring}-train").failed_pairs == 0
            assert daemon.stop() == 0
            assert "".join(daemon.output.lines).count(WAITS) == 1
            assert traces(ring) == []
        finally:
            daemon.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_daemon_waiting_for_the_store_stops_cleanly(store, ring, number):
    """At once."""
    daemon = daemon_of(store, ring, *PATIENT).start()
    try:
        daemon.output.wait_for(WAITS)
        began = time.monotonic()
        daemon.process.send_signal(number)
        assert daemon.process.wait(60) == 0
        assert time.monotonic() - began < 5
        assert traces(ring) == []
    finally:
        daemon.kill()


def test_a_daemon_out_of_patience_gives_the_reason(store, ring):
    hasty = daemon_of(store, f"{ring}0", "--store-wait-s", "0")
    (code, said), later = ended(hasty, daemon_of(store, ring, "--store-wait-s", "0.5"))
    assert code == EXIT_COULD_NOT_START
    assert said.startswith("listing gs://b/set\nringfeed: gs://b/set cannot be listed: ")
    code, said = later
    assert code == EXIT_COULD_NOT_START
    assert said.startswith(f"listing gs://b/set\n{WAITS}")
    assert "\nringfeed: the store has not answered for " in said


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_an_address_that_refuses_ends_the_start(store, ring, transport):
    """Or one that does not resolve."""
    arguments = ("--slots", "16", "--workers", "1", "--transport", transport)
    nowhere = Daemon("gs://b/set", "--emulator", "http://no-such-host.invalid:1", *arguments, ring=f"{ring}0")
    began = time.monotonic()
    for code, said in ended(daemon_of(store, ring, "--transport", transport), nowhere):
        assert code == EXIT_COULD_NOT_START
        assert said.count("\n") == 2
        listed, refused = said.splitlines()
        assert listed.startswith("listing gs://b/set")
        assert re.match(
            r"ringfeed: gs://b/set cannot be listed: .*it cannot be reached.*\. It has never answered", refused
        )
    assert time.monotonic() - began < 60


def test_a_missing_or_forbidden_bucket_is_not_awaited(store, ring):
    store.start()
    ((code, said),) = ended(daemon_of(store, ring, root="gs://nowhere/set"))
    assert (code, said.count("\n")) == (EXIT_COULD_NOT_START, 2)
    assert "There is no bucket nowhere" in said
    store.ask("/_faults", "POST", b"list/403")
    ((code, said),) = ended(daemon_of(store, ring))
    assert (code, said.count("\n")) == (EXIT_COULD_NOT_START, 2)
    assert "forbidden (403)" in said


@pytest.mark.slow
def test_a_cached_listing_postpones_waiting_for_the_store(store, ring, bucket, tmp_path):
    """Until the daemon looks for the size of slots."""
    cached = ["--catalog-cache", tmp_path / "cache", "--catalog", "cached"]
    store.start()
    with daemon_of(store, ring, *cached):
        wait_until(lambda: list((tmp_path / "cache").iterdir()))
    store.kill()
    daemon = daemon_of(store, ring, *cached).start()
    try:
        assert "No pair of gs://b/set can be looked at" in daemon.output.wait_for(WAITS)
        store.start()
        daemon.output.wait_for("ready")
        assert len(epoch_of(ring)) == len(bucket) // 2
        assert daemon.stop() == 0
    finally:
        daemon.kill()


@pytest.mark.parametrize("outage", ["503", pytest.param("gone", marks=pytest.mark.slow)])
def test_an_outage_after_listing_only_delays_first_pairs(store, ring, bucket, outage):
    """None of them is lost."""
    store.start()
    if outage == "503":
        store.ask("/_faults", "POST", b"read/503")
    daemon = daemon_of(store, ring, "--size", "32x32", "--max-failed", "0", "--on-error", "stop").start()
    try:
        if outage == "gone":
            daemon.output.wait_for("found")
            store.kill()
        wait_until(lambda: traces(ring))
        if outage == "503":
            daemon.output.wait_for("WARNING ringfeedd.pool: gs://b/set: the store is unreachable since ")
            wait_until(lambda: ring_status(f"{ring}-train").store.failing_s > 2)
            store.ask("/_faults", "DELETE")
        else:
            store.start()
        daemon.output.wait_for("ready")
        assert len(epoch_of(ring)) == len(bucket) // 2
        assert ring_status(f"{ring}-train").failed_pairs == 0
        assert daemon.stop() == 0
    finally:
        daemon.kill()


@pytest.mark.slow
def test_waiting_for_the_first_pairs_has_a_limit(store, ring):
    """Not longer than the start may wait."""
    store.start()
    store.ask("/_faults", "POST", b"read/503")
    ((code, said),) = ended(daemon_of(store, ring, "--size", "32x32", "--store-wait-s", "1"))
    assert code == EXIT_COULD_NOT_START
    assert "\nringfeed: the first pairs failed to load: the store has not answered for " in said

"""Failed pairs: counted, listed in bounded memory, and past the budget the ring stops with a sentence."""

from __future__ import annotations

import json
import logging
import os
import stat
import sys
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ring_fixtures import make_descriptor, served_ring, small_geometry, unique_ring_name

from ringfeed.errors import DaemonNotRunningError, NotTrustedError
from ringfeed.shm import segment
from ringfeed.shm.descriptor import read_descriptor
from ringfeed.shm.failures import FailedPairs, read_failed_pairs, rings_with_lists
from ringfeed.shm.layout import REASON_BYTES, errors_name
from ringfeed.text import one_line
from ringfeedd.log import OneLineFormatter
from ringfeedd.recovery.cleanup import clear_leavings
from ringfeedd.reporting.errorfile import ErrorsFile
from ringfeedd.ring.failures import FIRST_PAIRS, MOST_LISTED, WINDOW_PAIRS, Failure, Failures, OnError
from ringfeedd.shm.memory import Access
from ringfeedd.worker.protocol import Failed


def failure(number: int = 0, cause: str = "corrupt") -> Failure:
    return Failure(f"pair-{number}", "it is cut off after 17 bytes", cause, attempts=1)


@given(outcomes=st.lists(st.booleans(), max_size=300), allowed=st.integers(0, 5))
def test_the_ring_stops_exactly_at_the_failure_budget(outcomes, allowed):
    """When more of the window failed than the budget allows."""
    failures = Failures(allowed / WINDOW_PAIRS)
    failures.succeed()
    window: deque[bool] = deque([False], maxlen=WINDOW_PAIRS)
    for number, failed in enumerate(outcomes):
        window.append(failed)
        if failed:
            assert (failures.fail(failure(number)) is not None) == (sum(window) > allowed)
        else:
            failures.succeed()


def test_failures_that_left_the_window_no_longer_count():
    failures = Failures(max_failed=0.001)
    failures.succeed()
    for number in range(5):
        assert failures.fail(failure(number)) is None
        for _ in range(WINDOW_PAIRS - 1):
            failures.succeed()
    assert failures.total == 5


def test_a_root_of_failing_pairs_stops_early():
    """Whatever the budget."""
    failures = Failures(max_failed=1.0)
    sentences = [failures.fail(failure(number)) for number in range(FIRST_PAIRS)]
    assert sentences[:-1] == [None] * (FIRST_PAIRS - 1)
    assert sentences[-1] == (
        "each of the first 20 pairs failed, mostly 'corrupt' (20 of 20); the latest was 'pair-19': it is cut off after "
        "17 bytes"
    )


def test_a_full_budget_needs_one_good_pair():
    """Nothing stops after it."""
    failures = Failures(max_failed=1.0)
    failures.succeed()
    assert not any(failures.fail(failure(number)) for number in range(3 * WINDOW_PAIRS))


def test_a_zero_budget_stops_at_the_first_failure():
    """It names the budget, the cause and the pair."""
    failures = Failures(max_failed=0.0)
    failures.succeed()
    sentence = failures.fail(failure(3, cause="crc32c"))
    assert sentence is not None
    for part in ("1 of the latest 2 pairs failed", "max_failed = 0 of 1000", "'crc32c' (1 of 1)", "'pair-3'"):
        assert part in sentence


def test_a_repeated_failure_is_listed_once_with_count():
    failures = Failures(max_failed=1.0)
    for number in (1, 2, 1):
        failures.fail(failure(number))
    assert [(f.pair_id, f.times) for f in failures] == [("pair-2", 1), ("pair-1", 2)]
    assert (failures.total, len(failures)) == (3, 2)


def test_the_list_keeps_the_latest_and_counts_all():
    failures = Failures(max_failed=1.0)
    failures.succeed()
    for number in range(MOST_LISTED + 10):
        failures.fail(failure(number))
    assert len(failures) == MOST_LISTED
    assert next(iter(failures)).pair_id == "pair-10"
    assert failures.total == failures.causes["corrupt"] == MOST_LISTED + 10


@pytest.mark.parametrize("causes", [["missing", "crc32c", "missing"], ["missing", "missing", "crc32c"]])
def test_the_sentence_names_the_commonest_cause(causes):
    failures = Failures(max_failed=0.002)
    failures.succeed()
    sentences = [failures.fail(failure(number, cause)) for number, cause in enumerate(causes)]
    assert "mostly 'missing' (2 of 3)" in (sentences[-1] or "")


def test_first_and_last_time_follow_the_wall_clock():
    """No decision depends on its steps."""
    moments = iter([1000.0, 2000.0, -500.0])
    failures = Failures(max_failed=1.0, wall_clock=lambda: next(moments))
    for number in (1, 2, 1):
        failures.fail(failure(number))
    assert [(f.pair_id, f.first_unix_s, f.last_unix_s) for f in failures] == [
        ("pair-2", 2000.0, 2000.0),
        ("pair-1", 1000.0, -500.0),
    ]


def test_on_error_stop_ends_at_the_first_failure():
    """With the pair, its reason and the way out."""
    sentence = Failures(max_failed=1.0, on_error=OnError.STOP).fail(failure(3)) or ""
    for part in ("'pair-3'", "it is cut off after 17 bytes", 'on_error = "replace"'):
        assert part in sentence


def test_a_reason_is_one_bounded_line():
    """Whatever a server sent."""
    failures = Failures(max_failed=1.0)
    failures.fail(Failure("a", "the server said\r\n\x1b[2J<html>\u202e" + "x" * 10_000, "http", 1))
    (pair,) = failures
    assert pair.reason.startswith("the server said\\r\\n\\x1b[2J<html>\\u202exxx")
    assert len(pair.reason) == REASON_BYTES


def test_a_log_record_is_one_line():
    """Whatever it quotes; a traceback keeps its lines."""
    formatter = OneLineFormatter("%(levelname)s %(name)s: %(message)s")
    record = logging.LogRecord("r", logging.WARNING, "", 0, "the pair %s: %s", ("a\nERROR r: b", "\x1b[2J\u2028"), None)
    assert formatter.format(record) == "WARNING r: the pair a\\nERROR r: b: \\x1b[2J\\u2028"
    try:
        raise ValueError("größe")
    except ValueError:
        record.exc_info = sys.exc_info()
    assert formatter.format(record).splitlines()[1] == "Traceback (most recent call last):"
    assert "größe" in formatter.format(record)


@given(text=st.text())
def test_text_becomes_one_line_and_printable_stays(text):
    made = one_line(text)
    assert made.isprintable()
    assert one_line(made) == made
    made.encode()


# The list that other processes read.


@pytest.fixture
def name():
    name = unique_ring_name()
    yield name
    segment.shm_path(errors_name(name)).unlink(missing_ok=True)


def errors_file(name, access=Access()):  # noqa: B008  # frozen
    return ErrorsFile(make_descriptor(name, small_geometry()), access)


def test_the_list_appears_with_the_first_failed_pair(name):
    """Other processes then read all that the daemon knows."""
    file, failures = errors_file(name), Failures(max_failed=1.0)
    file.write_if_due(failures, 0.0)
    assert read_failed_pairs(name) is None
    failures.fail(failure(1))
    failures.fail(Failure("größe/2 ", "no such object", "missing", 3))
    file.write_if_due(failures, 0.1)
    listed = read_failed_pairs(name)
    assert listed == failures.listing(name, "0123456789abcdef", "")
    assert (listed.failed_draws, listed.causes) == (2, {"corrupt": 1, "missing": 1})
    assert name in rings_with_lists()
    file.remove()
    assert read_failed_pairs(name) is None


def test_the_list_is_written_when_changed(name):
    """Once a second at most."""
    file, failures = errors_file(name), Failures(max_failed=1.0)
    shown = []
    for tenth in range(40):
        if tenth < 15:
            failures.fail(failure(tenth))
        file.write_if_due(failures, tenth / 10)
        shown.append(read_failed_pairs(name).failed_draws)
    assert shown == [1] * 10 + [11] * 10 + [15] * 20


def test_a_stopped_ring_says_why_until_restarted(name):
    file, failures = errors_file(name), Failures(max_failed=1.0)
    failures.fail(failure())
    file.write(failures, stopped="each of the first 20 pairs failed")
    assert read_failed_pairs(name).stopped == "each of the first 20 pairs failed"
    with pytest.raises(DaemonNotRunningError, match=f"stopped it: each of the first 20 .* `ringfeed errors {name}`"):
        read_descriptor(name)
    assert clear_leavings(name) == [errors_name(name)]
    with pytest.raises(DaemonNotRunningError, match=r"no ring is served|the rings served here"):
        read_descriptor(name)


@pytest.mark.parametrize(("access", "mode"), [(Access(), 0o600), (Access(0o660, os.getgid()), 0o640)])
def test_only_those_who_may_attach_see_the_list(name, access, mode):
    failures = Failures(max_failed=1.0)
    failures.fail(failure())
    before = os.umask(0)
    try:
        errors_file(name, access).write(failures, stopped="")
    finally:
        os.umask(before)
    assert stat.S_IMODE(segment.shm_path(errors_name(name)).stat().st_mode) == mode


def test_an_unwritable_list_is_reported_once(name, monkeypatch, caplog):
    """It stops nothing."""

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(segment, "replace_file", full)
    file, failures = errors_file(name), Failures(max_failed=1.0)
    for second in range(3):
        failures.fail(failure(second))
        file.write_if_due(failures, float(second))
    assert [record.getMessage().count("No space left on device") for record in caplog.records] == [1]


GOOD = json.loads(FailedPairs("train", "0" * 16, "", 0, {}, []).to_json())


@given(
    garbage=st.binary(max_size=100)
    | st.recursive(st.none() | st.integers() | st.text(), st.lists, max_leaves=5).map(
        lambda value: json.dumps(value).encode()
    )
    | st.tuples(st.sampled_from(sorted(GOOD)), st.none() | st.just([3]) | st.just({"a": "b"})).map(
        lambda change: json.dumps(GOOD | {change[0]: change[1]}).encode()
    )
)
def test_garbage_is_no_list(garbage):
    with pytest.raises(NotTrustedError):
        FailedPairs.from_json("train", garbage)


def test_another_rings_list_is_not_shown():
    with pytest.raises(NotTrustedError, match="another ring, 'train'"):
        FailedPairs.from_json("test", json.dumps(GOOD).encode())


def test_a_ring_that_stopped_calls_its_pairs_off():
    """Once; and what workers had in hand is no failure any more."""
    with served_ring(slots=16) as served:
        called_off = []
        served.pool.cancel = lambda ring, below: called_off.append((ring, below))
        failed = served.service.failures.total
        served.service.fail("it is over")
        served.turn()
        served.turn()
        assert called_off == [(0, served.service.ring.head)]
        served.service.result(Failed(0, served.service.ring.published, "late", "missing", 1))
        assert served.service.failures.total == failed

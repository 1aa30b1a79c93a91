"""Failed pairs: counted, listed in bounded memory, and past the budget the ring stops with a sentence."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringfeedd.failures import FIRST_PAIRS, MOST_LISTED, WINDOW_PAIRS, Failure, Failures


def failure(number: int = 0, cause: str = "corrupt") -> Failure:
    return Failure(f"pair-{number}", "it is cut off after 17 bytes", cause, attempts=1)


@given(outcomes=st.lists(st.booleans(), max_size=300), allowed=st.integers(0, 5))
def test_the_ring_stops_exactly_when_more_of_the_window_failed_than_the_budget_allows(outcomes, allowed):
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


def test_a_root_of_which_nothing_can_be_had_stops_early_whatever_the_budget():
    failures = Failures(max_failed=1.0)
    sentences = [failures.fail(failure(number)) for number in range(FIRST_PAIRS)]
    assert sentences[:-1] == [None] * (FIRST_PAIRS - 1)
    assert sentences[-1] == (
        "each of the first 20 pairs failed, mostly 'corrupt' (20 of 20); the latest was 'pair-19': it is cut off after "
        "17 bytes"
    )


def test_with_a_budget_of_everything_nothing_stops_once_one_pair_was_had():
    failures = Failures(max_failed=1.0)
    failures.succeed()
    assert not any(failures.fail(failure(number)) for number in range(3 * WINDOW_PAIRS))


def test_a_budget_of_nothing_stops_at_the_first_and_names_budget_cause_and_pair():
    failures = Failures(max_failed=0.0)
    failures.succeed()
    sentence = failures.fail(failure(3, cause="crc32c"))
    assert sentence is not None
    for part in ("1 of the latest 2 pairs failed", "max_failed = 0 of 1000", "'crc32c' (1 of 1)", "'pair-3'"):
        assert part in sentence


def test_a_pair_that_fails_again_is_listed_once_with_how_often():
    failures = Failures(max_failed=1.0)
    for number in (1, 2, 1):
        failures.fail(failure(number))
    assert [(f.pair_id, f.times) for f in failures] == [("pair-2", 1), ("pair-1", 2)]
    assert (failures.total, len(failures)) == (3, 2)


def test_the_list_keeps_the_latest_and_the_count_keeps_all():
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

"""Rates are differences of what status says, and the history of a ring is of one size whatever happens."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from ring_fixtures import served_ring

from ringfeed.cli.report import LaneStatus
from ringfeed.cli.status import ring_status
from ringfeedd.web.page.history import MOST_READERS, POINT_S, POINTS, History, Recorder, rates

LANE = LaneStatus(0, 1, "job", 0, 1, 4, 0, 0, 0, 0.0, 0.0, "block", 0)


@pytest.fixture(scope="module")
def status():
    with served_ring() as served:
        return dataclasses.replace(ring_status(served.name), uptime_s=100.0)


def later(status, seconds, lanes=(), **change):
    return dataclasses.replace(status, uptime_s=status.uptime_s + seconds, consumers=list(lanes), **change)


def lane(number=0, group="job", **change):
    return dataclasses.replace(LANE, lane=number, group=group, **change)


def test_rates_are_differences_by_second(status):
    before = later(status, 0, [lane(batches=10, waited_s=1.0)])
    now = later(
        status,
        2,
        [lane(batches=16, waited_s=2.5), lane(1, "new", batches=1, waited_s=0.5)],
        decoded_pairs=status.decoded_pairs + 30,
        downloaded_bytes=status.downloaded_bytes + 5_000_000,
        delivered_pairs=status.delivered_pairs + 28,
        retries_429=status.retries_429 + 8,
    )
    found = rates(before, now)
    assert (found.decoded, found.megabytes, found.retries["429"]) == (15, 2.5, 4)
    assert found.batches == {0: 3.0, 1: 0.5}
    assert found.waiting == {0: 0.75, 1: 0.25}
    assert found.delivered == 14
    assert found.mean_waiting == 0.5
    assert rates(before, later(status, 2)).mean_waiting is None


def test_another_daemon_or_reader_gives_no_false_rates(status):
    before = later(status, 100, [lane(batches=10, waited_s=9.0)])
    assert rates(before, later(status, 3)) is None
    assert rates(before, later(status, 105, daemon_pid=status.daemon_pid + 1)) is None
    assert rates(before, before) is None
    again = rates(before, later(status, 102, [lane(batches=2, waited_s=0.2)]))  # the same pid attached again
    assert (again.batches[0], again.waiting[0]) == (1.0, pytest.approx(0.1))
    other = rates(before, later(status, 102, [lane(pid=2, batches=12, waited_s=1.0)]))
    assert (other.batches[0], other.waiting[0]) == (6.0, 0.5)


def test_a_quarter_of_an_hour_is_kept(status):
    assert POINTS * POINT_S == 900
    recorder = Recorder()
    for number in range(POINTS + 20):
        now = later(status, POINT_S * number, [lane(batches=number)], decoded_pairs=number * number)
        recorder.point(1000.0 + number, {"train": now})
    history = recorder.history("train")
    assert history.number == POINTS + 20
    assert history.times.tolist() == [1000.0 + number for number in range(20, POINTS + 20)]
    decoded = history.lines["decoded"]
    assert decoded[-1] == pytest.approx((2 * (POINTS + 19) - 1) / POINT_S)
    assert not np.isnan(decoded).any()
    assert history.waiting["job", 0].shape == (POINTS,)


def test_its_memory_is_bounded_however_many_readers_come(status):
    history = History()
    for number in range(40):
        crowd = [lane(place, f"{number}-{place}" + "x" * 100) for place in range(64)]
        now = later(status, 5.0 * number, crowd)
        history.add(float(number), now, rates(later(now, -5.0, crowd), now))
    lines = [history.times, *history.lines.values(), *history.waiting.values()]
    names = sum(len(group.encode()) for group, _ in history.waiting)
    assert len(history.waiting) == MOST_READERS
    assert sum(line.nbytes for line in lines) + names <= History.NBYTES < 1 << 17
    assert {group.partition("-")[0] for group, _ in history.waiting} == {"39"}


def test_a_departed_reader_is_forgotten_after_15_minutes(status):
    history, gone = History(), later(status, 0, [lane()])
    history.add(0.0, gone, rates(later(gone, -5, [lane()]), gone))
    for number in range(POINTS - 1):
        history.add(float(number), later(status, 0), None)
    assert set(history.waiting) == {("job", 0)}
    history.add(0.0, later(status, 0), None)
    assert not history.waiting


def test_an_unreadable_ring_leaves_a_gap(status):
    recorder = Recorder()
    for number in range(4):
        recorder.point(
            float(number), {"train": None if number == 1 else later(status, 5 * number, decoded_pairs=10**6)}
        )
    line = recorder.history("train").lines["decoded"]
    assert [math.isnan(value) for value in line[-4:]] == [True, True, True, False]


def test_current_rates_come_from_a_second_ago(status):
    """From the latest snapshot that is a second old."""
    recorder = Recorder()
    for seconds in (0.0, 5.0, 5.5, 6.0, 6.2):
        recorder.look({"train": later(status, seconds, decoded_pairs=int(seconds * seconds * 100))})
    now = later(status, 6.5, decoded_pairs=4225)
    assert recorder.rates("train", now).decoded == pytest.approx(4225 - 3025, rel=0.01)  # since 5.5
    assert recorder.rates("train", later(status, 60)) is None  # nobody has looked for long
    assert recorder.rates("other", now) is None
    recorder.look({})
    assert recorder.rates("train", now) is None

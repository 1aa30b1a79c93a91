"""`ringfeed top`: rates are differences of two looks, and nothing that a user named can act on the terminal."""

from __future__ import annotations

import dataclasses
import io
import os
import pty
import re
import select
from contextlib import contextmanager

import pytest
from ring_fixtures import served_ring, turning

from ringfeed.cli.report import LaneStatus, by_pass
from ringfeed.cli.status import ring_status
from ringfeed.cli.top import Look, frame, look, watch
from ringfeed.reader.opening import open_reader
from ringfeed.shm.origin import Kin

READER = LaneStatus(
    lane=0,
    pid=42,
    group="job",
    rank=1,
    world_size=2,
    batch_size=32,
    batches=10,
    taken=0,
    held_pairs=64,
    waited_s=1.0,
    waiting_s=0.0,
    on_lag="block",
    missed_pairs=0,
)


@pytest.fixture(scope="module")
def status():
    with served_ring() as served:
        return dataclasses.replace(ring_status(served.name), ring="train", uptime_s=60.0, consumers=[READER])


def at(seconds, status, **change):
    return Look(seconds, {"train": dataclasses.replace(status, **change)}, [])


def test_rates_are_differences_over_time(status):
    later = dataclasses.replace(READER, batches=16, waited_s=1.5)
    before = at(10.0, status, decoded_pairs=1000, downloaded_bytes=10_000_000)
    now = at(12.0, status, decoded_pairs=3500, downloaded_bytes=15_000_000, uptime_s=62.0, consumers=[later])
    said = "\n".join(frame(before, now))
    assert "1,250 pairs/s, 2.5 MB/s, 0 retries/s" in said
    assert re.search(r"job 1/2 +42 +3\.0 +96 +64 +25%", said)


@pytest.mark.parametrize("change", [None, {"uptime_s": 1.0}])
def test_rates_need_an_earlier_look_without_a_restart(status, change):
    before = at(10.0, status, decoded_pairs=5000, uptime_s=99.0) if change else None
    said = "\n".join(frame(before, at(12.0, status, decoded_pairs=3)))
    assert "- pairs/s" in said
    assert "-9" not in said


def test_a_new_reader_begins_without_rates(status):
    """A reader that another one followed on its lane."""
    other = dataclasses.replace(READER, pid=43, batches=3)
    said = frame(at(0.0, status), at(1.0, status, uptime_s=61.0, consumers=[other]))
    assert any(re.search(r"job 1/2 +43 +- +- ", line) for line in said)


def test_no_name_can_act_on_the_terminal(status):
    hostile = dataclasses.replace(READER, group="\x1b[2J\nroot")
    said = frame(None, at(1.0, status, reason="\x1b]0;owned\x07", consumers=[hostile]))
    assert all(line.isprintable() for line in said)


def test_it_waits_for_a_ring():
    assert frame(None, Look(0.0, {}, [])) == ["No ring is served on this machine; waiting for one."]
    assert "No daemon serves the ring 'none-such'" in "\n".join(frame(None, look(["none-such"], 0.0)))


def test_without_a_terminal_frames_are_plain_text():
    """They follow each other without control codes."""
    with served_ring() as served:
        out = io.StringIO()
        watch([served.name], interval_s=0.05, count=3, out=out)
    assert out.getvalue().count(f"{served.name}: serving") == 3
    assert "\x1b" not in out.getvalue()


def test_a_terminal_is_redrawn_and_restored():
    with served_ring() as served, terminal() as (out, read):
        watch([served.name], interval_s=0.05, count=2, out=out)
        said = read()
    assert said.startswith("\x1b[?1049h")
    assert said.rstrip().endswith("\x1b[?1049l")
    assert said.count("\x1b[H") == 2


@contextmanager
def terminal():
    leader, follower = pty.openpty()

    def read() -> str:
        """All that was written, which a terminal hands over in pieces."""
        said = b""
        while select.select([leader], [], [], 0.5)[0]:
            said += os.read(leader, 1 << 16)
        return said.decode()

    with os.fdopen(follower, "w") as out:
        yield out, read
    os.close(leader)


def test_two_runs_of_a_job_are_two_passes():
    """The former run's rank 0 has yet to end, while both ranks of the new one are attached."""
    usual = {"drop_last": True, "start": "auto", "strict": True, "wait": False, "on_lag": "block", "copy": False}
    usual |= {"batch_size": 2, "group": "job", "world_size": 2, "wait_s": 0.0, "restart_s": 0.0}
    with served_ring(lanes=4) as served, turning(served):
        kept = [
            open_reader(served.name, rank=rank, kin=Kin(run=run), **usual) for run, rank in ((7, 0), (9, 0), (9, 1))
        ]
        now = ring_status(served.name)
        assert [(name, [lane.rank for lane in lanes]) for name, lanes in by_pass(now.consumers)] == [
            ("job", [0, 1]),
            ("job (earlier run)", [0]),
        ]
        said = "\n".join(now.lines())
        assert "job (earlier run) misses rank 1: rank 1/2 of group 'job' has never attached" in said
        assert "job misses" not in said
        assert "job (earlier run) 0/2" in "\n".join(frame(None, at(1.0, now, consumers=now.consumers)))
        for reader in kept:
            reader.close()


@pytest.mark.parametrize(
    ("runs", "passes"),
    [((0, 0), [2]), ((5, 5), [2]), ((5, 0), [2]), ((5, 6), [1, 1]), ((5, 6, 0), [1, 1, 1]), ((), [])],
)
def test_lanes_of_unknown_runs_join_the_only_run(runs, passes):
    lanes = [dataclasses.replace(READER, rank=rank, run=run) for rank, run in enumerate(runs)]
    assert [len(members) for _, members in by_pass(lanes)] == passes

"""A ring as people are shown it, from plain data: no shared memory is needed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ringfeed.cli.report import HEARTBEAT_LATE_S, LaneStatus, RingStatus, StoreStatus, by_pass
from ringfeed.shm.counters import StoreCounts


def ring(**changes: Any) -> RingStatus:
    plain: dict[str, Any] = {
        "ring": "train",
        "state": "serving",
        "reason": "",
        "refresh": "",
        "root": "gs://b/set",
        "split": "train",
        "fingerprint": "f" * 32,
        "daemon_pid": 7,
        "uptime_s": 60.0,
        "heartbeat_age_s": 0.1,
        "order": "shuffle",
        "seed": 3,
        "fit": "resize",
        "label_mode": "index",
        "slots": 64,
        "slot_height": 24,
        "slot_width": 32,
        "memory_bytes": 1 << 20,
        "mirrored": True,
        "epoch_length": 1000,
        "num_nodes": 1,
        "node_rank": 0,
        "epoch": 2,
        "position": 40,
        "floor": 2040,
        "published": 2080,
        "head": 2100,
        "filled_slots": 40,
        "store": StoreStatus(),
        "failures_by_cause": {},
        "lanes": 4,
        "consumers": [],
        "identity": {},
    }
    return RingStatus(**plain | changes)


def lane(number: int, **changes: Any) -> LaneStatus:
    plain = LaneStatus(number, 100 + number, "job", number, 2, 8, 5, 40, 8, 1.0, 0.0, "block", 0)
    return replace(plain, **changes)


def test_the_stream_is_told_in_words():
    rows = ring().rows()
    assert rows["stream"] == "epoch 2, position 40; pairs 2040 to 2080 are kept"
    assert rows["source"] == "gs://b/set (train, 1,000 pairs, shuffle, seed 3)"
    assert "cache" not in rows
    assert "refresh" not in rows


def test_a_daemon_whose_loop_stands_is_named():
    assert ring(heartbeat_age_s=HEARTBEAT_LATE_S + 2).headline == "train: serving, its loop has not turned for 7 s"
    assert ring(heartbeat_age_s=HEARTBEAT_LATE_S).headline == "train: serving"
    assert ring(state="dead", heartbeat_age_s=100.0).headline == "train: dead"


def test_ranks_that_are_away_are_named():
    lines = ring(consumers=[lane(1, world_size=3)]).lines()
    assert lines[-1] == "    job misses rank 0, 2"


def test_an_earlier_run_is_another_pass():
    lanes = [lane(0, run=1, attached_s=90.0), lane(1, run=2, attached_s=1.0), lane(2, run=2, attached_s=2.0, rank=0)]
    assert [(name, [one.lane for one in ranks]) for name, ranks in by_pass(lanes)] == [
        ("job", [2, 1]),
        ("job (earlier run)", [0]),
    ]


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ({}, "answers; 0 requests, 0 outages"),
        (
            {"limit_per_s": 99.6, "requests": 1200},
            "answers, limited to about 100 requests/s; 1,200 requests, 0 outages",
        ),
    ],
)
def test_a_store_that_answers(counts, said):
    assert StoreStatus(**counts).sentence(2) == said
    assert not StoreStatus(**counts).unreachable
    assert isinstance(StoreStatus(), StoreCounts)


def test_the_cache_is_told_where_there_is_one():
    rows = ring(cache_rows=10, cache_rows_filled=5, cache_row_bytes=1 << 30, memory_hits=30, decoded_pairs=90).rows()
    assert rows["cache"].startswith("memory holds 5/10 pairs (5.0 GiB); 30 + 0 hits (25%) saved 60 requests")

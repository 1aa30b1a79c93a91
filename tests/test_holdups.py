"""A reader that makes others wait is named, with whom it keeps waiting and for how long; not at once, and seldom."""

from __future__ import annotations

import threading
import uuid

import pytest
from house import Daemon, wait_until, write_folder
from hypothesis import given
from hypothesis import strategies as st
from ring_fixtures import served_ring

import ringfeed
from ringfeed.holdups import HoldUp, Standing, hold_up
from ringfeed.layout import Lane
from ringfeed.status import ring_status
from ringfeedd.holdup_watch import AGAIN_AFTER_S, FIRST_AFTER_S, HoldUpWatch
from ringfeedd.storewatch import StoreHealth

SLOTS = 16


def reader(name="job", *, released=0, held=4, waiting_s=0.0, skips=False) -> Standing:
    return Standing(name, 0, 1, 4242, released, held, waiting_s, skips)


def look(*readers, floor=0, published=SLOTS):
    return hold_up(readers, floor=floor, published=published, slots=SLOTS)


def test_the_busy_reader_at_the_floor_is_named_with_those_who_wait():
    found = look(
        reader("slow", held=8), reader("a", released=16, waiting_s=3.0), reader("b", released=12, waiting_s=12.4)
    )
    assert found is not None
    assert found.sentence().startswith(
        "rank 0/1 of group 'slow' (pid 4242) holds up the ring: it has 8 pairs in hand and asks for no others, and 2 "
        "readers wait for 12 s now for its slots"
    )


@pytest.mark.parametrize(
    "readers",
    [
        [reader("busy"), reader("busy too", released=16)],  # nobody waits
        [reader("monitor", skips=True), reader("monitor too", skips=True)],
        [],
    ],
)
def test_nobody_is_named_where_nobody_waits(readers):
    assert look(*readers) is None


def test_nobody_is_named_for_a_slow_source():
    assert look(reader("busy"), reader("hungry", released=15, waiting_s=60.0), published=15) is None


def test_a_reader_that_skips_is_never_named_nor_one_that_is_ahead_of_the_floor():
    found = look(
        reader("slow"),
        reader("monitor", skips=True),
        reader("ahead", released=8),
        reader("a", released=16, waiting_s=1),
    )
    assert [holder.group for holder in found.holders] == ["slow"]


def test_the_kept_place_of_an_absent_rank_is_told_as_that():
    found = look(reader("a", released=16, waiting_s=30.0))
    assert "kept for a rank that is away" in found.sentence()
    assert "1 reader waits for 30 s" in found.sentence()


@given(
    released=st.lists(st.tuples(st.integers(0, 20), st.floats(0, 100), st.booleans()), max_size=5),
    published=st.integers(0, 40),
)
def test_whoever_is_named_stands_at_the_floor_busy_and_somebody_waits(released, published):
    readers = [reader(str(n), released=r, waiting_s=w, skips=s) for n, (r, w, s) in enumerate(released)]
    floor = min((r.released for r in readers if not r.skips), default=0)
    found = look(*readers, floor=floor, published=published)
    if found is not None:
        assert published >= floor + SLOTS
        assert any(r.waiting_s for r in readers)
        assert all(h.released == floor and not h.waiting_s and not h.skips for h in found.holders)


def found(waited_s: float) -> HoldUp:
    return HoldUp((reader("slow"),), 1, waited_s)


def test_the_log_has_a_line_after_ten_seconds_then_one_in_five_minutes_and_one_when_it_is_over():
    watch, said = HoldUpWatch(), {}
    for second in range(1000):
        if sentence := watch.look(found(float(second)) if second < 700 else None, float(second)):
            said[second] = sentence
    assert list(said) == [FIRST_AFTER_S, FIRST_AFTER_S + AGAIN_AFTER_S, FIRST_AFTER_S + 2 * AGAIN_AFTER_S, 700]
    assert "'slow'" in said[10]
    assert said[700] == "the ring goes on; it was held up for 700 s"


def test_waits_that_end_within_ten_seconds_are_nobodys_business():
    watch = HoldUpWatch()
    assert not any(watch.look(found(float(second % 10)), float(second)) for second in range(100))


def test_a_reader_that_sleeps_on_its_batch_is_named_in_the_log(caplog):
    with served_ring(slots=SLOTS) as served:
        slow, fast = (served.memory.lanes[lane] for lane in (0, 1))
        for page, group in ((slow, "slow"), (fast, "fast\n\x1b[2J")):
            page.write_request(request(group), nonce=7)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(served.memory, "lane_lives", lambda lane: lane < 2)
            served.turn()
            for page, taken, released in ((slow, 4, 0), (fast, 16, 16)):
                page[Lane.TAKEN], page[Lane.RELEASED] = taken, released
            fast[Lane.WAITING_SINCE_NS] = int(served.seconds * 1e9)
            for _ in range(12):
                served.turn()
                served.service.report(workers=1, worker_deaths=0, store=StoreHealth())
            warned = [record.getMessage() for record in caplog.records if "holds up" in record.getMessage()]
            assert len(warned) == 1
            assert "rank 0/1 of group 'slow' (pid 1) holds up the ring: it has 4 pairs in hand" in warned[0]
            slow[Lane.RELEASED], fast[Lane.WAITING_SINCE_NS] = 4, 0
            served.turn()
            served.service.report(workers=1, worker_deaths=0, store=StoreHealth())
            assert "the ring goes on; it was held up for 1" in caplog.records[-1].getMessage()


def request(group):
    return ringfeed.lane.Request(
        group=group,
        rank=0,
        world_size=1,
        batch_size=4,
        drop_last=True,
        start=ringfeed.layout.Start.AUTO,
        at=(0, 0),
        anonymous=False,
        pid=1,
    )


def test_status_names_a_reader_that_others_wait_for_and_no_longer_once_it_goes_on(tmp_path):
    ring = f"t{uuid.uuid4().hex[:10]}"
    name = f"{ring}-train"
    with (
        Daemon(str(write_folder(tmp_path, 24)), "--slots", "8", "--size", "32x48", "--workers", "1", ring=ring),
        ringfeed.attach(name, batch_size=2, group="slow") as slow,
        ringfeed.attach(name, batch_size=2, group="fast") as fast,
    ):
        batches = iter(slow)
        held = next(batches)
        hungry = threading.Thread(target=read_to_the_end, args=(fast,))
        hungry.start()
        wait_until(lambda: "group 'slow'" in ring_status(name).held_up)
        status = ring_status(name)
        assert "holds up the ring: it has" in status.held_up
        assert f"    {status.held_up[:30]}" in "\n".join(status.lines())
        assert status.as_json()["held_up"]
        del held
        assert read_to_the_end(batches) == 11
        hungry.join()
        assert ring_status(name).held_up == ""


def read_to_the_end(batches):
    return sum(1 for _ in batches)

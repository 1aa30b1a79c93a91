"""A reader that makes others wait is named, with whom it keeps waiting and for how long; not at once, and seldom."""

from __future__ import annotations

import contextlib
import math
import threading
import time
import uuid

import pytest
from house import Daemon, wait_until, write_folder
from hypothesis import given
from hypothesis import strategies as st
from ring_fixtures import served_ring, turning

import ringfeed
from ringfeed.cli.status import ring_status
from ringfeed.health.stalls import Stall, hold_up
from ringfeed.shm.counters import DaemonCounts
from ringfeed.shm.layout import Lane
from ringfeed.shm.missing import Absence
from ringfeed.shm.progress import Standing
from ringfeedd.fetch.health import StoreHealth
from ringfeedd.reporting.stalls import AGAIN_AFTER_S, FIRST_AFTER_S, HoldUpWatch
from ringfeedd.ring.groups import Groups

SLOTS = 16


def reader(name="job", *, rank=0, world_size=1, first=0, released=0, held=4, **facts) -> Standing:
    return Standing(name, rank, world_size, 4, 4242, first, released + held, released, **facts)


def look(*readers, floor=0, published=SLOTS):
    return hold_up(readers, floor=floor, published=published, slots=SLOTS)


def test_the_busy_reader_at_the_floor_is_named():
    """With those who wait."""
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


def test_skipping_and_advanced_readers_are_never_named():
    """A reader that is ahead of the floor stalls nothing."""
    found = look(
        reader("slow"),
        reader("monitor", skips=True),
        reader("ahead", released=8),
        reader("a", released=16, waiting_s=1),
    )
    assert [holder.group for holder in found.holders] == ["slow"]


def test_an_absent_ranks_kept_place_is_named_so():
    found = look(reader("a", released=16, waiting_s=30.0))
    assert "kept for a rank that is away" in found.sentence()
    assert "1 reader waits for 30 s" in found.sentence()


@given(
    released=st.lists(st.tuples(st.integers(0, 20), st.floats(0, 100), st.booleans()), max_size=5),
    published=st.integers(0, 40),
)
def test_a_named_reader_is_busy_at_the_floor(released, published):
    """And another reader waits."""
    readers = [reader(str(n), released=r, waiting_s=w, skips=s) for n, (r, w, s) in enumerate(released)]
    floor = min((r.released for r in readers if not r.skips), default=0)
    found = look(*readers, floor=floor, published=published)
    if found is not None:
        assert published >= floor + SLOTS
        assert any(r.waiting_s for r in readers)
        assert all(h.released == floor and not h.waiting_s and not h.skips for h in found.holders)


def found(waited_s: float) -> Stall:
    return Stall((reader("slow"),), 1, waited_s)


def test_a_stall_is_logged_at_growing_intervals():
    """After ten seconds, then every five minutes, and when it is over."""
    watch, said = HoldUpWatch(), {}
    for second in range(1000):
        if sentence := watch.look(found(float(second)) if second < 700 else None, float(second)):
            said[second] = sentence
    assert list(said) == [FIRST_AFTER_S, FIRST_AFTER_S + AGAIN_AFTER_S, FIRST_AFTER_S + 2 * AGAIN_AFTER_S, 700]
    assert "'slow'" in said[10]
    assert said[700] == "the ring goes on; it was held up for 700 s"


def test_waits_within_ten_seconds_are_not_logged():
    watch = HoldUpWatch()
    assert not any(watch.look(found(float(second % 10)), float(second)) for second in range(100))


def test_a_reader_sleeping_on_its_batch_is_logged(caplog):
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
                served.service.report(DaemonCounts(workers=1), StoreHealth())
            warned = [record.getMessage() for record in caplog.records if "holds up" in record.getMessage()]
            assert len(warned) == 1
            assert "rank 0/1 of group 'slow' (pid 1) holds up the ring: it has 4 pairs in hand" in warned[0]
            slow[Lane.RELEASED], fast[Lane.WAITING_SINCE_NS] = 4, 0
            served.turn()
            served.service.report(DaemonCounts(workers=1), StoreHealth())
            assert "the ring goes on; it was held up for 1" in caplog.records[-1].getMessage()


def report(service):
    service.report(DaemonCounts(workers=1), StoreHealth())


def test_a_wait_uses_the_clock_that_began_it(caplog):
    """The daemon's own clock begins with the daemon, and stands while that is stopped."""
    with served_ring(slots=SLOTS) as served:
        served.service._consumers_clock = time.monotonic_ns
        with (
            turning(served),
            ringfeed.attach(served.name, batch_size=4, group="slow", copy=True) as slow,
            ringfeed.attach(served.name, batch_size=4, group="fast") as fast,
        ):
            next(iter(slow))
            fast._delivery.attachment.page[Lane.TAKEN] = fast._delivery.attachment.page[Lane.RELEASED] = SLOTS
            fast._delivery.attachment.page[Lane.WAITING_SINCE_NS] = time.monotonic_ns() - int(12e9)
            wait_until(lambda: report(served.service) or "for 12 s now" in caplog.text, 5)


# Ranks that do not read together, and consumers that do not say what they do.


def pair(rank, **facts):
    return reader("job", rank=rank, world_size=2, **facts)


def test_the_rank_ahead_is_blamed():
    """Not the rank that it waits for."""
    found = look(pair(0, released=24, held=0, epoch=1, waiting_s=4.2), pair(1, released=0, held=8))
    assert found.out_of_step
    said = found.sentence()
    assert said.startswith(
        "rank 0/2 of group 'job' (pid 4242) has run 2 batches ahead of rank 1/2 (pid 4242) (epoch 1 "
    )
    assert "rank=0, world_size=1" in said


def test_a_rank_one_batch_ahead_awaits_a_slower():
    found = look(pair(0, released=16, held=0, waiting_s=4.2), pair(1, released=0, held=8))
    assert not found.out_of_step
    assert found.sentence().startswith("rank 1/2")


def test_workers_may_be_some_batches_ahead():
    found = look(pair(0, released=32, held=0, waiting_s=4.2, workers=2), pair(1, released=0, held=8, workers=2))
    assert not found.out_of_step


def test_workers_are_named_with_the_rank_they_serve():
    """Two ranks with two workers each: workers count before ranks."""
    shape = {"world_size": 4, "workers": 2}
    found = look(reader(rank=2, released=80, held=0, waiting_s=4.2, **shape), reader(rank=3, held=16, **shape))
    assert found.sentence().startswith(
        "worker 1 of rank 0/2 of group 'job' (pid 4242) has run 4 batches ahead of worker 1"
    )


def test_an_earlier_runs_rank_is_named_as_such():
    """As torchrun's ranks do when torchrun itself is killed by -9."""
    found = look(pair(0, released=80, held=0, waiting_s=4.2, run=2), pair(1, released=0, held=8, run=1))
    assert found.out_of_step
    assert found.sentence().startswith("rank 1/2 of group 'job' (pid 4242) is of an earlier run of this job and keeps")


def test_a_process_awaited_by_its_workers_is_named():
    worker = reader("loader", world_size=2, released=16, held=0, waiting_s=3.0, workers=2, owner=7)
    found = look(reader("idle", held=0, owner=7), worker)
    assert found.out_of_step
    assert found.sentence().startswith(
        "rank 0/1 of group 'idle' (pid 4242) was attached in the process that waits for these DataLoader workers"
    )
    assert "close()" in found.sentence()
    assert not look(reader("idle", held=0, owner=8), worker).out_of_step


@pytest.mark.parametrize(
    ("absence", "words"),
    [
        (
            Absence(1, 1, came=False, since_s=9.0),
            "rank 1/2 of group 'job' has never attached, and 1 reader waits for 4",
        ),
        (Absence(1, 1, came=True, since_s=9.0), "rank 1/2 of group 'job' has been away for 9 s, and 1 reader waits"),
        (Absence(3, 1, came=False, since_s=9.0), "has never attached (2 more are away, too), and"),
    ],
)
def test_an_absent_rank_is_named_with_its_activity(absence, words):
    found = look(pair(0, released=16, waiting_s=4.2, absence=absence))
    assert found.out_of_step
    assert words in found.sentence()
    assert "rank=0, world_size=1" in found.sentence()


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"held": 0, "attached_s": 6.0}, "has taken no batch since it attached 6 s ago (its word TAKEN has not moved)"),
        ({"held": 16, "attached_s": 6.0}, "has given no batch back since it attached 6 s ago (its word RELEASED has"),
        ({"held": 16, "attached_s": 6.0, "waiting_s": 5.0}, "its word RELEASED has not moved"),
    ],
)
def test_a_consumer_that_moves_no_word_is_named(facts, words):
    found = look(reader(**facts))
    assert words in found.sentence()
    watch = HoldUpWatch()
    assert watch.look(found, 6.0) == found.sentence(), "within ten seconds"


@pytest.mark.parametrize(
    "facts",
    [
        {"held": 0, "attached_s": 2.0},  # it may be about to
        {"held": 4, "attached_s": 60.0},  # a long step
        {"first": 0, "released": 4, "held": 16, "attached_s": 60.0},
        {"held": 0, "attached_s": 60.0, "waiting_s": 60.0},  # a moment
    ],
)
def test_a_consumer_that_moves_its_words_is_not(facts):
    floor = facts.get("released", 0)
    assert look(reader(**facts), floor=floor, published=floor + SLOTS) is None


@pytest.mark.parametrize(("moved", "word"), [(None, "TAKEN"), (Lane.RELEASED, "TAKEN"), (Lane.TAKEN, "RELEASED")])
def test_a_stuck_consumer_appears_in_log_and_status(moved, word, caplog):
    """One that never moves a word."""
    with served_ring(slots=SLOTS) as served:
        served.service._consumers_clock = time.monotonic_ns
        with turning(served), ringfeed.attach(served.name, batch_size=4, group="mute") as mute:
            if moved is not None:
                mute._delivery.attachment.page[moved] = SLOTS
            page = served.memory.lanes[mute._delivery.attachment.lane]
            page[Lane.ANSWERED_NS] -= int(7e9)
            wait_until(lambda: report(served.service) or f"its word {word} has not moved" in caplog.text, 5)
            assert f"its word {word} has not moved" in ring_status(served.name).held_up


def test_a_rank_awaiting_an_absent_one_is_told(caplog):
    """Within five seconds."""
    with served_ring(slots=SLOTS) as served, turning(served):
        began = time.monotonic()
        with ringfeed.attach(served.name, batch_size=4, group="job", rank=0, world_size=2) as lonely:
            reading = threading.Thread(target=read_until_closed, args=(lonely,))
            reading.start()
            wait_until(lambda: "rank 1/2 of group 'job' has never attached" in caplog.text, 10)
            assert time.monotonic() - began < 5
            assert "job misses rank 1: rank 1/2 of group 'job' has never" in "\n".join(ring_status(served.name).lines())
        reading.join()


def read_until_closed(reader):
    with contextlib.suppress(ringfeed.ReaderClosedError):
        read_to_the_end(reader)


def test_a_rank_that_read_alone_is_told(caplog):
    """At the epoch's end."""
    with (
        served_ring(slots=64, epoch_length=40) as served,
        turning(served),
        ringfeed.attach(served.name, batch_size=4, group="job", rank=0, world_size=2) as lonely,
    ):
        assert read_to_the_end(lonely) == 5
    assert "rank 1/2 of group 'job' has never attached: this process has read its share of epoch 0, 1/2" in caplog.text


def test_ranks_may_read_one_after_another(caplog):
    """Nothing keeps them in step, and the set is small: the first is told what is open, the second nothing untrue."""
    groups = Groups(linger_s=math.inf)
    with served_ring(slots=64, epoch_length=42, groups=groups) as served, turning(served):
        read: list[int] = []
        for rank in (0, 1):
            with ringfeed.attach(
                served.name, batch_size=4, group="job", rank=rank, world_size=2, drop_last=False
            ) as reader:
                read += [int(position) for batch in reader for position in batch.positions]
    assert sorted(read) == list(range(42))
    (told,) = (record.getMessage() for record in caplog.records if record.name == "ringfeed")
    assert told.startswith("rank 1/2 of group 'job' ")
    assert "that rank's share is not read unless it comes" in told


def test_a_young_absence_is_worded_as_such():
    words = [Absence(1, 1, came=False, since_s=seconds).sentence("job", 2) for seconds in (0.1, 8.0)]
    assert words == [f"rank 1/2 of group 'job' has {what}" for what in ("not attached yet", "never attached")]


def test_ranks_that_come_and_leave_raise_no_warning(caplog):
    with served_ring(slots=64, epoch_length=40) as served, turning(served):
        ranks = [ringfeed.attach(served.name, batch_size=4, group="job", rank=rank, world_size=2) for rank in (0, 1)]
        assert read_to_the_end(ranks[1]) == 5
        ranks[1].close()
        assert read_to_the_end(ranks[0]) == 5
        ranks[0].close()
    assert not [record for record in caplog.records if record.name == "ringfeed"]


def request(group):
    return ringfeed.shm.lane.Request(
        group=group,
        rank=0,
        world_size=1,
        batch_size=4,
        drop_last=True,
        start=ringfeed.shm.layout.Start.AUTO,
        at=(0, 0),
        anonymous=False,
        pid=1,
    )


def test_status_names_a_blocking_reader_while_it_blocks(tmp_path):
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
        assert "rank 0/1 of group 'slow'" in status.held_up  # its batch has moved out of the ring, or is about to
        assert f"    {status.held_up[:30]}" in "\n".join(status.lines())
        assert status.as_json()["held_up"]
        del held
        assert read_to_the_end(batches) == 11
        hungry.join()
        assert ring_status(name).held_up == ""


def read_to_the_end(batches):
    return sum(1 for _ in batches)

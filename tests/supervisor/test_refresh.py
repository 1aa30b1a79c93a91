"""Growing buckets: new pairs come in with an epoch, under readers who read on."""

import contextlib
import os
import pty
import signal
import subprocess
import sys
import threading
from contextlib import ExitStack

import numpy as np
import pytest
from growing import epoch_of, names, pictures, put
from house import Daemon, Output, traces, wait_until, wipe, write_folder
from PIL import Image
from ring_fixtures import fake_revision, served_ring

import ringfeed
from ringfeed.cli.status import ring_status
from ringfeed.shm.control import open_control
from ringfeed.torch.first_place import state_before_the_start
from ringfeedd.recovery.predecessor import read_predecessors

PAIRS, MORE = 20, 12


@pytest.fixture(scope="module")
def grown(tmp_path_factory):
    """A folder of all pairs; tests copy some of it."""
    return write_folder(tmp_path_factory.mktemp("all"), PAIRS + MORE)


@contextlib.contextmanager
def only(folder, count):
    """All pairs but the first ``count`` are gone for a while."""
    gone = [path for part in ("images", "labels") for path in pictures(folder, part)[count:]]
    for path in gone:
        path.rename(path.with_suffix(path.suffix + "~"))
    try:
        yield
    finally:
        for path in gone:
            path.with_suffix(path.suffix + "~").rename(path)


def serve(folder, ring, *arguments):
    return Daemon(
        str(folder), "--size", "24x32", "--slots", "16", "--workers", "1", "--concurrency", "4", *arguments, ring=ring
    )


def refresh(ring, code=0):
    command = [sys.executable, "-m", "ringfeedd", "refresh", f"{ring}-train"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_new_pairs_arrive_with_the_next_epoch(grown, tmp_path, ring):
    """No reader is disturbed."""
    folder = put(grown, tmp_path, PAIRS)
    old = names(folder)
    with (
        serve(folder, ring),
        ringfeed.attach(f"{ring}-train", batch_size=3, group="a", drop_last=False) as reader,
        ringfeed.attach(f"{ring}-train", batch_size=5, group="b", drop_last=False) as other,
    ):
        before = reader.state_dict()
        put(grown, folder, PAIRS + MORE)
        assert f"{PAIRS + MORE} pairs instead of {PAIRS} from epoch" in refresh(ring)
        assert len(reader.descriptor.catalogs) == 1, "the reader has had no reason to look yet"
        grown_ids = names(folder)
        seen = {}
        while reader.epoch < 4:
            epoch = reader.epoch
            assert other.epoch == epoch
            seen[epoch], others = epoch_of(reader, other)
            assert seen[epoch] == others
        begins = reader.descriptor.newest.since_epoch
        assert begins in (1, 2), "the ring had 16 slots: no more than the next epoch was begun"
        for epoch, ids in seen.items():
            assert sorted(ids) == (grown_ids if epoch >= begins else old)
        assert len(reader) == -(-(PAIRS + MORE) // 3)
        after = reader.state_dict()
        assert after["fingerprint"] != before["fingerprint"]
        with pytest.raises(ringfeed.StateMismatchError, match=r"ids \(fingerprint\)"):
            ringfeed.attach(f"{ring}-train", batch_size=3, start={**before, "epoch": 7}, group="late")
        assert f"{PAIRS + MORE} pairs instead of {PAIRS}" in ring_status(f"{ring}-train").refresh


def test_all_ranks_change_catalogs_at_the_same_step(grown, tmp_path, ring):
    folder = put(grown, tmp_path, PAIRS)
    old = names(folder)
    with serve(folder, ring), ExitStack() as stack:
        ranks = [
            stack.enter_context(
                ringfeed.attach(f"{ring}-train", batch_size=2, group="g", rank=r, world_size=3, drop_last=False)
            )
            for r in range(3)
        ]
        put(grown, folder, PAIRS + MORE)
        refresh(ring)
        new = names(folder)
        steps = {}
        while ranks[0].epoch < 4:
            epoch, taken = ranks[0].epoch, []
            iterators = [iter(rank) for rank in ranks]
            while batches := [batch for batch in (next(one, None) for one in iterators) if batch is not None]:
                assert len(batches) == 3
                taken += [batch.ids[i] for batch in batches for i in range(len(batch)) if batch.valid[i]]
                steps[epoch] = steps.get(epoch, 0) + 1
                assert len({str(rank.state_dict()) for rank in ranks}) == 1
            assert sorted(taken) == (new if len(taken) > PAIRS else old)
        assert steps[0] == -(-PAIRS // 6)
        assert steps[3] == -(-(PAIRS + MORE) // 6)


def test_an_idle_ring_begins_with_the_new_pairs(grown, tmp_path, ring):
    folder = put(grown, tmp_path, PAIRS)
    with serve(folder, ring) as daemon:
        put(grown, folder, PAIRS + MORE)
        daemon.process.send_signal(signal.SIGHUP)
        wait_until(lambda: ring_status(f"{ring}-train").epoch_length == PAIRS + MORE)
        with ringfeed.attach(f"{ring}-train", batch_size=4, drop_last=False) as reader:
            assert reader.joined_at == (0, 0)
            assert sorted(epoch_of(reader)) == names(folder)


def test_removed_pairs_go_and_replaced_objects_are_reread(grown, tmp_path, ring):
    folder = put(grown, tmp_path, PAIRS)
    with serve(folder, ring), ringfeed.attach(f"{ring}-train", batch_size=4, drop_last=False) as reader:
        path, pair_id = pictures(folder, "images")[3], names(folder)[3]
        Image.fromarray(np.full((24, 32, 3), 77, np.uint8)).save(path, "JPEG", quality=95)
        assert "the ids are the same" in refresh(ring)
        epoch_of(reader)  # what was in the ring before
        epoch_of(reader)
        (pixels,) = [b.image[i].copy() for b in reader for i in range(len(b)) if b.ids[i] == pair_id]
        assert abs(int(pixels.mean()) - 77) < 3
        put(grown, folder, PAIRS - 5)
        assert f"{PAIRS - 5} pairs instead of {PAIRS}" in refresh(ring)
        epoch_of(reader)
        epoch_of(reader)
        assert sorted(epoch_of(reader)) == names(folder)


def test_a_failed_refresh_says_why_and_disturbs_nothing(grown, tmp_path, ring):
    folder = put(grown, tmp_path, PAIRS)
    with (
        serve(folder, ring, "--max-failed", "1"),
        ringfeed.attach(f"{ring}-train", batch_size=7, group="big") as reader,
    ):
        wait_until(lambda: ring_status(f"{ring}-train").filled_slots == 16)  # so that little is fetched meanwhile
        with only(folder, 5):
            assert "fewer than one round of group 'big'" in refresh(ring, code=3)
        with only(folder, 0):
            assert "failed, and what was listed before is served on: " in refresh(ring, code=3)
        assert len(epoch_of(reader)) == len(epoch_of(reader)) == 14
    assert "nothing to refresh" in refresh(ring, code=3) or "No daemon serves" in refresh(ring, code=3)


def test_a_second_refresh_waits_for_the_first_change(grown, tmp_path, ring):
    """Until the readers have passed it."""
    folder = put(grown, tmp_path, PAIRS - 6)
    with serve(folder, ring), ringfeed.attach(f"{ring}-train", batch_size=4, drop_last=False) as reader:
        put(grown, folder, PAIRS)
        refresh(ring)
        put(grown, folder, PAIRS + MORE)
        assert "wait until all readers have passed the last change" in refresh(ring)
        counts = [len(epoch_of(reader)) for _ in range(8)]
        assert counts == sorted(counts)
        assert set(counts) == {PAIRS - 6, PAIRS, PAIRS + MORE}


def test_a_kill_after_a_refresh_keeps_new_pairs(grown, tmp_path, ring):
    """The next daemon serves them."""
    folder = put(grown, tmp_path, PAIRS)
    daemon = serve(folder, ring)
    with daemon, ringfeed.attach(f"{ring}-train", batch_size=4, group="g", drop_last=False) as reader:
        put(grown, folder, PAIRS + MORE)
        refresh(ring)
        while reader.epoch < 2:
            epoch_of(reader)
        batches = iter(reader)
        taken = list(next(batches).ids)
        daemon.process.kill()
        daemon.process.wait()
        daemon.start().output.wait_for("ready")
        taken += [pair_id for batch in batches for pair_id in batch.ids]
        assert sorted(taken) == names(folder)


@contextlib.contextmanager
def turning(served):
    """A thread that serves; yields the lock under which it does."""
    lock, ending = threading.Lock(), threading.Event()

    def turn():
        while not ending.is_set():
            with lock:
                served.turn(0.001)
            ending.wait(0.001)

    thread = threading.Thread(target=turn)
    thread.start()
    try:
        yield lock
    finally:
        ending.set()
        thread.join()


def test_a_reader_may_sleep_through_two_changes():
    """It stalls no other reader, and knows where it is."""
    with (
        served_ring(epoch_length=12) as served,
        turning(served) as lock,
        ringfeed.attach(served.name, batch_size=4, group="steady") as steady,
        ringfeed.attach(served.name, batch_size=4, group="sleeper", on_lag="skip") as sleeper,
    ):
        assert len(next(iter(sleeper))) == 4
        for length in (20, 28):
            with lock:
                served.service.offer(fake_revision(length, fingerprint=f"{length}"))
            while len(epoch_of(steady)) < length:
                pass
        batch = next(batch for _ in range(5) for batch in sleeper)
        assert batch.missed >= 12
        with lock:
            place = served.service.ring.place(int(batch.seqs[0]))
        assert (batch.epoch, int(batch.positions[0])) == (place.epoch, place.position)
        assert batch.ids[0] == f"größe/{1000 + place.position}"
        assert len(sleeper) == 28 // 4


def test_a_change_ends_when_every_reader_passed_it():
    """Also a reader that waits at an epoch's start."""
    with (
        served_ring(slots=12, epoch_length=12) as served,
        turning(served) as lock,
        ringfeed.attach(served.name, batch_size=4, group="early", drop_last=False) as early,
        ringfeed.attach(served.name, batch_size=4, group="late", drop_last=False) as late,
    ):
        assert len(epoch_of(early)) == 12  # the ring is full and ends with the epoch, since the other has read nothing
        with lock:
            served.service.offer(fake_revision(16, fingerprint="2" * 32))
        assert len(epoch_of(late)) == 12
        batches = iter(late)
        next(batches)  # it is in the second epoch; the first one validates, say, and has not looked since
        assert late.descriptor.catalog_changes == 1
        with lock:
            served.service.offer(fake_revision(20, fingerprint="3" * 32))
        for _ in range(3):  # whole turns, each with all that it can do
            with lock:
                served.turn(0.001)
        epoch = early.epoch
        assert epoch_of(early) == [f"größe/{1000 + position}" for position in range(16)]
        assert epoch == 1
        assert len([pair_id for batch in batches for pair_id in batch.ids]) == 12
        counts = [[len(ids) for ids in epoch_of(early, late)] for _ in range(3)]
        assert counts[-1] == [20, 20], "the third catalog comes in"


@pytest.mark.parametrize("lengths", [(16, 20, 24), (20, 18, 15)], ids=["longer", "shorter"])
def test_places_outlast_several_changes(lengths):
    """Pairs are counted by lengths that still hold, though the reader was told a place of a former catalog."""
    with (
        served_ring(slots=12, epoch_length=22) as served,
        turning(served) as lock,
        ringfeed.attach(served.name, batch_size=4, drop_last=False, start=(0, 20)) as reader,
    ):
        for number, length in enumerate(lengths):
            with lock:
                served.service.offer(fake_revision(length, fingerprint=f"{number}" * 32))
            while len(epoch_of(reader)) != length or len(served.service.catalogs) > 1:
                pass
        batches = iter(reader)
        for _ in range(2):
            assert len(next(batches).ids) == 4
        epoch = reader.epoch
        with lock:
            ((former,),) = (one.places for one in read_predecessors(served.name))
            ring, status = served.service.ring, ring_status(served.name)
            floor, published = ring.place(ring.floor), ring.place(ring.published)
        assert former.at == (epoch, 8)
        assert former.at <= former.reaches
        assert (published.epoch, published.position) <= former.reaches
        assert state_before_the_start(served.name, "auto", (1, 4, False)).epoch == epoch
        assert [standing.epoch for standing in open_control(served.name).standings()] == [epoch]
        assert (status.epoch, status.position) == (floor.epoch, floor.position)


def test_a_job_behind_an_ended_change_is_told():
    """It gets no other pairs instead."""
    with served_ring(slots=16, epoch_length=12) as served, turning(served) as lock:
        with ringfeed.attach(served.name, batch_size=4, group="job") as reader:
            state = reader.state_dict()
            assert len(epoch_of(reader)) == 12
            with lock:
                served.service.offer(fake_revision(16, fingerprint="2" * 32))
            while len(epoch_of(reader)) < 16 or len(served.service.catalogs) > 1:
                pass
            later = reader.state_dict()
            reader.close(keep_place=True)
        with pytest.raises(ringfeed.StateMismatchError, match="ids"):
            ringfeed.attach(served.name, batch_size=4, group="job", start=state)
        with ringfeed.attach(served.name, batch_size=4, group="job", start=(0, 0)) as reader:
            batches = [(batch.epoch, batch.ids) for batch in reader]
        assert batches == [(0, [f"größe/{1000 + 4 * n + i}" for i in range(4)]) for n in range(4)]
        assert later["epoch"] > 1


def test_a_closed_terminal_stops_the_daemon_without_refresh(grown, tmp_path, ring):
    folder = put(grown, tmp_path, PAIRS)
    daemon = serve(folder, ring)
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        daemon.command,
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        os.close(theirs)
        output = Output(process)
        output.wait_for("ready")
        process.send_signal(signal.SIGHUP)
        output.wait_for("INFO ringfeedd.ring: ring")
        wait_until(lambda: "the ids are the same" in ring_status(f"{ring}-train").refresh)
        os.close(ours)
        process.send_signal(signal.SIGHUP)
        assert process.wait(20) == 0
        assert traces(ring) == []
    finally:
        process.kill()
        wipe(ring)

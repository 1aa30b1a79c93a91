"""Batches that are held keep their pixels and stop nobody: neither their holder, nor its other readers, nor others."""

from __future__ import annotations

import ctypes
import errno
import gc
import os
import random
import sys
import threading
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
from house import wait_until
from ring_fixtures import Served, served_ring, small_geometry, turning

import ringfeed
from ringfeed.cli.status import ring_status
from ringfeed.reader import data
from ringfeed.reader.batch import Batch
from ringfeed.shm import pages
from ringfeed.shm.layout import Geometry, plan_geometry
from ringfeed.torch import RingDataset

BATCH, EPOCH = 4, 50

GEOMETRIES = {
    "pages": small_geometry(slots=16),
    "whole pages": plan_geometry(slots=16, lanes=4, image_row=(64, 64, 3), label_row=(64, 64), label_dtype="uint16"),
    # rows that share pages with their neighbours
    "parts of pages": plan_geometry(slots=64, lanes=4, image_row=(4, 16, 3), label_row=(8, 8), label_dtype="uint16"),
    "not mirrored": plan_geometry(slots=17, lanes=4, image_row=(17, 33, 3), label_row=(17, 33), label_dtype="uint16"),
}


@pytest.fixture(params=GEOMETRIES)
def geometry(request) -> Geometry:
    return GEOMETRIES[request.param]


@pytest.fixture
def served() -> Iterator[Served]:
    with served_ring(slots=16, epoch_length=EPOCH) as one, turning(one):
        yield one


def indices(batch: Batch) -> list[int]:
    """The pairs' places in the fixture's catalog, which the order of its epochs follows."""
    return [1000 + position for position in batch.positions.tolist()]


def right(batch: Batch) -> bool:
    """Whether its pixels are those that were painted for its pairs."""
    for index, image, label in zip(indices(batch), batch.image, batch.label, strict=True):
        if not ((np.asarray(image) == index % 251).all() and (np.asarray(label) == index).all()):
            return False
    return True


def write_through(array: np.ndarray, value: int) -> None:
    """Write as code does that knows nothing but an address."""
    assert array.flags.c_contiguous
    ctypes.memset(array.ctypes.data, value, array.nbytes)


def test_every_batch_can_be_held(geometry):
    """Over many rounds of the ring, in whatever order they are dropped at the end."""
    with (
        served_ring(geometry=geometry, epoch_length=EPOCH) as one,
        turning(one),
        ringfeed.attach(one.name, batch_size=BATCH, drop_last=False) as reader,
    ):
        held = [batch for _ in range(6) for batch in reader]
        assert sum(map(len, held)) == 6 * EPOCH
        assert all(map(right, held))
        assert all(batch.ids == [f"größe/{index}" for index in indices(batch)] for batch in held)
        random.Random(1).shuffle(held)
        while held:
            held.pop()
            assert all(map(right, held[::20]))
        assert reader.statistics()["held_batches"] == 0
        assert reader.statistics()["moved_batches"] > EPOCH // BATCH


def test_native_batches_can_be_held():
    with (
        served_ring(geometry=GEOMETRIES["pages"], epoch_length=EPOCH, fit="native") as one,
        turning(one),
        ringfeed.attach(one.name, batch_size=BATCH, drop_last=False) as reader,
    ):
        held = [batch for _ in range(6) for batch in reader]
        last = [batch.image[-1] for batch in held]
        assert all(map(right, held))
        expected = [indices(batch)[-1] % 251 for batch in held]
        del held
        assert [int(image.min()) for image in last] == [int(image.max()) for image in last] == expected


@pytest.mark.parametrize("seed", [0, 1, 2, 20, 25])
def test_whatever_is_held_dropped_or_written(geometry, seed):
    """At random: kept whole or as a slice, released, written into through an alias; what others read stays right."""
    chance = random.Random(seed)
    with (
        served_ring(geometry=geometry, epoch_length=EPOCH) as one,
        turning(one),
        ringfeed.attach(one.name, batch_size=BATCH, drop_last=False) as reader,
        ringfeed.attach(one.name, batch_size=BATCH, drop_last=False, copy=True) as other,
    ):
        kept: list[tuple[np.ndarray, np.ndarray]] = []
        for _ in range(8):
            for batch, copy in zip(reader, other, strict=True):
                assert right(batch)
                assert right(copy)
                assert batch.positions.tolist() == copy.positions.tolist()
                what = chance.randrange(6)
                rows = chance.choice((batch.image, batch.label, batch.image[-1], batch.label[:1]))
                if what == 1:
                    write_through(rows, chance.randrange(250))
                if what < 3:
                    kept.append((rows, rows.copy()))
                elif what == 3:
                    del rows
                    batch.release()
                elif what == 4 and kept:
                    kept.pop(chance.randrange(len(kept)))
                del batch
                rows = None
                assert all(np.array_equal(held, expected) for held, expected in kept)


def test_a_round_waits_for_no_rank_that_holds():
    """A rank's batch that is published at once can be of a round that its own old batch keeps from another rank."""
    with served_ring(slots=40, epoch_length=400) as one, turning(one):
        ranks = [ringfeed.attach(one.name, batch_size=8, group="job", rank=rank, world_size=2) for rank in (0, 1)]
        batches = [iter(rank) for rank in ranks]
        sample = next(batches[0])
        del sample._lease  # nothing but its arrays holds it
        next(batches[1])
        for _ in range(20):
            assert all(right(next(mine)) for mine in batches)
        assert right(sample)
        for rank in ranks:
            rank.close()


def test_closing_keeps_what_is_held(served):
    with ringfeed.attach(served.name, batch_size=BATCH) as reader:
        batch = next(iter(reader))
        kept = batch.image[1]
    with ringfeed.attach(served.name, batch_size=BATCH) as other:
        for _ in range(2):
            for _unused in other:
                del _unused
    assert right(batch)
    assert (kept == indices(batch)[1] % 251).all()
    assert batch.ids[0] == "größe/1000"


def test_a_forgotten_readers_batch_holds_nobody_up(served):
    reader = ringfeed.attach(served.name, batch_size=BATCH)
    batch = next(iter(reader))
    del reader
    wait_until(lambda: not ring_status(served.name).consumers)
    with ringfeed.attach(served.name, batch_size=BATCH) as other:
        assert sum(len(one) for one in other) == EPOCH // BATCH * BATCH
    assert right(batch)


def test_a_kept_iterator_holds_no_new_reader_up(served, caplog):
    """As a traceback keeps one whose loop ended by an exception."""
    kept = iter(ringfeed.attach(served.name, batch_size=BATCH))
    batch = next(kept)
    with ringfeed.attach(served.name, batch_size=BATCH) as other:
        for _ in range(2):
            assert sum(len(one) for one in other) >= EPOCH // BATCH * BATCH - BATCH
    assert "waited for it in the same thread" in caplog.text
    assert right(batch)
    with pytest.raises(ringfeed.ReaderClosedError, match="had to wait for it"):
        next(kept)


def test_a_reader_that_made_way_attaches_again(served, caplog):
    """Its iteration is over, as its pairs are; the next one begins where the others are."""
    with (
        ringfeed.attach(served.name, batch_size=BATCH) as first,
        ringfeed.attach(served.name, batch_size=BATCH) as second,
    ):
        left = iter(first)
        next(left)
        next(left)
        for _ in range(2):
            list(second)
        assert first.closed
        with pytest.raises(ringfeed.ReaderClosedError, match="Begin a new iteration"):
            next(left)
        epochs = [batch.epoch for batch in first]
        assert epochs == [2] * len(first) == [2] * (EPOCH // BATCH)
        assert "attached again, where the others are" in caplog.text
        with pytest.raises(ringfeed.SupersededError):
            next(left)


def test_a_finished_threads_reader_holds_nobody_up(served):
    """Nothing reads from it any more, though it is kept."""
    kept: list[Any] = []

    def look() -> None:
        kept.append(iter(ringfeed.attach(served.name, batch_size=BATCH)))
        kept.extend(islice(kept[0], 2))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    with ringfeed.attach(served.name, batch_size=BATCH) as reader:
        assert sum(len(batch) for _ in range(2) for batch in reader) >= EPOCH
    assert all(map(right, kept[1:]))


def test_a_closed_out_dataset_attaches_again(served):
    """A kept look at one dataset, then training with another, then the first one again."""
    peeked = RingDataset(served.name, batch_size=BATCH)
    look = iter(peeked)
    image, _label = next(look)
    trained = RingDataset(served.name, batch_size=BATCH)
    for _ in range(2):
        assert len(list(trained)) > EPOCH // BATCH - 2
    assert (image[0] == 1000 % 251).all()
    peeked.set_epoch(9)
    assert len(list(peeked)) == EPOCH // BATCH
    peeked.close()
    trained.close()


def test_two_readers_of_a_thread_may_take_turns(served):
    readers = [ringfeed.attach(served.name, batch_size=BATCH) for _ in range(2)]
    held = []
    for _ in range(2):
        for pair in zip(*readers, strict=True):
            held += pair
    assert len(held) == 4 * (EPOCH // BATCH)
    assert all(map(right, held))
    for reader in readers:
        reader.close()


def test_another_threads_reader_is_waited_for(served):
    """It may be in a long step; what it holds moves out of the ring, and it reads on where it was."""
    slow = ringfeed.attach(served.name, batch_size=BATCH)
    took, go_on, seen = threading.Event(), threading.Event(), []

    def read() -> None:
        for batch in slow:
            seen.append(batch)
            took.set()
            go_on.wait(30)

    thread = threading.Thread(target=read)
    thread.start()
    took.wait(30)
    with ringfeed.attach(served.name, batch_size=BATCH) as fast:
        batches = iter(fast)
        first = [next(batches) for _ in range(3)]
        threading.Timer(0.5, go_on.set).start()
        rest = list(batches)
    thread.join()
    assert len(first + rest) == len(seen) == EPOCH // BATCH
    assert all(map(right, first + rest + seen))
    slow.close()


def test_a_forked_child_keeps_its_batch(served):
    """Its arrays hold no slots in the parent's stead: they are copies from the start."""
    with ringfeed.attach(served.name, batch_size=BATCH) as reader:
        batches = iter(reader)
        batch = next(batches)
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.read(reading, 1)
            os._exit(0 if right(batch) else 1)
        del batch
        for one in islice(batches, 10):
            assert right(one)
            del one
        os.write(writing, b"x")
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    os.close(reading)
    os.close(writing)


def mapped(name: str) -> int:
    """Mappings of the ring's data in this process."""
    return sum(f"{name}." in line and ".data" in line for line in Path("/proc/self/maps").read_text().splitlines())


def test_ctrl_c_at_any_line_costs_no_pixels(served, monkeypatch):
    """While batches move out of the ring; every third line of what does it, whatever comes first."""
    for number in range(0, 3000, 3):
        # A trace function can raise between the end of a `with` block and the release, where no signal is handled.
        monkeypatch.setattr(data, "_MOVING", threading.RLock())
        with ringfeed.attach(served.name, batch_size=BATCH, drop_last=False) as reader:
            batches = endless(reader)
            held = list(islice(batches, 16 // BATCH))
            interrupt = InterruptAt(number)
            sys.settrace(interrupt.trace)
            try:
                held.append(next(batches))
            except KeyboardInterrupt:
                batches = endless(reader)
            finally:
                sys.settrace(None)
            if not interrupt.came:
                break
            held += islice(batches, 10)
            assert all(map(right, held)), f"after an interrupt at {interrupt.came}"
    assert number > 100


def endless(reader: ringfeed.Reader) -> Iterator[Batch]:
    while True:
        yield from reader


class InterruptAt:
    """Ctrl-C at one of the lines that are run of the modules that move batches out of the ring.

    Attributes:
        came: where it was; empty while it has not come.
    """

    def __init__(self, lines: int) -> None:
        self.came = ""
        self._left = lines

    def trace(self, frame: FrameType, event: str, _arg: object) -> Callable[..., Any] | None:
        module = frame.f_globals.get("__name__")
        if module not in (
            "ringfeed.reader.data",
            "ringfeed.reader.fields",
            "ringfeed.shm.pages",
            "ringfeed.reader.holding",
        ):
            return None
        if event == "line":
            if not self._left and not self.came:
                self.came = f"{module}:{frame.f_lineno}"
                raise KeyboardInterrupt
            self._left -= 1
        return self.trace


def test_mappings_go_with_what_is_held(served):
    with ringfeed.attach(served.name, batch_size=BATCH, drop_last=False) as reader:
        gc.collect()
        before = mapped(served.name)
        kept = []
        for _ in range(40):
            for batch in reader:
                image = batch.image[0] if batch.positions[0] == 0 else None
                del batch
                if image is not None:
                    kept.append(image)
        assert len(kept) == 40
        assert mapped(served.name) <= 2 * before, "only the last of them is still mapped from the ring"
        assert all((image == 1000 % 251).all() for image in kept)
        lines = len(Path("/proc/self/maps").read_text().splitlines())
        kept.clear()
        image = None
        gc.collect()
        assert len(Path("/proc/self/maps").read_text().splitlines()) <= lines - 40
        assert mapped(served.name) == before


def test_adjacent_batches_move_together(served):
    """Small batches that are all kept must not use up the mappings that a process may have."""
    with ringfeed.attach(served.name, batch_size=1) as reader:
        before = len(Path("/proc/self/maps").read_text().splitlines())
        held = [batch for _ in range(8) for batch in reader]
        assert len(held) == 8 * EPOCH
        assert len(Path("/proc/self/maps").read_text().splitlines()) < before + len(held)
        assert all(map(right, held))


def test_too_little_memory_is_a_sentence(served, monkeypatch):
    def fail(address: int, nbytes: int) -> None:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    with ringfeed.attach(served.name, batch_size=BATCH) as reader:
        batches = iter(reader)
        batch = next(batches)
        with monkeypatch.context() as patch:
            patch.setattr(pages, "copy_out", fail)
            with pytest.raises(ringfeed.RingHeldError, match=r"holds 1 batches .* 16 slots .* Cannot allocate memory"):
                for one in batches:
                    del one
        assert right(batch)
        assert sum(len(one) for one in batches) > 0, "it goes on once there is memory"


def test_what_a_batch_keeps_is_only_itself(served):
    """A mapping that was moved out of holds no memory but the batch's."""
    with ringfeed.attach(served.name, batch_size=BATCH) as reader:
        batches = iter(reader)
        batch = next(batches)
        sizes = batch.image.nbytes + batch.label.nbytes
        for one in islice(batches, 8):
            del one
        data = reader._delivery.attachment.data
        mappings = [mapping for rows in (data.image, data.label) for mapping in rows._mappings]
        assert len(mappings) == 2, "of either field one, the new one"
        copied = private_bytes(batch.image) + private_bytes(batch.label)
    assert copied <= sizes + 4 * 4096


def private_bytes(array: np.ndarray) -> int:
    """Bytes of memory of its own in the mapping around an array."""
    size = 0
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in (span := line.split(" ")[0]):
            begin, end = (int(edge, 16) for edge in span.split("-"))
            inside = begin <= array.ctypes.data < end
        elif line.startswith("Anonymous:") and inside:
            size += int(line.split()[1]) * 1024
    return size


# What is written.


@pytest.mark.parametrize("look_bytes", [data.LOOK_BYTES, 1])
@pytest.mark.parametrize("kernel", ["new", "old", "does not tell"])
def test_an_aliased_write_reaches_no_other_batch(served, kernel, look_bytes, monkeypatch):
    """Neither another reader's nor a later one of this reader's in the same slots."""
    if kernel == "old":
        monkeypatch.setattr(pages, "_SCAN", 0)  # no request that a kernel knows
    monkeypatch.setattr(data, "LOOK_BYTES", look_bytes)
    pages.copies_on_write()
    if kernel == "does not tell":
        monkeypatch.setattr(pages, "_PAGE_MAP", "/proc/self/none")  # no descriptor was left, say
    with (
        ringfeed.attach(served.name, batch_size=BATCH) as reader,
        ringfeed.attach(served.name, batch_size=BATCH, copy=True) as other,
    ):
        for _ in range(3):
            for batch, copy in zip(reader, other, strict=True):
                assert right(batch)
                assert right(copy)
                write_through(batch.image, 7)
                write_through(batch.label[1:2], 7)
                assert (batch.image == 7).all()


def test_a_write_after_release_reaches_no_later_batch(served):
    with ringfeed.attach(served.name, batch_size=BATCH) as reader:
        released = []
        for _ in range(3):
            for batch in reader:
                assert right(batch)
                released.append(batch.image)
                batch.release()
                for image in released:
                    write_through(image, 9)


def test_a_write_into_a_look_stays_in_it(served):
    """The next iteration begins with the same batch, in the same slots."""
    with ringfeed.attach(served.name, batch_size=BATCH) as reader:
        look = next(iter(reader))
        write_through(look.image, 9)
        again = next(iter(reader))
        write_through(look.label, 9)
        assert again.positions.tolist() == look.positions.tolist()
        assert right(again)
        assert (look.image == 9).all()


def test_a_late_write_reaches_no_later_batch(served):
    """Later than the look at the pages that tells whether they were written into."""
    with ringfeed.attach(served.name, batch_size=BATCH) as reader:
        batches = iter(reader)
        batch, following = next(batches), next(batches)  # until the second is asked for, the first is only looked at
        image = batch.image
        batch.release()
        wait_until(lambda: reader._delivery.attachment.control.published >= 16 + BATCH)
        following = next(batches)
        assert reader._delivery.attachment.data.clean_until >= 16 + BATCH
        write_through(image, 9)
        del following
        for one in islice(batches, 6):
            assert right(one)
            del one


def test_unnoticeable_writes_mean_a_read_only_mapping(served, monkeypatch):
    monkeypatch.setattr(pages, "copies_on_write", lambda: False)
    monkeypatch.setattr(pages, "_PAGE_MAP", "/proc/self/none")
    with ringfeed.attach(served.name, batch_size=BATCH) as reader:
        batches = iter(reader)
        held = [next(batches)]
        assert access(held[0].image) == access(held[0].label) == "r--p"
        held += batches
        assert access(held[0].image) == "rw-p", "of its own by now"
        assert all(map(right, held))


def access(array: np.ndarray) -> str:
    """How an array's memory is mapped, as in /proc/self/maps."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        begin, end = (int(edge, 16) for edge in line.split()[0].split("-"))
        if begin <= array.ctypes.data < end:
            return line.split()[1]
    raise AssertionError("it is not mapped")


def test_a_failed_attach_leaves_no_file_open():
    with pytest.raises(ringfeed.DaemonNotRunningError):
        ringfeed.attach("nobody-serves-this", batch_size=1)
    with served_ring(slots=16) as one, turning(one):
        gc.collect()
        before = open_files()
        with pytest.raises(ringfeed.AttachRefusedError):
            ringfeed.attach(one.name, batch_size=1000)
        gc.collect()
        assert open_files() == before
        with ringfeed.attach(one.name, batch_size=BATCH):
            pass
        gc.collect()
        assert open_files() == before


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())

"""The memory tier without a daemon: which row is read or written when, and what a successor believes."""

from __future__ import annotations

import os
import random
from types import SimpleNamespace

import numpy as np
import pytest

from ringfeed.shm import segment
from ringfeedd.cache import memory
from ringfeedd.cache.memory import MemoryShare, MemoryTier, file_name, remove_leftover
from ringfeedd.cache.policy import Keys
from ringfeedd.cache.rows import FIRST_ROW, RowGeometry, Rows, RowsSpec

RING = "cachetest"
PAIRS = 24
IMAGE, LABEL = 105, 35
GEOMETRY = RowGeometry(IMAGE, LABEL)


def keys(pairs: range = range(PAIRS), *, generation: int = 1) -> Keys:
    ids = np.array([one * 7919 + 1 for one in pairs], np.uint64)
    side = SimpleNamespace(
        size=np.full(len(ids), 500, np.uint64),
        generation=np.full(len(ids), generation, np.uint64),
        crc32c=np.zeros(len(ids), np.uint32),
        has_crc32c=np.zeros(len(ids), np.bool_),
    )
    return Keys.of(ids, [side, side])


def pixels(pair_id: int) -> tuple[np.ndarray, np.ndarray]:
    drawn = np.random.default_rng(pair_id)
    return drawn.integers(0, 256, IMAGE, np.uint8), drawn.integers(0, 256, LABEL, np.uint8)


class Machine:
    """A tier and a worker, in turns."""

    def __init__(
        self, rows: int = PAIRS, listing: Keys | None = None, of: str = "settings", kept: int | None = None
    ) -> None:
        self.tier = MemoryTier(RING, GEOMETRY, rows, [of], kept=kept)
        self.tier.start()
        self.tier._reserving.join()
        self.rows = Rows(RowsSpec(self.tier.fd, rows), GEOMETRY)
        self.share = self.tier.serve(listing or keys())
        self.seq = 0

    def epoch(self) -> list[str]:
        return [self.one(pair) for pair in range(len(self.share.rows))]

    def one(self, pair: int) -> str:
        """What became of a pair: "hit", "filled", "wrong" or "fetched"."""
        self.seq += 1
        (copy,) = self.tier.copies(0, self.share, [self.seq], [pair])
        expected = pixels(self.share.ids.item(pair))
        if copy is not None:
            row, total = copy
            image, label = np.zeros(IMAGE, np.uint8), np.zeros(LABEL, np.uint8)
            if total and self.rows.sum(row) != total:
                self.tier.not_copied(0, self.seq)
                return "wrong"
            self.rows.copy(row, image, label)
            assert (image == expected[0]).all()
            assert (label == expected[1]).all()
            assert self.tier.copied(0, [self.seq]) == [self.sizes(pair)]
            return "hit"
        row = self.tier.fill(0, self.seq, self.share, pair)
        if row < 0:
            return "fetched"
        self.tier.filled(0, self.seq, self.sizes(pair), self.rows.fill(row, *expected))
        return "filled"

    def sizes(self, pair: int) -> tuple[int, int, int, int]:
        return self.share.ids.item(pair) % 60_000, 2, 3, 65_535

    def kill(self) -> None:
        """As kill -9 does to the daemon and its workers."""
        del self.rows
        os.close(self.tier.fd)


@pytest.fixture(autouse=True)
def clean():
    yield
    segment.shm_path(file_name(RING)).unlink(missing_ok=True)


def test_a_second_epoch_is_copied():
    machine = Machine()
    assert machine.epoch() == ["filled"] * PAIRS
    assert machine.epoch() == ["hit"] * PAIRS
    machine.tier.close()
    assert not segment.shm_path(file_name(RING)).exists()


@pytest.mark.parametrize("rows", [1, 7, PAIRS - 1])
def test_part_of_the_set_hits_exactly_its_share(rows):
    machine = Machine(rows)
    machine.epoch()
    for _ in range(3):
        outcomes = machine.epoch()
        assert (outcomes.count("hit"), outcomes.count("fetched")) == (rows, PAIRS - rows)
    machine.tier.close()


def test_a_successor_goes_on_with_every_whole_row():
    machine = Machine()
    for pair in range(10):
        machine.one(pair)
    machine.tier.fill(0, 99, machine.share, 10)  # killed while it writes this one
    machine.rows.fill(machine.share.rows.item(10), *pixels(5))
    machine.kill()
    again = Machine()
    assert again.epoch() == ["hit"] * 10 + ["filled"] * (PAIRS - 10)
    assert again.epoch() == ["hit"] * PAIRS
    again.tier.close()


@pytest.mark.parametrize("byte", [0, 41, 64, 64 + 104, 64 + 105 + 30])
def test_a_row_changed_between_daemons_is_fetched(byte):
    machine = Machine()
    machine.epoch()
    offset = GEOMETRY.offset(machine.share.rows.item(4)) + byte
    (old,) = os.pread(machine.tier.fd, 1, offset)
    os.pwrite(machine.tier.fd, bytes([old ^ 4]), offset)
    machine.kill()
    again = Machine()
    outcomes = again.epoch()
    assert outcomes[4] in ("wrong", "filled")
    assert outcomes.count("hit") == PAIRS - 1
    again.epoch()
    assert again.epoch() == ["hit"] * PAIRS
    again.tier.close()


@pytest.mark.parametrize("rows", [5, PAIRS + 9])
def test_another_size_moves_only_the_difference(rows):
    machine = Machine(PAIRS - 4)
    machine.epoch()
    machine.kill()
    again = Machine(rows)
    assert again.epoch().count("hit") == min(rows, PAIRS - 4)
    again.tier.close()


@pytest.mark.parametrize("change", ["settings", "geometry"])
def test_other_pixels_start_with_an_empty_file(change, monkeypatch):
    machine = Machine()
    machine.epoch()
    machine.kill()
    if change == "geometry":
        monkeypatch.setitem(globals(), "GEOMETRY", RowGeometry(105, 70))
        tier = MemoryTier(RING, GEOMETRY, PAIRS, ["settings"])
    else:
        tier = MemoryTier(RING, GEOMETRY, PAIRS, ["others"])
    assert not tier.taken_over
    assert os.fstat(tier.fd).st_blocks * 512 <= FIRST_ROW
    tier.close()


def test_a_file_still_being_written_is_left_alone(monkeypatch):
    monkeypatch.setattr(memory, "TAKEOVER_S", 0.1)
    machine = Machine()
    machine.epoch()
    worker = os.dup(machine.tier.fd)
    machine.kill()
    again = Machine()
    assert not again.tier.taken_over
    assert again.epoch() == ["filled"] * PAIRS
    os.close(worker)
    again.tier.close()


def test_a_refreshed_listing_moves_only_the_difference():
    machine = Machine(PAIRS)
    machine.epoch()
    old = machine.share
    before = dict(zip(old.ids.tolist(), old.rows.tolist(), strict=True))
    machine.share = machine.tier.serve(keys(range(6, PAIRS + 6)), also=[old])
    after = dict(zip(machine.share.ids.tolist(), machine.share.rows.tolist(), strict=True))
    assert all(before[one] == row for one, row in after.items() if one in before)
    outcomes = machine.epoch()
    assert outcomes == ["hit"] * (PAIRS - 6) + ["filled"] * 6
    assert machine.tier.copies(0, old, range(1000, 1006), range(6)) == [None] * 6
    machine.tier.close()


def test_a_row_being_read_keeps_its_owner():
    """A worker copies it for the old listing; the new owner of the row waits for that."""
    machine = Machine(PAIRS)
    machine.epoch()
    old = machine.share
    ((row, _),) = machine.tier.copies(0, old, [500], [0])
    machine.share = machine.tier.serve(keys(range(1, PAIRS + 1)), also=[old])
    new = PAIRS - 1
    assert machine.share.rows.item(new) == row
    assert machine.one(new) == "fetched"
    machine.tier.copied(0, [500])
    assert machine.one(new) == "filled"
    assert machine.one(new) == "hit"
    machine.tier.close()


def test_a_row_being_written_keeps_its_owner():
    machine = Machine(PAIRS)
    old = machine.share
    row = machine.tier.fill(0, 500, old, 0)
    machine.share = machine.tier.serve(keys(range(1, PAIRS + 1)), also=[old])
    pair = machine.share.rows.tolist().index(row)
    assert machine.one(pair) == "fetched"
    machine.tier.filled(0, 500, (1, 2, 3, 4), machine.rows.fill(row, *pixels(1)))
    assert machine.one(pair) == "filled"
    machine.tier.close()


def test_a_lost_worker_leaves_its_rows_empty():
    machine = Machine()
    row = machine.tier.fill(0, 500, machine.share, 3)
    assert machine.tier.fill(0, 501, machine.share, 3) < 0
    machine.tier.ended(0, 500)
    assert machine.tier.fill(0, 501, machine.share, 3) == row
    machine.tier.close()


@pytest.mark.parametrize("seed", range(10))
def test_any_turn_of_events_gives_right_pixels(seed):
    """Listings, sizes, kills and lost workers in any order; every pair that is copied is compared."""
    drawn = random.Random(seed)
    machine = Machine(drawn.randrange(1, 30))
    for _ in range(60):
        event = drawn.randrange(10)
        if event < 6:
            machine.one(drawn.randrange(len(machine.share.rows)))
        elif event == 6:
            first = drawn.randrange(20)
            listing = keys(range(first, first + PAIRS), generation=1)
            machine.share = machine.tier.serve(listing, also=[machine.share] if drawn.random() < 0.5 else [])
        elif event == 7:
            machine.seq += 1
            if machine.tier.fill(0, machine.seq, machine.share, 3) >= 0:
                machine.tier.ended(0, machine.seq)
        elif event == 8:
            machine.epoch()
        else:
            machine.kill()
            machine = Machine(drawn.randrange(1, 30))
    machine.tier.close()


def test_memory_is_reserved_or_done_without(monkeypatch, caplog):
    def full(_fd, offset, _length):
        if offset:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(memory, "RESERVED_AT_ONCE", FIRST_ROW + 5 * GEOMETRY.pitch)
    monkeypatch.setattr(memory.os, "posix_fallocate", full)
    machine = Machine()
    assert machine.tier.use().reserved == 5
    assert machine.epoch().count("filled") == 5
    assert "No space left on device" in caplog.text
    machine.tier.close()


def test_a_leftover_is_removed():
    machine = Machine()
    machine.kill()
    assert remove_leftover(RING)
    assert not remove_leftover(RING)


def test_the_index_takes_few_bytes_a_pair():
    share = MemoryShare(keys(range(1000)))
    assert share.rows.nbytes + share.versions.nbytes <= 12 * 1000


@pytest.mark.parametrize("rows", [PAIRS, PAIRS // 2])
def test_a_kept_file_is_gone_on_with(rows):
    machine = Machine()
    machine.epoch()
    kept = segment.reopen(machine.tier.fd)
    del machine.rows  # a mapping has the file open, as a worker has
    machine.tier.close()
    assert not segment.shm_path(file_name(RING)).exists()
    again = Machine(rows, kept=kept)
    assert again.tier.is_kept
    assert again.epoch().count("hit") == rows
    again.tier.close()
    assert not segment.shm_path(file_name(RING)).exists()
    os.close(kept)


@pytest.mark.parametrize("change", ["settings", "header", "emptied"])
def test_a_kept_file_of_others_is_unused(change):
    machine = Machine()
    machine.epoch()
    kept = segment.reopen(machine.tier.fd)
    del machine.rows  # a mapping has the file open, as a worker has
    machine.tier.close()
    if change == "header":
        os.pwrite(kept, b"\xff", 12)
    if change == "emptied":
        os.ftruncate(kept, 0)
    again = Machine(of="others" if change == "settings" else "settings", kept=kept)
    assert not again.tier.is_kept
    assert again.epoch() == ["filled"] * PAIRS
    again.tier.close()
    os.close(kept)


def test_a_kept_file_in_use_is_unused(monkeypatch):
    monkeypatch.setattr(memory, "TAKEOVER_S", 0.0)
    machine = Machine()
    kept = segment.reopen(machine.tier.fd)
    again = Machine(kept=kept)
    assert not again.tier.is_kept
    assert again.epoch() == ["filled"] * PAIRS
    again.tier.close()
    os.close(machine.tier.fd)
    os.close(kept)

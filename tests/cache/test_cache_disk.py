"""The disk tier without a daemon: what its files hold after any end, and that nothing wrong is ever read from them."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ringfeedd.cache import disk, segments
from ringfeedd.cache.disk import DiskTier
from ringfeedd.cache.disk_share import ABSENT, WANTED, DiskShare
from ringfeedd.cache.policy import Keys
from ringfeedd.cache.segments import HEADER, SegmentReader, SegmentWriter, WrongEntryError

PAIRS = 40
OF = ["gs://bucket/set", None, "images", "labels"]
SIZE = 1 << 30


def keys(pairs: range = range(PAIRS), *, generation: int = 1) -> Keys:
    ids = np.array([one * 7919 + 1 for one in pairs], np.uint64)
    side = SimpleNamespace(
        size=np.full(len(ids), 500, np.uint64),
        generation=np.full(len(ids), generation, np.uint64),
        crc32c=np.zeros(len(ids), np.uint32),
        has_crc32c=np.zeros(len(ids), np.bool_),
    )
    return Keys.of(ids, [side, side])


def content(pair: int) -> tuple[bytes, bytes]:
    drawn = random.Random(pair)
    return drawn.randbytes(300 + pair), drawn.randbytes(100)


def tier_in(folder: Path, *, size: int | None = SIZE) -> DiskTier:
    tier = DiskTier(folder, OF, size=size)
    tier.open()
    return tier


class Machine:
    """A tier with one worker."""

    def __init__(self, folder: Path, listing: Keys | None = None, *, size: int | None = SIZE) -> None:
        self.tier = tier_in(folder, size=size)
        self.keys = listing or keys()
        self.share = self.tier.serve(self.keys)
        self.begin_worker()

    def begin_worker(self) -> None:
        self.reader = SegmentReader(str(self.tier.folder))
        self.writer = SegmentWriter(str(self.tier.folder), segment_bytes=4000)

    def epoch(self, pairs: range = range(PAIRS)) -> list[str]:
        """What became of each pair: "hit", "stored", "wrong" or "fetched"."""
        return [self.one(pair) for pair in pairs]

    def one(self, pair: int) -> str:
        order = self.tier.order(self.share, pair)
        if order is None:
            return "fetched"
        outcome = "stored"
        if order.place >= 0:
            try:
                found = self.reader.read(order.place, order.size, order.pair_id, order.version)
            except (WrongEntryError, OSError):
                self.tier.wrong(self.share, pair)
                outcome = "wrong"
            else:
                assert tuple(found) == content(pair)
                return "hit"
        if order.store:
            try:
                entry = self.writer.append(order.pair_id, order.version, *content(pair))
            except OSError as error:
                self.tier.failed(str(error), 0.0)
                return outcome
            self.tier.stored(self.share, pair, entry)
        return outcome

    def end(self) -> None:
        self.tier.close()
        self.reader.close()
        self.writer.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def test_a_second_epoch_is_read_from_disk(folder):
    machine = Machine(folder)
    assert machine.epoch() == ["stored"] * PAIRS
    assert machine.epoch() == ["hit"] * PAIRS
    assert len(list(segments.segments(str(machine.tier.folder)))) > 3
    machine.end()


def test_entries_outlive_the_daemon(folder):
    machine = Machine(folder)
    machine.epoch()
    machine.end()
    again = Machine(folder)
    assert again.epoch() == ["hit"] * PAIRS
    assert again.tier.use().pairs == PAIRS
    again.end()


def test_another_generation_is_another_entry(folder):
    machine = Machine(folder)
    machine.epoch()
    machine.end()
    again = Machine(folder, keys(generation=2))
    assert again.epoch() == ["stored"] * PAIRS
    again.end()


def test_another_catalog_has_a_folder_of_its_own(folder):
    machine = Machine(folder)
    machine.epoch()
    other = DiskTier(folder, ["gs://other", None, "images", "labels"], size=SIZE)
    other.open()
    assert other.writable
    assert other.serve(keys()).held == 0
    assert machine.epoch() == ["hit"] * PAIRS
    other.close()
    machine.end()


def test_a_new_listing_moves_only_the_difference(folder):
    machine = Machine(folder)
    machine.epoch()
    before = machine.tier.use().used
    machine.share = machine.tier.serve(keys(range(10, PAIRS + 5)), also=[machine.share])
    assert machine.share.held == PAIRS - 10
    places = machine.share.places.copy()
    assert (places[-5:] == WANTED).all()
    for pair in range(5):
        machine.tier.stored(
            machine.share,
            PAIRS - 10 + pair,
            machine.writer.append(*_key(machine.share, PAIRS - 10 + pair), *content(PAIRS + pair)),
        )
    assert (machine.share.places[: PAIRS - 10] == places[: PAIRS - 10]).all()
    assert machine.tier.use().used <= before + 6 * 4096
    machine.end()


def _key(share: DiskShare, pair: int) -> tuple[int, int]:
    return share.ids.item(pair), share.versions.item(pair)


def test_half_the_size_keeps_half(folder):
    """And gives space back."""
    machine = Machine(folder)
    machine.epoch()
    machine.end()
    room = PAIRS // 2 * (1000 + HEADER.size)
    again = Machine(folder, size=room)
    outcomes = again.epoch()
    assert outcomes.count("hit") == PAIRS // 2
    assert outcomes.count("fetched") == PAIRS - PAIRS // 2
    assert (again.share.places == ABSENT).sum() == PAIRS - PAIRS // 2
    again.end()
    larger = Machine(folder)
    assert sorted(set(larger.epoch())) == ["hit", "stored"]
    larger.end()


def test_freed_space_is_given_back_to_the_disk(folder, monkeypatch):
    monkeypatch.setattr(disk, "HEADER", HEADER)
    tier = tier_in(folder)
    listing = keys(range(2))
    share = tier.serve(listing)
    writer = SegmentWriter(str(tier.folder))
    big = bytes(1 << 20)
    for pair in range(2):
        tier.stored(share, pair, writer.append(*_key(share, pair), os.urandom(len(big)), b"l"))
    writer.close()
    tier.close()
    again = tier_in(folder)
    again.serve(keys(range(1)))
    assert again.use().used < 1.5 * len(big)
    again.close()


@pytest.mark.parametrize("where", ["header", "image", "label"])
def test_a_flipped_bit_is_fetched_again(folder, where):
    machine = Machine(folder)
    machine.epoch()
    place = machine.share.places.item(5)
    offset = {"header": 3, "image": HEADER.size + 9, "label": HEADER.size + 305 + 9}[where]
    path = Path(segments.segment_path(str(machine.tier.folder), segments.segment_of(place)))
    data = bytearray(path.read_bytes())
    data[segments.offset_of(place) + offset] ^= 16
    path.write_bytes(data)
    outcomes = machine.epoch()
    assert outcomes[5] == "wrong"
    assert outcomes.count("hit") == PAIRS - 1
    assert machine.tier.use().wrong == 1
    assert machine.epoch() == ["hit"] * PAIRS
    machine.end()


@pytest.mark.parametrize("seed", range(20))
def test_files_cut_off_anywhere_give_whole_pairs(folder, seed):
    """After a power failure, or kill -9: each file may end, or hold zeros, from anywhere on."""
    machine = Machine(folder)
    machine.epoch()
    machine.end()
    drawn = random.Random(seed)
    for path in machine.tier.folder.iterdir():
        if path.name in ("lock", "root.json"):
            continue
        data = path.read_bytes()
        cut = drawn.randrange(len(data) + 1)
        path.write_bytes(data[:cut] + drawn.choice([b"", bytes(drawn.randrange(100))]))
    again = Machine(folder)
    outcomes = again.epoch()
    assert set(outcomes) <= {"hit", "stored", "wrong"}
    assert again.epoch() == ["hit"] * PAIRS
    again.end()


def _store_until_killed(folder: str, started) -> None:
    machine = Machine(Path(folder))
    started.set()
    while True:
        for pair in range(PAIRS):
            machine.one(pair)
            machine.tier.look(0)
        machine.share = machine.tier.serve(keys(range(random.randrange(1, PAIRS))), also=[])
        machine.share = machine.tier.serve(keys(), also=[])


def test_a_killed_daemon_leaves_whole_pairs(folder):
    """It stores, gives back and rewrites its index all the time."""
    context = multiprocessing.get_context("fork")
    drawn = random.Random(0)
    for _ in range(8):
        started = context.Event()
        child = context.Process(target=_store_until_killed, args=(str(folder), started))
        child.start()
        assert started.wait(30)
        child.join(drawn.random() / 10)
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        machine = Machine(folder)
        assert machine.tier.writable
        machine.epoch()
        assert machine.epoch() == ["hit"] * PAIRS
        machine.end()


def test_a_second_daemon_reads_the_firsts_cache(folder):
    first = Machine(folder)
    first.epoch(range(10))
    first.tier.look(0)
    second = Machine(folder)
    assert "another daemon" in second.tier.problem
    assert second.epoch() == ["hit"] * 10 + ["fetched"] * (PAIRS - 10)
    first.end()
    second.end()


def test_a_read_only_folder_is_read(folder):
    machine = Machine(folder)
    machine.epoch(range(10))
    machine.end()
    (machine.tier.folder / "lock").unlink()
    machine.tier.folder.chmod(0o500)
    try:
        if os.geteuid() == 0:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(DiskTier, "_take", _refused)
                again = Machine(folder)
        else:
            again = Machine(folder)
        assert "read only" in again.tier.problem
        assert again.epoch() == ["hit"] * 10 + ["fetched"] * (PAIRS - 10)
        again.end()
    finally:
        machine.tier.folder.chmod(0o700)


def _refused(self) -> None:
    raise PermissionError(13, "Permission denied")


def test_a_folder_that_cannot_be_made_is_unused(tmp_path):
    (tmp_path / "file").write_text("")
    machine = Machine(tmp_path / "file")
    assert "cannot be" in machine.tier.problem
    assert machine.epoch() == ["fetched"] * PAIRS
    machine.end()


def test_another_users_folder_is_not_believed(folder):
    tier = DiskTier(folder, OF, size=SIZE)
    tier.folder.mkdir(parents=True)
    tier.folder.chmod(0o777)
    tier.open()
    assert "any user may write" in tier.problem
    assert not tier.readable


def test_a_removed_folder_is_made_again(folder, caplog):
    machine = Machine(folder)
    machine.epoch()
    for path in machine.tier.folder.iterdir():
        path.unlink()
    machine.tier.folder.rmdir()
    outcomes = machine.epoch()
    assert set(outcomes) <= {"hit", "wrong", "fetched"}  # a file that is still open is still whole
    machine.tier.look(10)
    assert "was removed" in caplog.text
    assert machine.epoch() == ["stored"] * PAIRS
    assert machine.epoch() == ["hit"] * PAIRS
    machine.tier.look(20)
    machine.end()
    again = Machine(folder)
    assert again.epoch() == ["hit"] * PAIRS
    again.end()


def test_a_full_disk_is_told_and_tried_again(folder, caplog):
    machine = Machine(folder)
    machine.epoch(range(10))
    machine.tier.failed("No space left on device", 100.0)
    machine.tier.failed("No space left on device", 100.1)
    assert machine.epoch() == ["hit"] * 10 + ["fetched"] * (PAIRS - 10)
    assert caplog.text.count("No space left on device") == 1
    machine.tier.look(100.1 + disk.PAUSE_S)
    assert machine.epoch() == ["hit"] * 10 + ["stored"] * (PAIRS - 10)
    machine.end()


def test_a_write_that_fails_leaves_no_part(folder, monkeypatch):
    machine = Machine(folder)
    machine.one(0)
    real = os.pwritev

    def short(fd, parts, offset):
        written = real(fd, [b"".join(parts)[:77]], offset)
        if written == 77:
            monkeypatch.setattr(os, "pwrite", _no_space)
        return written

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwritev", short)
        with pytest.raises(OSError, match="No space"):
            machine.writer.append(1, 2, b"i" * 100, b"l")
    monkeypatch.undo()
    (number,) = segments.segments(str(machine.tier.folder))
    path = Path(segments.segment_path(str(machine.tier.folder), number))
    assert path.stat().st_size == 300 + 100 + HEADER.size
    assert machine.one(1) == "stored"
    assert machine.epoch(range(2)) == ["hit"] * 2
    machine.end()


def _no_space(*_arguments) -> int:
    raise OSError(28, "No space left on device")


def test_the_index_takes_few_bytes_a_pair():
    share = DiskShare(keys(range(1000)), np.arange(1000))
    own = share.places.nbytes + share.sizes.nbytes + share.versions.nbytes
    assert own <= 20 * 1000

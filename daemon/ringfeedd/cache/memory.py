"""The memory tier as the supervisor keeps it: which row holds which pair, and which worker may write it.

A row is written by one worker at a time, which was told to, and read by workers that were told to after that one has
reported. Its record, with a seal, is written after its pixels. So a daemon that follows one that was killed can take
the file over: it accepts rows with a complete seal, and has each one's sum compared when it is first read.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from ringfeed.errors import NotTrustedError
from ringfeed.shm import segment
from ringfeed.shm.layout import PREFIX
from ringfeedd.cache.policy import Indices, Keys, Words, first_pairs, matches, seal, sealed
from ringfeedd.cache.rows import FIRST_ROW, RECORD, RowGeometry, RowsSpec

_LOG: Final = logging.getLogger("ringfeedd.cache")

NO_ROW: Final = -1

EMPTY: Final = 0
FILLING: Final = 1
"""A worker may write the row."""
UNPROVEN: Final = 2
"""An earlier daemon has filled it; its sum is compared when it is read."""
FULL: Final = 3

RESERVED_AT_ONCE: Final = 64 << 20
"""Bytes that are reserved between two looks at whether the daemon stops."""

TAKEOVER_S: Final = 2.0
"""For how long a start waits for the end of a dead daemon's workers."""

_VERSION: Final = 1
_MAGIC: Final = 0x6568_6361_6367_6E72  # the bytes b"rngcache"
_LOCK_BYTE: Final = 0
_HEADER: Final = RECORD
_SIDE_BITS: Final = 16
_SIDE: Final = (1 << _SIDE_BITS) - 1

Sizes = tuple[int, int, int, int]


def file_name(ring: str) -> str:
    """Return the name of the tier's file in /dev/shm; ``ring`` is the daemon's first."""
    return f"{PREFIX}{ring}.cache"


def remove_leftover(ring: str) -> bool:
    """Remove the tier of a dead daemon of this user; return whether there was one.

    Only the holder of the ring's lock may call this.
    """
    with contextlib.suppress(OSError, NotTrustedError):
        os.close(segment.open_existing(file_name(ring), writable=False, own=True))
        segment.shm_path(file_name(ring)).unlink()
        return True
    return False


def leftover_bytes(ring: str) -> int:
    """Return how much memory the tier of a dead daemon takes."""
    try:
        return segment.shm_path(file_name(ring)).lstat().st_blocks * 512
    except OSError:
        return 0


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """How full the tier is.

    Attributes:
        rows: that it has; ``reserved``: of them, those whose memory is there by now; ``filled``: those with a pair.
        row_bytes: of one.
        wrong: rows that were not whole when they were first read after a restart.
    """

    rows: int = 0
    reserved: int = 0
    filled: int = 0
    row_bytes: int = 0
    wrong: int = 0


class MemoryShare:
    """One listing's pairs in the tier; 12 bytes a pair.

    Attributes:
        rows: (pairs,) int32, or `NO_ROW`.
    """

    def __init__(self, keys: Keys) -> None:
        self.ids, self.versions = keys.ids, keys.versions
        self.rows = np.full(len(keys), NO_ROW, np.int32)


class MemoryTier:
    """The memory tier of one daemon.

    Attributes:
        fd: of its file, with the lock that says that the daemon lives.
        taken_over: it begins with the rows of an earlier daemon.
        is_kept: it is the file that the service manager keeps.
    """

    def __init__(
        self,
        ring: str,
        geometry: RowGeometry,
        rows: int,
        of: Sequence[object],
        *,
        mode: int = 0o600,
        gid: int = -1,
        kept: int | None = None,
    ) -> None:
        """Make the file, or take over that of an earlier daemon.

        Args:
            rows: that it is to have.
            of: what decides which pixels an id means: root, templates, decode settings, release.
            kept: a descriptor of a file without a name that an earlier daemon had the service manager keep.

        Raises:
            OSError: there is no room for its first page, or the name is another user's.
        """
        self.geometry, self.rows = geometry, rows
        self._name = file_name(ring)
        digest = hashlib.blake2b(json.dumps([str(one) for one in of]).encode(), digest_size=8).digest()
        words = (_MAGIC, _VERSION, geometry.image_bytes, geometry.label_bytes, int.from_bytes(digest, "little"))
        self._header = _HEADER.pack(*words, seal(words))
        self._state = bytearray(rows)
        self._sizes: Words = np.zeros(rows, np.uint64)
        self._filled = self._wrong = 0
        self._moved: set[int] = set()
        self._copying: dict[tuple[int, int], int] = {}
        self._filling: dict[tuple[int, int], tuple[int, MemoryShare, int]] = {}
        self._shares: list[MemoryShare] = []
        self.fd = self._take_over_named()
        self.is_kept = False
        if self.fd < 0 and kept is not None:
            self.fd = self._take_over_kept(kept)
            self.is_kept = self.fd >= 0
        self.taken_over = self.fd >= 0
        if not self.taken_over:
            self.fd = self._create(mode & 0o600, gid)
        self._reserved_rows = 0
        self._stop = threading.Event()
        self._reserving = threading.Thread(target=self._reserve, name="ringfeed-cache", daemon=True)

    def __repr__(self) -> str:
        return f"MemoryTier({self._name!r}, {self.use()})"

    @property
    def spec(self) -> RowsSpec:
        """What workers are told."""
        return RowsSpec(self.fd, self.rows)

    def use(self) -> MemoryUse:
        """Return the numbers that status, metrics and tests read."""
        return MemoryUse(self.rows, self._reserved_rows, self._filled, self.geometry.pitch, self._wrong)

    # The file.

    def _create(self, mode: int, gid: int) -> int:
        segment.shm_path(self._name).unlink(missing_ok=True)
        nameless = segment.reserve(FIRST_ROW, mode=mode, gid=gid)
        try:
            segment.write_all(nameless, self._header)
            os.ftruncate(nameless, self.geometry.file_bytes(self.rows))
            fd = segment.give_name(nameless, self._name)
        finally:
            os.close(nameless)
        segment.try_lock(fd, _LOCK_BYTE)
        return fd

    def _take_over_named(self) -> int:
        """Open a dead daemon's file of the same pixels; -1 where there is none, or a worker may still write to it."""
        try:
            fd = segment.open_existing(self._name, writable=True, own=True)
        except FileNotFoundError:
            return -1
        except (OSError, NotTrustedError) as error:
            _LOG.warning("the memory cache of the previous daemon is not used: %s", error)
            return -1
        return self._take(fd)

    def _take_over_kept(self, kept: int) -> int:
        """Open the file that the service manager kept, if it is of the same pixels and no process has it; else -1."""
        try:
            fd = segment.reopen(kept)
        except OSError:
            return -1
        if (taken := self._take(fd)) >= 0:
            segment.shm_path(self._name).unlink(missing_ok=True)
        return taken

    def _take(self, fd: int) -> int:
        if os.pread(fd, len(self._header), 0) != self._header or not _lock(fd):
            os.close(fd)
            return -1
        os.ftruncate(fd, self.geometry.file_bytes(self.rows))
        return fd

    def start(self) -> None:
        """Begin to reserve the memory, which takes a second for each few GiB."""
        self._reserving.start()

    def _reserve(self) -> None:
        end = self.geometry.file_bytes(self.rows)
        for offset in range(0, end, RESERVED_AT_ONCE):
            length = min(RESERVED_AT_ONCE, end - offset)
            if self._stop.is_set():
                return
            try:
                os.posix_fallocate(self.fd, offset, length)
            except OSError as error:
                _LOG.warning(
                    "the memory cache has %.1f GiB instead of %.1f GiB: %s; make room in /dev/shm, or set a smaller "
                    "[cache] memory",
                    *(offset / 2**30, end / 2**30, error.strerror),
                )
                return
            self._reserved_rows = (offset + length - FIRST_ROW) // self.geometry.pitch

    def close(self) -> None:
        """Remove the file's name; to be called once no worker writes. Only a copy of `fd` keeps the rows."""
        self._stop.set()
        if self._reserving.is_alive():
            self._reserving.join()
        if segment.is_still(self._name, self.fd):
            segment.shm_path(self._name).unlink(missing_ok=True)
        os.close(self.fd)

    # Listings.

    def serve(self, keys: Keys, *, also: Sequence[MemoryShare] = ()) -> MemoryShare:
        """Give the pairs of a listing their rows; pairs that have one keep it.

        Args:
            also: the shares of other listings that are still read.
        """
        rows, ids, versions = self._entries()
        share = MemoryShare(keys)
        chosen = first_pairs(keys, self.rows)
        entries = matches(keys, ids, versions)[chosen]
        kept = rows[entries[entries >= 0]]
        share.rows[chosen[entries >= 0]] = kept
        free = np.ones(self.rows, np.bool_)
        free[kept] = False
        new = chosen[entries < 0]
        for row in rows[free[rows]].tolist():
            self._empty(row)
            self._moved.add(row)
        for other in also:
            lost = (other.rows != NO_ROW) & free[other.rows]
            other.rows[lost] = NO_ROW
        share.rows[new] = np.flatnonzero(free)[: len(new)]
        self._shares = [*also, share]
        return share

    def _entries(self) -> tuple[Indices, Words, Words]:
        """Return the rows that are filled, or being filled, with the ids and versions of their pairs."""
        if not self._shares:
            if self.taken_over:
                return self._read_records()
            return np.zeros(0, np.int64), np.zeros(0, np.uint64), np.zeros(0, np.uint64)
        parts = []
        for share in self._shares:
            pairs = np.flatnonzero(share.rows != NO_ROW)
            parts.append((share.rows[pairs].astype(np.int64), share.ids[pairs], share.versions[pairs]))
        rows, ids, versions = (np.concatenate(part) for part in zip(*parts, strict=True))
        used = np.frombuffer(self._state, np.uint8)[rows] != EMPTY
        return rows[used], ids[used], versions[used]

    def _read_records(self) -> tuple[Indices, Words, Words]:
        geometry = self.geometry
        there = min(self.rows, (os.fstat(self.fd).st_blocks * 512 - FIRST_ROW) // geometry.pitch)
        data = b"".join(
            os.pread(self.fd, RECORD.size, geometry.offset(row)).ljust(RECORD.size, b"\0") for row in range(there)
        )
        table = np.frombuffer(data, "<u8").reshape(-1, 6).astype(np.uint64)
        rows = np.flatnonzero(sealed(table))
        for row in rows.tolist():
            self._state[row] = UNPROVEN
        self._sizes[rows] = table[rows, 2]
        self._filled = len(rows)
        return rows, table[rows, 0], table[rows, 1]

    # Pairs.

    def copies(
        self, ring: int, share: MemoryShare, seqs: Sequence[int], pairs: Sequence[int]
    ) -> list[tuple[int, int] | None]:
        """Return, for each pair, the row that a worker is to copy into the slot of its number, and the row's sum.

        None where the pair is not there. The sum is 0 where it was compared before. For each row, `copied`,
        `not_copied` or `ended` is to follow.
        """
        found: list[tuple[int, int] | None] = []
        for seq, row in zip(seqs, share.rows[pairs].tolist(), strict=True):
            if row == NO_ROW or (state := self._state[row]) < UNPROVEN:
                found.append(None)
                continue
            self._copying[ring, seq] = row
            found.append((row, 0 if state == FULL else self._total(row)))
        return found

    def _total(self, row: int) -> int:
        """Return the sum that stands in a row's record."""
        total: int = RECORD.unpack(os.pread(self.fd, RECORD.size, self.geometry.offset(row)))[3]
        return total

    def copied(self, ring: int, seqs: Iterable[int]) -> list[Sizes]:
        """Take note that rows lie in their slots; return the pairs' sizes."""
        rows = [self._copying.pop((ring, seq)) for seq in seqs]
        for row in rows:
            if self._state[row] == UNPROVEN:
                self._state[row] = FULL
        return [
            (
                sizes & _SIDE,
                sizes >> _SIDE_BITS & _SIDE,
                sizes >> 2 * _SIDE_BITS & _SIDE,
                sizes >> 3 * _SIDE_BITS,
            )
            for sizes in self._sizes[rows].tolist()
        ]

    def not_copied(self, ring: int, seq: int) -> None:
        """Take note of a row that was not whole, or with which a worker died."""
        row = self._copying.pop((ring, seq))
        self._wrong += 1
        self._empty(row)
        self._moved.add(row)

    def fill(self, ring: int, seq: int, share: MemoryShare, pair: int) -> int:
        """Return the row that a worker is to fill with a pair once it has decoded it; `NO_ROW` for none.

        `filled` or `ended` is to follow.
        """
        row = share.rows.item(pair)
        if row == NO_ROW or self._state[row] != EMPTY or row >= self._reserved_rows:
            return NO_ROW
        if row in self._moved:
            if row in self._copying.values():
                return NO_ROW  # of the pair that had the row before
            os.pwrite(self.fd, bytes(RECORD.size), self.geometry.offset(row))
            self._moved.discard(row)
        self._state[row] = FILLING
        self._filling[ring, seq] = (row, share, pair)
        return row

    def filled(self, ring: int, seq: int, sizes: Sizes, total: int) -> None:
        """Take note that a worker has filled a row.

        Args:
            sizes: image height and width, label height and width, in pixels.
            total: the row's sum.
        """
        row, share, pair = self._filling.pop((ring, seq))
        self._state[row] = EMPTY
        if share.rows.item(pair) != row:
            return  # it has another owner by now
        packed = sum(side << number * _SIDE_BITS for number, side in enumerate(sizes))
        words = (share.ids.item(pair), share.versions.item(pair), packed, total, 0)
        os.pwrite(self.fd, RECORD.pack(*words, seal(words)), self.geometry.offset(row))
        self._sizes[row] = packed
        self._state[row] = FULL
        self._filled += 1

    def is_copying(self, ring: int, seq: int) -> bool:
        """Return whether a worker copies the row of a pair."""
        return (ring, seq) in self._copying

    def ended(self, ring: int, seq: int) -> bool:
        """Take note that a pair came to nothing: no worker reads or writes its row any more.

        Returns:
            Whether it was to be copied.
        """
        if (filling := self._filling.pop((ring, seq), None)) is not None:
            self._state[filling[0]] = EMPTY
        return self._copying.pop((ring, seq), None) is not None

    def _empty(self, row: int) -> None:
        if self._state[row] >= UNPROVEN:
            self._state[row] = EMPTY
            self._filled -= 1


def _lock(fd: int) -> bool:
    """Lock a dead daemon's file, once all of its workers have ended: their descriptors carry the same lock."""
    deadline = time.monotonic() + TAKEOVER_S
    while not segment.try_lock(fd, _LOCK_BYTE):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True

"""The disk tier as the supervisor keeps it: which pairs lie where, and which are to be stored as they pass.

Below the configured folder, each root has one of its own. There lie segment files, to which workers append (see
`segments`), and one index, to which the supervisor appends what they report. A daemon that is killed loses the entries
of its last moments: their bytes lie in a segment, and nothing names them. Every entry is verified when it is read, so
the index may be wrong in any way.

Nothing here raises after `DiskTier.open`: without a cache, a daemon is slower and not wrong.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from ringfeed.shm import segment
from ringfeedd.cache.policy import Indices, Keys, Words, last_pairs, matches, sealed
from ringfeedd.cache.segments import (
    HEADER,
    OFFSET_BITS,
    WORDS,
    Entry,
    punch,
    segment_path,
    segments,
)

_LOG: Final = logging.getLogger("ringfeedd.cache")

ABSENT: Final = -1
"""The place of a pair that the tier does not keep."""

WANTED: Final = -2
"""The place of a pair that is to be stored as it passes."""

AUTO_PART: Final = 0.9
"""Of the space that is free in the folder's file system, with ``size = "auto"``."""

LOOK_S: Final = 1.0
"""How often the folder is looked at."""

PAUSE_S: Final = 30.0
"""After a failed write, until the next one is tried."""

PREFIX: Final = "ringfeed-"
INDEX, LOCK, ROOT = "index", "lock", "root.json"
LOCK_BYTE: Final = 0
_MOST_UNWRITTEN_BYTES: Final = 1 << 22
_LENGTHS, _PLACE = 2, 4
_LOW: Final = np.uint64((1 << 32) - 1)


class DiskOrder(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What a worker is to do with the disk tier for one pair.

    Attributes:
        pair_id, version: its key.
        place: where it lies; negative where it does not.
        size: bytes to read there.
        store: store it, unless it is read from there.
    """

    pair_id: int
    version: int
    place: int
    size: int
    store: bool


@dataclass(frozen=True, slots=True)
class DiskUse:
    """How full the tier is.

    Attributes:
        room: bytes that it may take.
        used: bytes that its segments take.
        pairs: that it holds.
        chosen: pairs of the catalog that it is to hold.
        wrong: entries that were not whole when they were read, since the start.
    """

    room: int = 0
    used: int = 0
    pairs: int = 0
    chosen: int = 0
    wrong: int = 0


class DiskShare:
    """One listing's pairs in the tier; 20 bytes a pair.

    Attributes:
        places: (pairs,) int64, or `ABSENT`, or `WANTED`.
        sizes: (pairs,) uint32, bytes of the entries.
        chosen: pairs that the tier is to hold; ``held``: those of them that it holds.
    """

    def __init__(self, keys: Keys, chosen: Indices) -> None:
        self.ids, self.versions = keys.ids, keys.versions
        self.places = np.full(len(keys), ABSENT, np.int64)
        self.places[chosen] = WANTED
        self.sizes = np.zeros(len(keys), np.uint32)
        self.chosen = len(chosen)
        self.held = 0

    def set(self, pairs: npt.NDArray[np.bool_], places: Indices, sizes: Indices) -> None:
        """Take note of where pairs lie."""
        self.places[pairs], self.sizes[pairs] = places, sizes
        self.count()

    def forget(self, pairs: npt.NDArray[np.bool_], place: int = WANTED) -> None:
        """Take note that some of these pairs are not there any more."""
        self.places[pairs & (self.places >= 0)] = place
        self.count()

    def count(self) -> None:
        """Count the pairs that are there."""
        self.held = int(np.count_nonzero(self.places >= 0))


class DiskTier:
    """The disk tier of one root."""

    def __init__(self, folder: Path, of: Sequence[str | None], *, size: int | None) -> None:
        """Look nowhere yet.

        Args:
            folder: which the operator named.
            of: what decides which objects an id means: root, emulator, templates.
            size: bytes that the root's files may take; None: see `AUTO_PART`.
        """
        key = hashlib.blake2b(json.dumps(list(of)).encode(), digest_size=12).hexdigest()
        self.base, self.folder = folder, folder / f"{PREFIX}{key}"
        self._of, self._size = list(of), size
        self._wrong = 0
        self._shares: list[DiskShare] = []
        self._used = self._room = 0
        self._lock_fd = self._index_fd = -1
        self._index_end = 0
        self._unwritten = bytearray()
        self._identity: tuple[int, int] | None = None
        self._looked = self._paused_until = self._again_at = 0.0
        self._said = ""
        self.problem = ""

    def __repr__(self) -> str:
        return f"DiskTier({str(self.folder)!r}, {self.use()})"

    @property
    def readable(self) -> bool:
        """Whether there is a folder to read from."""
        return self._identity is not None

    @property
    def writable(self) -> bool:
        """Whether this daemon may store."""
        return self._index_fd >= 0

    def use(self) -> DiskUse:
        """Return the numbers that status, metrics and tests read."""
        newest = self._shares[-1] if self._shares else None
        held, chosen = (newest.held, newest.chosen) if newest is not None else (0, 0)
        return DiskUse(self._room, self._used, held, chosen, self._wrong)

    def open(self) -> None:
        """Make the folder, or take it over; `problem` says what is not possible."""
        self.problem = ""
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            if not self.folder.is_dir():
                self._cannot(f"the disk cache {self.base} cannot be made: {error.strerror}; it is not used")
                return
        try:
            facts = self.folder.lstat()
        except OSError as error:
            self._cannot(f"the disk cache {self.folder} cannot be read: {error.strerror}; it is not used")
            return
        if not stat.S_ISDIR(facts.st_mode) or facts.st_uid not in (0, os.geteuid()) or facts.st_mode & stat.S_IWOTH:
            self._cannot(
                f"the disk cache {self.folder} is not used: it is not a folder of this user, or any user may write "
                f"into it; remove it, or name another one"
            )
            return
        self._identity = (facts.st_dev, facts.st_ino)
        try:
            self._take()
        except OSError as error:
            self._close_files()
            self.problem = f"the disk cache {self.folder} is read only ({error.strerror}): nothing is added to it"

    def _cannot(self, problem: str) -> None:
        self._identity = None
        self.problem = problem

    def _take(self) -> None:
        """Become the one daemon that writes here, unless there is one. Raises: OSError."""
        self._lock_fd = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        if not segment.try_lock(self._lock_fd, LOCK_BYTE):
            self._close_files()
            self.problem = (
                f"the disk cache {self.folder} belongs to another daemon that runs: what was there at the start is "
                f"used, and nothing is added; give one of them another folder"
            )
            return
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._index_fd = os.open(self.folder / INDEX, flags, 0o600)
        self._index_end = os.fstat(self._index_fd).st_size // HEADER.size * HEADER.size
        root = self.folder / ROOT
        if not root.exists():
            root.write_text(json.dumps(self._of))

    # Listings.

    def serve(self, keys: Keys, *, also: Sequence[DiskShare] = ()) -> DiskShare:
        """Return the tier's pairs of a listing, and give back the space of all others.

        Args:
            also: the shares of other listings that are still read.
        """
        if not self.readable:
            share = DiskShare(keys, np.zeros(0, np.int64))
            self._shares = [*also, share]
            return share
        self._flush()
        table = read_index(self.folder)
        self._used, self._room = self._measure()
        share = DiskShare(keys, last_pairs(keys, self._room, overhead=HEADER.size))
        entries = matches(keys, table[:, 0], table[:, 1])
        there = (share.places == WANTED) & (entries >= 0)
        found = entries[there]
        share.set(there, table[found, _PLACE].astype(np.int64), _sizes(table)[found].astype(np.int64))
        live = np.zeros(len(table), np.bool_)
        live[entries[there]] = True
        first = not self._shares
        self._shares = [*also, share]
        if self.writable:
            self._reclaim(table, live, truncate=first)
            self._used, _ = self._measure()
        return share

    def _measure(self) -> tuple[int, int]:
        """Return the bytes that the segments take, and those that they may take."""
        used = 0
        with contextlib.suppress(OSError):
            for number in segments(str(self.folder)):
                with contextlib.suppress(OSError):
                    used += os.stat(segment_path(str(self.folder), number)).st_blocks * 512  # noqa: PTH116
        if self._size is not None:
            return used, self._size
        try:
            facts = os.statvfs(self.folder)
        except OSError:
            return used, used
        return used, int(AUTO_PART * (used + facts.f_bavail * facts.f_frsize))

    def _reclaim(self, table: Words, live: npt.NDArray[np.bool_], *, truncate: bool) -> None:
        """Give back the space of entries that are not live, and of what no entry names."""
        numbers = table[:, _PLACE] >> np.uint64(OFFSET_BITS)
        offsets = (table[:, _PLACE] & np.uint64((1 << OFFSET_BITS) - 1)).astype(np.int64)
        sizes = _sizes(table).astype(np.int64)
        for share in self._shares[:-1]:
            gone = matches(_keys_of(share), table[~live, 0], table[~live, 1]) >= 0
            share.forget(gone, ABSENT)
        with contextlib.suppress(OSError):
            for number in list(segments(str(self.folder))):
                path = Path(segment_path(str(self.folder), number))
                here = numbers == number
                if not np.any(here & live):
                    if truncate or np.any(here):  # else a worker has just begun it
                        path.unlink(missing_ok=True)
                    continue
                dead = here & ~live
                if np.any(dead) and not punch(path, _extents(offsets[dead], sizes[dead])):
                    # A file system without holes: the whole segment goes once less than half of it is of use.
                    if sizes[dead].sum() > sizes[here & live].sum():
                        path.unlink(missing_ok=True)
                        self._forget_segment(number)
                        live &= ~here
                elif truncate:
                    _truncate(path, int((offsets + sizes)[here & live].max()))
        if not live.all():
            self._rewrite(table[live])

    def _forget_segment(self, number: int) -> None:
        for share in self._shares:
            share.forget(share.places >> OFFSET_BITS == number)

    def _rewrite(self, table: Words) -> None:
        """Put an index of these entries in the place of the old one."""
        draft = self.folder / f"{INDEX}.draft"
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
            fd = os.open(draft, flags, 0o600)
            try:
                segment.write_all(fd, np.ascontiguousarray(table, "<u8").tobytes())
                draft.rename(self.folder / INDEX)
            except OSError:
                os.close(fd)
                raise
        except OSError as error:
            _LOG.warning("the index of the disk cache %s could not be written: %s", self.folder, error.strerror)
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)
            return
        os.close(self._index_fd)
        self._index_fd, self._index_end = fd, table.nbytes

    # Pairs.

    def order(self, share: DiskShare, pair: int) -> DiskOrder | None:
        """Return what a worker is to do for a pair; None where the tier has nothing to do with it."""
        place = share.places.item(pair)
        if place == ABSENT:
            return None
        store = self.writable and not self._paused_until and self._used < self._room
        if place < 0 and not store:
            return None
        return DiskOrder(share.ids.item(pair), share.versions.item(pair), place, share.sizes.item(pair), store)

    def stored(self, share: DiskShare, pair: int, entry: Entry) -> None:
        """Take note of an entry that a worker has written."""
        if not self.writable:
            return
        self._used += entry.size
        if (place := share.places.item(pair)) != ABSENT:
            share.held += place < 0
            share.places[pair], share.sizes[pair] = entry.place, entry.size
        if len(self._unwritten) < _MOST_UNWRITTEN_BYTES:
            self._unwritten += entry.words(share.ids.item(pair), share.versions.item(pair))

    def wrong(self, share: DiskShare, pair: int) -> None:
        """Take note of an entry that was not whole when a worker read it."""
        self._wrong += 1
        if share.places.item(pair) >= 0:
            share.places[pair] = WANTED
            share.held -= 1

    def failed(self, reason: str, now: float) -> None:
        """Take note of a worker's failed write: none is tried for a while."""
        if not self._paused_until:
            if reason != self._said:
                _LOG.warning(
                    "nothing can be stored in the disk cache %s: %s; pairs are fetched again", self.folder, reason
                )
            self._said = reason
        self._paused_until = now + PAUSE_S

    # From time to time.

    def look(self, now: float) -> None:
        """Write what workers have reported, and see whether the folder is still there.

        Args:
            now: seconds, monotonic.
        """
        if self._paused_until and now >= self._paused_until:
            self._paused_until = 0.0
        self._flush()
        if now - self._looked < LOOK_S:
            return
        self._looked = now
        if self.readable:
            if not self._is_there():
                self._lost()
        elif self._shares and now >= self._again_at:
            self._again_at = now + PAUSE_S
            self._begin_again()

    def _is_there(self) -> bool:
        try:
            facts = self.folder.lstat()
        except FileNotFoundError:
            return False
        except OSError:
            return True
        named = self._index_fd < 0 or os.fstat(self._index_fd).st_nlink > 0
        return (facts.st_dev, facts.st_ino) == self._identity and named

    def _lost(self) -> None:
        _LOG.warning(
            "the disk cache %s was removed; pairs are fetched again, and stored where it can be made", self.folder
        )
        self._close_files()
        self._identity = None
        for share in self._shares:
            share.forget(np.ones(len(share.places), np.bool_))
        self._unwritten.clear()
        self._begin_again()

    def _begin_again(self) -> None:
        if self.base.is_dir():  # else what it lies on was unmounted, perhaps
            self.open()
            self._used, self._room = self._measure()
            self._paused_until = 0.0

    def _flush(self) -> None:
        if not self._unwritten or not self.writable:
            return
        try:
            written = os.pwrite(self._index_fd, self._unwritten, self._index_end) // HEADER.size * HEADER.size
        except OSError:
            return  # there is no room, say: written later, or found missing after a restart
        self._index_end += written
        del self._unwritten[:written]

    def close(self) -> None:
        """Write what there is to write, and let the next daemon in."""
        self._flush()
        self._close_files()

    def _close_files(self) -> None:
        for fd in (self._index_fd, self._lock_fd):
            if fd >= 0:
                os.close(fd)
        self._index_fd = self._lock_fd = -1


def read_index(folder: Path) -> Words:
    """Return the entries of a folder's index, (entries, words), those that were written to their end."""
    try:
        data = (folder / INDEX).read_bytes()
    except OSError:
        data = b""
    table = np.frombuffer(data[: len(data) // HEADER.size * HEADER.size], "<u8").reshape(-1, WORDS).astype(np.uint64)
    return table[sealed(table)]


def _keys_of(share: DiskShare) -> Keys:
    """Return the keys of a share's pairs that are there."""
    return Keys(share.ids, share.versions, np.zeros(len(share.ids), np.uint64), share.places >= 0)


def _sizes(table: Words) -> Words:
    return (table[:, _LENGTHS] & _LOW) + (table[:, _LENGTHS] >> np.uint64(32)) + np.uint64(HEADER.size)


def _extents(offsets: Indices, sizes: Indices) -> list[tuple[int, int]]:
    """Return offsets and lengths, those joined that touch each other."""
    joined: list[tuple[int, int]] = []
    for offset, size in sorted(zip(offsets.tolist(), sizes.tolist(), strict=True)):
        if joined and sum(joined[-1]) == offset:
            joined[-1] = (joined[-1][0], joined[-1][1] + size)
        else:
            joined.append((offset, size))
    return joined


def _truncate(path: Path, end: int) -> None:
    with contextlib.suppress(OSError):
        if path.stat().st_size > end:
            os.truncate(path, end)

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
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from ringfeed.shm import segment
from ringfeedd.cache.disk_index import IndexFile, IndexTable
from ringfeedd.cache.disk_share import ABSENT, WANTED, DiskOrder, DiskShare, DiskUse
from ringfeedd.cache.policy import Keys, last_pairs, matches
from ringfeedd.cache.segments import (
    HEADER,
    OFFSET_BITS,
    Entry,
    extents,
    punch,
    segment_path,
    segments,
    truncate_file,
)

_LOG: Final = logging.getLogger("ringfeedd.cache")

AUTO_PART: Final = 0.9
"""The part of the space that is free in the folder's file system, with ``size = "auto"``."""

LOOK_S: Final = 1.0
"""How often the folder is looked at."""

PAUSE_S: Final = 30.0
"""After a failed write, until the next one is tried."""

PREFIX: Final = "ringfeed-"
LOCK, ROOT = "lock", "root.json"
LOCK_BYTE: Final = 0


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
        self._lock_fd = -1
        self._index: IndexFile | None = None
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
        return self._index is not None

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
        self._index = IndexFile(self.folder)
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
        if self._index is not None:
            self._index.flush()
        table = IndexTable.read(self.folder)
        self._used, self._room = self._measure()
        share = DiskShare(keys, last_pairs(keys, self._room, overhead=HEADER.size))
        entries = matches(keys, table.ids, table.versions)
        there = (share.places == WANTED) & (entries >= 0)
        found = entries[there]
        share.set(there, table.places[found], table.sizes[found])
        live = np.zeros(len(table), np.bool_)
        live[entries[there]] = True
        first = not self._shares
        self._shares = [*also, share]
        if self._index is not None:
            self._reclaim(self._index, table, live, truncate=first)
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

    def _reclaim(self, index: IndexFile, table: IndexTable, live: npt.NDArray[np.bool_], *, truncate: bool) -> None:
        """Give back the space of entries that are not live, and of what no entry names."""
        numbers, offsets, sizes = table.segments, table.offsets, table.sizes
        for share in self._shares[:-1]:
            gone = matches(share.keys, table.ids[~live], table.versions[~live]) >= 0
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
                if np.any(dead) and not punch(path, extents(offsets[dead], sizes[dead])):
                    # A file system without holes: the whole segment goes once less than half of it is of use.
                    if sizes[dead].sum() > sizes[here & live].sum():
                        path.unlink(missing_ok=True)
                        self._forget_segment(number)
                        live &= ~here
                elif truncate:
                    truncate_file(path, int((offsets + sizes)[here & live].max()))
        if not live.all():
            try:
                index.rewrite(table.words[live])
            except OSError as error:
                _LOG.warning("the index of the disk cache %s could not be written: %s", self.folder, error.strerror)

    def _forget_segment(self, number: int) -> None:
        for share in self._shares:
            share.forget(share.places >> OFFSET_BITS == number)

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
        if self._index is None:
            return
        self._used += entry.size
        if (place := share.places.item(pair)) != ABSENT:
            share.held += place < 0
            share.places[pair], share.sizes[pair] = entry.place, entry.size
        self._index.append(entry.words(share.ids.item(pair), share.versions.item(pair)))

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
        if self._index is not None:
            self._index.flush()
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
        named = self._index is None or self._index.named
        return (facts.st_dev, facts.st_ino) == self._identity and named

    def _lost(self) -> None:
        _LOG.warning(
            "the disk cache %s was removed; pairs are fetched again, and stored where it can be made", self.folder
        )
        self._close_files()
        self._identity = None
        for share in self._shares:
            share.forget(np.ones(len(share.places), np.bool_))
        self._begin_again()

    def _begin_again(self) -> None:
        if self.base.is_dir():  # else what it lies on was unmounted, perhaps
            self.open()
            self._used, self._room = self._measure()
            self._paused_until = 0.0

    def close(self) -> None:
        """Write what there is to write, and let the next daemon in."""
        if self._index is not None:
            self._index.flush()
        self._close_files()

    def _close_files(self) -> None:
        if self._index is not None:
            self._index.close()
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
        self._index, self._lock_fd = None, -1

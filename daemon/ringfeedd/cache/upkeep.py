"""Looks at disk caches from outside a daemon: what lies there, whether it is whole, and how to get rid of it."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ringfeed.shm import segment
from ringfeedd.cache.disk import LOCK, LOCK_BYTE, PREFIX, ROOT
from ringfeedd.cache.disk_index import INDEX, IndexTable
from ringfeedd.cache.segments import HEADER, SegmentReader, WrongEntryError, segment_path, segments
from ringfeedd.system.files import read_regular

_MOST_ROOT_BYTES: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class DiskCache:
    """One root's part of a folder.

    Attributes:
        root: that the pairs are from; ``"?"`` if that cannot be read.
        pairs: in its index.
        bytes: disk space of its segments.
        in_use: a daemon holds its lock.
    """

    folder: Path
    root: str
    pairs: int
    bytes: int
    in_use: bool


def disk_caches(base: Path) -> list[DiskCache]:
    """Return the caches below the folder that a daemon's settings name. Raises: OSError."""
    return [_look(folder) for folder in sorted(base.iterdir()) if folder.name.startswith(PREFIX) and folder.is_dir()]


def _look(folder: Path) -> DiskCache:
    root = "?"
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError, RecursionError):
        root = str(json.loads(read_regular(folder / ROOT, _MOST_ROOT_BYTES)[0])[0])
    used = 0
    for number in segments(str(folder)):
        with contextlib.suppress(OSError):
            used += Path(segment_path(str(folder), number)).stat().st_blocks * 512
    return DiskCache(folder, root, len(IndexTable.read(folder)), used, _in_use(folder))


def _in_use(folder: Path) -> bool:
    try:
        fd = os.open(folder / LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        return segment.is_locked(fd, LOCK_BYTE)
    finally:
        os.close(fd)


def wrong_entries(cache: DiskCache, on_entry: Callable[[], object] = lambda: None) -> int:
    """Read every entry of a cache; return how many are damaged."""
    reader, wrong = SegmentReader(str(cache.folder)), 0
    for pair_id, version, lengths, _, place, _ in IndexTable.read(cache.folder).words.tolist():
        size = HEADER.size + (lengths & 0xFFFF_FFFF) + (lengths >> 32)
        try:
            reader.read(place, size, pair_id, version)
        except (OSError, WrongEntryError):
            wrong += 1
        on_entry()
    reader.close()
    return wrong


def clear(cache: DiskCache) -> bool:
    """Remove a cache's files; return False, and leave them, where a daemon uses it. Raises: OSError."""
    fd = os.open(cache.folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        if not segment.try_lock(fd, LOCK_BYTE):
            return False
        for number in list(segments(str(cache.folder))):
            Path(segment_path(str(cache.folder), number)).unlink(missing_ok=True)
        for name in (INDEX, f"{INDEX}.draft", ROOT, LOCK):
            (cache.folder / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # a file that no daemon made stays
            cache.folder.rmdir()
    finally:
        os.close(fd)
    return True

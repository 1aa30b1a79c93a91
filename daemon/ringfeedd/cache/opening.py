"""Opening the tiers at a start: how large they are, and what a person should know of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Final

import ringfeed
from ringfeedd.cache.disk import DiskTier
from ringfeedd.cache.memory import MemoryTier, leftover_bytes, remove_leftover
from ringfeedd.cache.rows import RowGeometry
from ringfeedd.cache.tiers import Listing, Tiers
from ringfeedd.decode.spec import DecodeSpec
from ringfeedd.errors import StartError
from ringfeedd.shm.memory import Access, free_bytes
from ringfeedd.system.control_group import GroupMemory, memory_of_group

MEMORY_FACTS: Final = Path("/proc/meminfo")

AUTO_PART: Final = 0.8
"""The part of the memory that the machine can spare, with ``memory = "auto"``."""

GROWTH: Final = 1.02
"""The memory tier has room for so many times the pairs that were listed: a few more come with a refresh."""


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """What is to be kept.

    Attributes:
        memory: bytes of shared memory for decoded pairs; None: see `AUTO_PART`; 0: none.
        disk: the folder for encoded pairs; None: none.
        disk_size: bytes that they may take; None: see `ringfeedd.cache.disk.AUTO_PART`.
    """

    memory: int | None = 0
    disk: Path | None = None
    disk_size: int | None = None


@dataclass(frozen=True, slots=True)
class Spare:
    """The memory that there is for the memory tier, once the rings are made.

    Attributes:
        free: bytes that can be reserved in /dev/shm.
        group: the control group that leaves this process the least; None where none is limited.
        available: bytes that the kernel can give to new memory.
        needed: of these, bytes for the daemon's processes.
        leftover: bytes of an earlier daemon's memory tier, which is taken over.
    """

    free: int
    group: GroupMemory | None
    available: int
    needed: int
    leftover: int = 0

    @classmethod
    def look(cls, ring: str, needed: int, kept: int | None = None) -> Spare:
        """Return what there is now; ``kept`` as for `MemoryTier`."""
        leftover = leftover_bytes(ring) + (0 if kept is None else os.fstat(kept).st_blocks * 512)
        return cls(free_bytes(), memory_of_group(), available_bytes(), needed, leftover)

    @property
    def in_shm(self) -> int:
        """Bytes of /dev/shm."""
        return self.free + self.leftover

    @property
    def allowed(self) -> int:
        """Bytes that /dev/shm and the control group allow."""
        if self.group is None:
            return self.in_shm
        return min(self.in_shm, max(0, self.group.left - self.needed) + self.leftover)


def memory_rows(settings: CacheSettings, *, pitch: int, pairs: int, spare: Spare) -> int:
    """Return how many pairs the memory tier is to hold.

    Args:
        pitch: bytes of one.
        pairs: that were listed.

    Raises:
        StartError: there is less memory than the settings ask for.
    """
    wanted, useful = settings.memory, int(pairs * GROWTH) + 1
    if wanted is None:
        room = min(spare.allowed, max(0, spare.available - spare.needed) + spare.leftover)
        return min(useful, int(room * AUTO_PART) // pitch)
    rows = min(useful, wanted // pitch)
    if rows * pitch > spare.allowed:
        raise StartError(
            f"[cache] memory = {wanted >> 20} MiB needs {rows * pitch >> 20} MiB besides the rings, but "
            f"{spare.in_shm >> 20} MiB are free in /dev/shm"
            + (f", and {spare.group}" if spare.group is not None else "")
            + '; set a smaller size, or "auto", or enlarge it (`mount -o remount,size=...g /dev/shm`, `docker run '
            "--shm-size=...g --memory=...g`)"
        )
    return rows


def open_tiers(
    settings: CacheSettings,
    spec: DecodeSpec,
    listing: Listing,
    *,
    origin: Sequence[str | None],
    ring: str,
    access: Access,
    needed: int,
    say: Callable[[str], None],
    kept: int | None = None,
) -> Tiers | None:
    """Open what the settings ask for; None where that is nothing. The rings are made by now.

    Args:
        origin: what decides which objects an id means: root, emulator, templates.
        ring: the daemon's first, whose lock it holds.
        needed: bytes for the daemon's processes.
        kept: see `MemoryTier`.

    Raises:
        StartError: there is not the memory that was asked for.
    """
    memory = disk = None
    pairs = len(listing.hashes)
    if settings.memory != 0:
        memory = _open_memory(settings, spec, pairs, origin, ring, access, needed, kept)
    if memory is None:
        remove_leftover(ring)
    if settings.disk is not None:
        disk = DiskTier(settings.disk, origin, size=settings.disk_size)
        disk.open()
        if disk.problem:
            say(disk.problem)
    tiers = Tiers(memory, disk)
    tiers.serve(listing)
    if memory is not None:
        use = memory.use()
        before = f"; {use.filled:,} were kept from the last daemon" if memory.taken_over else ""
        fit = f"memory cache: {min(use.rows, pairs):,} of {pairs:,} pairs fit"
        say(f"{fit} into {use.rows * use.row_bytes / 2**20:,.0f} MiB{before}")
        memory.start()
    elif settings.memory != 0:
        say("memory cache: no memory is left for it besides the rings; enlarge /dev/shm, or set fewer slots")
    if disk is not None and disk.readable:
        held = disk.use()
        say(f"disk cache {disk.folder}: {held.pairs:,} pairs are there, {held.chosen:,} of {pairs:,} fit")
    return tiers if memory is not None or disk is not None else None


def _open_memory(
    settings: CacheSettings,
    spec: DecodeSpec,
    pairs: int,
    origin: Sequence[str | None],
    ring: str,
    access: Access,
    needed: int,
    kept: int | None,
) -> MemoryTier | None:
    geometry = RowGeometry.of(spec)
    rows = memory_rows(settings, pitch=geometry.pitch, pairs=pairs, spare=Spare.look(ring, needed, kept))
    if not rows:
        return None
    of = [ringfeed.__version__, *origin, *astuple(replace(spec, max_pixels=1))]  # which refuses pairs, and changes none
    try:
        return MemoryTier(ring, geometry, rows, of, mode=access.mode, gid=access.gid, kept=kept)
    except OSError as error:
        raise StartError(
            f"could not create the memory cache in /dev/shm: {error.strerror or error}; make room there, or set "
            f'[cache] memory = "off"'
        ) from error


def available_bytes() -> int:
    """Return the bytes that the kernel can give to new memory."""
    for line in MEMORY_FACTS.read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    return 0

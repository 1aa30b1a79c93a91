"""A group member that means harm: it writes whatever its files let it into lanes and semaphores, until killed.

``python hostile_member.py RING SEED``. It visits only while others read: a member may also hold a place as any slow
reader does, which is no attack.
"""

from __future__ import annotations

import contextlib
import itertools
import mmap
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ringfeed.errors import RingfeedError
from ringfeed.shm import layout, segment
from ringfeed.shm.control import Control
from ringfeed.shm.descriptor import Descriptor, read_descriptor
from ringfeed.shm.lane import LanePage
from ringfeed.shm.layout import FIRST_LANE_LOCK_BYTE, PAGE_BYTES, Lane

WORDS = (0, 1, 2, 3, 8, 200, 1 << 16, 1 << 32, (1 << 48) - 1, 1 << 48, 1 << 63, (1 << 64) - 2, (1 << 64) - 1)
OFFSETS = sorted({value for name, value in vars(Lane).items() if name.isupper() and isinstance(value, int)})
MOST_TOKENS = (1 << 31) - 1
SEMAPHORE_BYTES = 4
"""Of a semaphore's file, its count: glibc keeps it in the first 32 bits."""


class HostileMember:
    """The member as a process, for as long as it is wanted."""

    def __init__(self, ring: str, seed: int) -> None:
        self._command = [sys.executable, __file__, ring, str(seed)]
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)
        self._visits = 0

        def count() -> None:
            for _ in self._process.stdout:
                self._visits += 1

        self._reading = threading.Thread(target=count, daemon=True)
        self._reading.start()

    def stop(self) -> int:
        """kill -9; how often it visited."""
        if self._process is None:
            return 0
        self._process.kill()
        self._process.wait()
        self._reading.join()
        self._process = None
        return self._visits


def main(ring: str, seed: int) -> None:
    chance = random.Random(seed)
    for visit in itertools.count():
        with contextlib.suppress(RingfeedError, OSError, ValueError):
            descriptor = read_descriptor(ring)
            control = Control(descriptor, lockable=True)
            try:
                if _read_by_others(control) and _visit(descriptor, control, chance):
                    print(f"visit {visit}", flush=True)
            finally:
                control.close()
        time.sleep(chance.uniform(0.05, 0.5))


def _read_by_others(control: Control) -> bool:
    return sum(control.lane_lives(lane) for lane in range(control.geometry.lanes)) >= 2


def _visit(descriptor: Descriptor, control: Control, chance: random.Random) -> bool:
    """Take a free lane, do some harm, and give it back. False where the lane was taken."""
    geometry = descriptor.geometry
    lane = chance.randrange(geometry.lanes)
    if not segment.try_lock(control.lock_fd, FIRST_LANE_LOCK_BYTE + lane):
        return False
    fd = segment.open_existing(descriptor.control, writable=True)
    try:
        raw = segment.map_bytes(fd, geometry.lane_offset(lane), PAGE_BYTES, writable=True)
    finally:
        os.close(fd)
    page = LanePage(raw)
    acts: list[Callable[[], None]] = [
        lambda: _ask(page, chance),
        lambda: page.__setitem__(chance.choice(OFFSETS) // 8 * 8, chance.choice(WORDS)),
        lambda: _scribble(raw, chance, PAGE_BYTES // 2),
        lambda: _scribble(raw, chance, PAGE_BYTES),
        lambda: _flood(layout.space_name(descriptor.ring, descriptor.generation), chance),
        lambda: _flood(layout.lane_bell_name(descriptor.ring, descriptor.generation, lane), chance),
    ]
    for _ in range(chance.randint(1, 8)):
        chance.choice(acts)()
        time.sleep(chance.choice((0.0, 0.01)))
    segment.unlock(control.lock_fd, FIRST_LANE_LOCK_BYTE + lane)
    return True


def _ask(page: LanePage, chance: random.Random) -> None:
    """A request of which some words are wild."""
    for offset in OFFSETS:
        if offset < PAGE_BYTES // 2 and offset != Lane.GROUP:
            page[offset] = 0
    page[Lane.WORLD_SIZE] = page[Lane.BATCH_SIZE] = 1
    page[Lane.GROUP_LENGTH] = 4
    for offset in chance.sample([offset for offset in OFFSETS if offset < PAGE_BYTES // 2], 3):
        page[offset] = chance.choice(WORDS)
    page[Lane.NONCE] = chance.randrange(1, 1 << 63)


def _scribble(raw: memoryview, chance: random.Random, size: int) -> None:
    begin = chance.randrange(size)
    text = chance.randbytes(min(chance.randint(1, 512), size - begin))
    raw[begin : begin + len(text)] = text


def _flood(name: str, chance: random.Random) -> None:
    """Set a semaphore's count as high as it can be, or nearly."""
    with (
        Path(f"/dev/shm/sem.{name.lstrip('/')}").open("r+b") as file,
        mmap.mmap(file.fileno(), SEMAPHORE_BYTES) as mapped,
    ):
        np.frombuffer(mapped, np.uint32)[0] = MOST_TOKENS - chance.choice((0, 1, 1000))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))

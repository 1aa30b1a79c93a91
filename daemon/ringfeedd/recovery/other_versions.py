"""What a daemon of another layout version left, whose consumers still wait: kept for a daemon of their own version.

This one cannot read where they stand. But a control segment has its first words, its name and its locks in every
version, so it can see that they live, and leave them what a daemon of theirs will read.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterable

from ringfeed.errors import RingfeedError
from ringfeed.shm import layout, segment
from ringfeed.shm.descriptor import MOST_BYTES, named_generation
from ringfeed.shm.layout import FIRST_LANE_LOCK_BYTE, LAYOUT_VERSION, MAX_LANES, Header
from ringfeedd.recovery.cleanup import by_generation


def other_versions(ring: str) -> frozenset[str]:
    """The generations of another layout version whose consumers live."""
    generations = by_generation(ring, segment.names())
    return frozenset(generation for generation in generations if _waits_for_another_version(ring, generation))


def keep_other_versions(ring: str) -> frozenset[str]:
    """`other_versions`, and give their descriptor a name of its own, so that a daemon of theirs finds it.

    Only the holder of the ring's singleton lock may call this.
    """
    kept = other_versions(ring)
    with contextlib.suppress(RingfeedError, OSError):
        described = named_generation(ring, segment.read_whole(layout.descriptor_name(ring), MOST_BYTES, own=True))
        if described is not None and described in kept:
            path = segment.shm_path(layout.descriptor_name(ring))
            path.rename(segment.shm_path(layout.former_name(ring, described)))
    return kept


def forget_other_versions(ring: str, generations: Iterable[str]) -> None:
    """Remove those of them whose consumers have gone."""
    for generation in generations:
        if not _waits_for_another_version(ring, generation):
            # the control segment last: without it, no process can tell whose the other file is
            for name in (layout.former_name(ring, generation), layout.control_name(ring, generation)):
                segment.shm_path(name).unlink(missing_ok=True)


def _waits_for_another_version(ring: str, generation: str) -> bool:
    with contextlib.suppress(RingfeedError, OSError, struct.error):
        fd = segment.open_existing(layout.control_name(ring, generation), writable=False, own=True)
        try:
            magic, version, of = struct.unpack("<3Q", os.pread(fd, Header.CONTROL_BYTES, Header.MAGIC))
            lives = segment.is_locked(fd, FIRST_LANE_LOCK_BYTE, MAX_LANES)
        finally:
            os.close(fd)
        return lives and (magic, of) == (layout.MAGIC, int(generation, 16)) and version != LAYOUT_VERSION
    return False

"""How large everything is: slots, read-ahead, connections, workers' shares. Pure; others give the numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ringfeed.shm.layout import Geometry, plan_geometry
from ringfeedd.config import Settings
from ringfeedd.decode.memory import DECODED_BYTES_PER_PIXEL, ROW_BYTES_PER_PIXEL
from ringfeedd.decode.spec import DecodeSpec
from ringfeedd.errors import StartError
from ringfeedd.shm.memory import free_bytes, not_enough_memory, reserved_bytes
from ringfeedd.system.control_group import GroupMemory, memory_of_group
from ringfeedd.worker.pool import SPARE_PAIRS

MOST_AUTO_SLOTS: Final = 4096
MANY_AUTO_SLOTS: Final = 512
LEAST_AUTO_SLOTS: Final = 16
"""Chosen slots are within half of the free memory; and more than many only where they are cheap."""

CHEAP_BYTES: Final = 256 << 20
CHEAP_PART: Final = 1 / 32
"""Part of the free memory: rings that are smaller than both are cheap. More slots bridge longer latency of a store."""

READAHEAD_BYTES: Final = 64 << 20
"""Compressed bytes that may wait in all workers together for room in one ring."""

READAHEAD_PAIRS: Final = 256
"""Pairs of them, unless more are downloaded at a time. Those behind a late one bridge the time until it comes, however
few requests are allowed."""

WINDOW_BYTES: Final = 64 << 20
"""Compressed bytes that one worker may have on their way because the store is far away."""

SUPERVISOR_BYTES: Final = 128 << 20
WORKER_BYTES: Final = 96 << 20
"""Estimates of what a daemon's processes need, without the rings and the pictures that they decode."""

WORKERS_FILES: Final = 24
"""What a worker has open besides its connections: its socket, loop, vitals, segments, and for a time the resolver's."""

SUPERVISORS_FILES: Final = 24
FILES_EACH_RING: Final = 4
FILES_EACH_WORKER: Final = 4
PAGE_CONNECTIONS: Final = 32
LEAST_CONNECTIONS: Final = 2
"""A pair is two objects."""


@dataclass(frozen=True, slots=True)
class Room:
    """The memory that there is for rings and for the processes that fill them.

    Attributes:
        free: bytes that can be reserved in /dev/shm.
        group: the control group that leaves this process the least; None where none is limited. Pages of /dev/shm count
            there as well.
    """

    free: int
    group: GroupMemory | None = None

    @classmethod
    def look(cls) -> Room:
        """Return what there is now."""
        return cls(free_bytes(), memory_of_group())


def process_bytes(settings: Settings, spec: DecodeSpec) -> int:
    """Estimate what the daemon's processes need without the rings, in bytes, for pictures of a slot's size."""
    picture = (DECODED_BYTES_PER_PIXEL + ROW_BYTES_PER_PIXEL) * spec.height * spec.width
    return SUPERVISOR_BYTES + READAHEAD_BYTES + settings.workers * (WORKER_BYTES + picture)


def has_room(settings: Settings, spec: DecodeSpec, rings: list[str], room: Room) -> bool:
    """Whether rings of such slots can be made."""
    try:
        geometries(settings, spec, rings, room)
    except StartError:
        return False
    return True


def geometries(settings: Settings, spec: DecodeSpec, rings: list[str], room: Room) -> list[Geometry]:
    """Plan the geometry of every ring of the daemon.

    Raises:
        StartError: there is too little memory for them.
    """
    group, needed = room.group, process_bytes(settings, spec)
    free = room.free if group is None else max(0, min(room.free, group.left - needed))

    def lay_out(slots: int) -> list[Geometry]:
        geometry = plan_geometry(
            slots=slots,
            lanes=settings.config.lanes,
            image_row=spec.image_row_shape,
            label_row=spec.label_row_shape,
            label_dtype=spec.label_dtype.name,
        )
        return [geometry] * len(rings)

    if settings.config.slots is not None:
        laid_out = lay_out(settings.config.slots)
    else:
        slots, cheap = MOST_AUTO_SLOTS, min(CHEAP_BYTES, int(CHEAP_PART * free))
        while slots > MANY_AUTO_SLOTS and total(lay_out(slots)) > cheap:
            slots //= 2
        while slots > LEAST_AUTO_SLOTS and total(lay_out(slots)) > free // 2:
            slots //= 2
        laid_out = lay_out(slots)
    what = f"{'the rings' if len(rings) > 1 else 'the ring'} {', '.join(rings)} with {laid_out[0].slots} slots each"
    if total(laid_out) > room.free:
        raise not_enough_memory(total(laid_out), room.free, what)
    if group is not None and total(laid_out) > free:
        raise _too_much_for_group(total(laid_out), needed, settings.workers, group, what)
    return laid_out


def _too_much_for_group(wanted: int, needed: int, workers: int, group: GroupMemory, what: str) -> StartError:
    """The error for rings that a control group has no memory for; sizes in bytes."""
    limit = -(-(group.used + wanted + needed) // 2**30)
    return StartError(
        f"{what} needs {wanted >> 20} MiB in /dev/shm, and the daemon with {workers} workers about {needed >> 20} MiB, "
        f"but {group}: the kernel would kill the daemon. Use fewer --slots, a smaller --size or fewer --workers, or "
        f"raise the limit: `docker run --memory={limit}g`, MemoryMax={limit}G in the unit, or the pod's limit of memory"
    )


def total(laid_out: list[Geometry]) -> int:
    """Bytes that all rings together take in /dev/shm."""
    return sum(map(reserved_bytes, laid_out))


def page_connections(files: int) -> int:
    """Return how many clients the status page may have at a time, of a process that may have so many files open."""
    return max(LEAST_CONNECTIONS, min(PAGE_CONNECTIONS, files // 8))


def connections(wanted: int, *, files: int, workers: int, rings: int, page: int = 0) -> int:
    """How many connections each of this daemon's processes may hold.

    Args:
        wanted: by the configuration.
        files: that each process may have open.
        page: connections of the status page, which are kept for it.

    Raises:
        StartError: not even a few.
    """
    supervisors = SUPERVISORS_FILES + FILES_EACH_RING * rings + FILES_EACH_WORKER * workers + page
    left = files - max(supervisors, WORKERS_FILES)
    if left < LEAST_CONNECTIONS:
        raise StartError(
            f"a process may have {files} files open here, and the daemon needs {supervisors + LEAST_CONNECTIONS} for "
            f"{workers} workers; raise the limit (`ulimit -n`, LimitNOFILE= in the unit), or use fewer --workers"
        )
    return min(wanted, left)


@dataclass(frozen=True, slots=True)
class Shares:
    """How the daemon's work is spread.

    Attributes:
        workers: no more than downloads under way at a time.
        readahead: pairs beyond a ring's slots that may be downloaded.
        concurrency: objects that each worker downloads at a time, by its number.
        most_concurrency: the same where it waits for the store.
        most_pairs: pairs that one worker may have at a time.
    """

    workers: int
    readahead: int
    concurrency: tuple[int, ...]
    most_concurrency: tuple[int, ...]
    most_pairs: int


def shares(*, workers: int, concurrency: int, most_concurrency: int, rings: int, mean_pair_bytes: float) -> Shares:
    """Spread ``concurrency`` downloads over the workers, with enough pairs in hand to keep them busy.

    Args:
        most_concurrency: downloads where the workers wait for the store; fewer of large objects, of which so many would
            fill the memory.
    """
    readahead = max(1, min(max(most_concurrency, READAHEAD_PAIRS), int(READAHEAD_BYTES / max(1.0, mean_pair_bytes))))
    workers = min(workers, concurrency)
    each = _parts(concurrency, workers)
    window = max(2, int(2 * WINDOW_BYTES / max(1.0, mean_pair_bytes)))
    most_each = tuple(
        max(own, min(more, window)) for own, more in zip(each, _parts(most_concurrency, workers), strict=True)
    )
    # Pairs that wait for room in any ring must never take the place of pairs that could be decoded now.
    most = max(each[0], -(-most_each[0] // 2)) + -(-rings * readahead // workers) + SPARE_PAIRS
    return Shares(workers, readahead, each, most_each, most)


def _parts(total: int, count: int) -> tuple[int, ...]:
    """Split ``total`` into ``count`` whole numbers that differ by 1 at most, the larger ones first."""
    return tuple(total // count + (number < total % count) for number in range(count))

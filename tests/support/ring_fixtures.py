"""A ring in real shared memory, served by the real service, with workers that paint instead of downloading."""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from house import wipe

from ringfeed.shm.descriptor import Descriptor, ServedCatalog
from ringfeed.shm.identity import SETTINGS, Identity
from ringfeed.shm.layout import Geometry, plan_geometry
from ringfeedd.order import make_order
from ringfeedd.ring.failures import Failures
from ringfeedd.ring.groups import Groups
from ringfeedd.ring.revisions import Revision
from ringfeedd.ring.ring import Ring
from ringfeedd.ring.timeline import Timeline
from ringfeedd.shm.memory import Access, RingMemory
from ringfeedd.supervisor.service import RingService
from ringfeedd.worker.protocol import CopyJob, Decoded, PairJob

HEIGHT, WIDTH = 16, 32


def unique_ring_name() -> str:
    return f"test-{os.getpid()}-{secrets.token_hex(4)}"


def small_geometry(slots: int = 16, lanes: int = 4) -> Geometry:
    return plan_geometry(
        slots=slots, lanes=lanes, image_row=(HEIGHT, WIDTH, 3), label_row=(HEIGHT, WIDTH), label_dtype="uint16"
    )


def make_descriptor(ring: str, geometry: Geometry, epoch_length: int = 50) -> Descriptor:
    return Descriptor(
        ring=ring,
        generation="0123456789abcdef",
        pid=os.getpid(),
        geometry=geometry,
        identity=make_identity(size="x".join(map(str, geometry.image.row_shape[:2]))),
        split="train",
        catalogs=(ServedCatalog(0, epoch_length, "f" * 32),),
    )


def make_identity(**settings: object) -> Identity:
    """The settings of a small ring, some of them given."""
    usual = {
        "root": "gs://bucket/prefix",
        "emulator": None,
        "images": "images/{id}.jpg",
        "labels": "labels/{id}.png",
        "fit": "resize",
        "size": f"{HEIGHT}x{WIDTH}",
        "label_mode": "gray16",
        "exif_orientation": False,
        "max_pixels": 1000,
        "order": "sequential",
        "seed": 0,
        "test_ratio": 0.0,
        "num_nodes": 1,
        "node_rank": 0,
    }
    return Identity(**usual | settings)


def described_as(descriptor: Descriptor, **described: object) -> Descriptor:
    """A descriptor with other values, of its own fields or of its identity's."""
    settings = {name: described.pop(name) for name in [*described] if name in SETTINGS}
    return replace(descriptor, identity=replace(descriptor.identity, **settings), **described)


@dataclass(frozen=True)
class FakePair:
    index: int


class FakeCatalog:
    """Its ids are numbers with a character that takes more bytes than one."""

    def id(self, index: int) -> str:
        return f"größe/{index}"

    def encoded_id(self, index: int) -> bytes:
        return f"größe/{index}".encode()

    def pair(self, index: int) -> FakePair:
        return FakePair(index)

    def pairs(self, indices: list[int]) -> list[FakePair]:
        return [FakePair(index) for index in indices]


class FakeSplit:
    def __init__(self, length: int, fingerprint: str) -> None:
        self.indices = np.arange(length) + 1000
        self.fingerprint = fingerprint

    def __len__(self) -> int:
        return len(self.indices)


def fake_revision(length: int, fingerprint: str = "f" * 32) -> Revision:
    return Revision(make_order("sequential", length=length, seed=0), FakeCatalog(), FakeSplit(length, fingerprint))


class PaintingPool:
    """Paints pair ``index`` as images of ``index % 251`` and labels of ``index``, when asked to `work`."""

    room = 1000
    turn_unsure = False

    def __init__(self, memory: RingMemory) -> None:
        geometry = memory.geometry
        data = np.memmap(f"/dev/shm/{memory.descriptor.data}", np.uint8, "r+")
        self.rows = {
            field.name: data[field.offset : field.offset + geometry.slots * field.row_bytes]
            .view(field.dtype)
            .reshape(geometry.slots, *field.row_shape)
            for field in (geometry.image, geometry.label)
        }
        self.slots = geometry.slots
        self.limit = 0
        self.jobs: list[PairJob] = []

    def give(self, ring: int, jobs: Iterator[PairJob], copies: Iterator[CopyJob] = ()) -> None:
        self.jobs += list(jobs)

    def set_limit(self, ring: int, limit: int) -> None:
        self.limit = limit

    def cancel(self, ring: int, below: int) -> None:
        pass

    def set_waited_for(self, ring: int, seq: int) -> None:
        pass

    def work(self, service: RingService) -> None:
        waiting, self.jobs = self.jobs, []
        for job in waiting:
            if job.seq >= self.limit:
                self.jobs.append(job)
                continue
            index = job.pair.index
            self.rows["image"][job.seq % self.slots] = index % 251
            self.rows["label"][job.seq % self.slots] = index
            service.result(Decoded(0, job.seq, (HEIGHT, WIDTH, HEIGHT, WIDTH), False, 10, {}, self.turn_unsure))


@dataclass
class Served:
    """A ring in service.

    Attributes:
        seconds: what its clock shows.
    """

    name: str
    service: RingService
    memory: RingMemory
    pool: PaintingPool
    seconds: float = 0.0

    def turn(self, seconds: float = 1.0) -> None:
        self.seconds += seconds
        step(self.service)
        self.pool.work(self.service)
        step(self.service)


def step(service: RingService) -> None:
    """One turn of a daemon's loop for its only ring."""
    service.step()
    service.give(256)


def make_service(
    memory: RingMemory,
    *,
    epoch_length: int = 50,
    clock: Callable[[], float] = time.monotonic,
    consumers_clock: Callable[[], int] = time.monotonic_ns,
    groups: Groups | None = None,
) -> RingService:
    """A service for a ring in memory."""
    slots, timeline = memory.geometry.slots, Timeline(fake_revision(epoch_length))
    return RingService(
        0,
        ring=Ring(memory.descriptor.ring, slots=slots, readahead=0, timeline=timeline),
        groups=groups or Groups(),
        memory=memory,
        failures=Failures(0.01),
        clock=clock,
        consumers_clock=consumers_clock,
    )


@contextlib.contextmanager
def served_ring(
    *,
    slots: int = 16,
    lanes: int = 4,
    epoch_length: int = 50,
    groups: Groups | None = None,
    name: str = "",
    geometry: Geometry | None = None,
    **described: object,
) -> Iterator[Served]:
    """A daemon's ring, with what its descriptor says otherwise than `make_descriptor`; stopped cleanly at the end."""
    descriptor = make_descriptor(name or unique_ring_name(), geometry or small_geometry(slots, lanes), epoch_length)
    memory = RingMemory(described_as(descriptor, **described), Access())
    served: Served
    service = make_service(
        memory,
        epoch_length=epoch_length,
        clock=lambda: served.seconds,
        consumers_clock=lambda: int(1e9 * served.seconds),
        groups=groups,
    )
    served = Served(descriptor.ring, service, memory, PaintingPool(memory))
    service.begin(served.pool)
    try:
        served.turn()
        yield served
    finally:
        service.end()
        os.close(memory._lock_fd)
        os.close(memory.data_fd)
        wipe(descriptor.ring)  # a ring that has failed leaves its list of failed pairs


@contextlib.contextmanager
def turning(served: Served, seconds: float = 0.1) -> Iterator[None]:
    """Serve from a thread, in whose time each turn takes so many seconds."""
    stop = threading.Event()

    def serve() -> None:
        while not stop.wait(0.002):
            served.turn(seconds)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()

"""The pictures that the page shows: made outside the event loop, seldom, and only while a browser shows the page.

A request never makes a picture: it gets one of those that were made last. So no number of clients makes the daemon
scale or encode more than `pairs.NEWEST` pairs a ring each `EVERY_S`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from ringfeed.plan import Place
from ringfeed.shm.descriptor import Descriptor
from ringfeedd.ring.ring import Ring
from ringfeedd.web.page.pairs import copy_pairs, newest_places
from ringfeedd.web.page.thumbnail import thumbnails
from ringfeedd.web.snapshot import Watched

_LOG: Final = logging.getLogger("ringfeedd.web")

EVERY_S: Final = 4.0
"""Shortest time between two looks at a ring's pairs."""

KEPT: Final = 3
"""Earlier looks whose pictures are still served: a browser asks for them when it has read the page."""

FIRST_WAIT_S: Final = 0.5
"""How long a page waits for the first pictures; without scripts, it shows none before it is loaded again."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A pair on the page.

    Attributes:
        key: names its files: the generation and the number of the pair.
        overlaid, plain: JPEG files.
    """

    key: str
    epoch: int
    position: int
    pair_id: str
    valid: bool
    overlaid: bytes = field(repr=False)
    plain: bytes = field(repr=False)


Shelf = tuple[Picture, ...]


def pictures(ring: Ring, descriptor: Descriptor, places: Sequence[Place], before: Shelf = ()) -> Shelf:
    """Make the pictures of these pairs of a ring; those that were made before are kept."""
    known = {picture.key: picture for picture in before}
    new = [place for place in places if _key(descriptor, place) not in known]
    for pair in copy_pairs(ring, descriptor, new):
        key = _key(descriptor, pair.place)
        files = thumbnails(pair.image, pair.label)
        known[key] = Picture(key, pair.place.epoch, pair.place.position, pair.pair_id, pair.valid, *files)
    return tuple(known[key] for place in places if (key := _key(descriptor, place)) in known)


def _key(descriptor: Descriptor, place: Place) -> str:
    return f"{descriptor.generation}-{place.seq}"


class Gallery:
    """The pictures of each ring."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin without a picture, and without a thread."""
        self._clock = clock
        self._shelves: dict[str, deque[Shelf]] = {}
        self._looked: dict[str, float] = {}
        self._jobs: dict[str, asyncio.Task[None]] = {}
        self._thread: ThreadPoolExecutor | None = None

    def shelf(self, ring: str) -> Shelf:
        """The pictures that were made last, the newest pair first."""
        shelves = self._shelves.get(ring)
        return shelves[-1] if shelves else ()

    def file(self, ring: str, key: str, *, plain: bool) -> bytes | None:
        """One picture's file; None where it is kept no more."""
        for shelf in self._shelves.get(ring, ()):
            for picture in shelf:
                if picture.key == key:
                    return picture.plain if plain else picture.overlaid
        return None

    async def look(self, ring: Watched) -> None:
        """Have a ring's pictures made where the last ones are old; wait for the first ones, though not for long."""
        now, job = self._clock(), self._jobs.get(ring.name)
        if job is None and now - self._looked.get(ring.name, -EVERY_S) >= EVERY_S:
            self._looked[ring.name] = now
            job = self._jobs[ring.name] = asyncio.create_task(self._make(ring))
        if job is not None and not self.shelf(ring.name):
            await asyncio.wait([job], timeout=FIRST_WAIT_S)

    async def _make(self, ring: Watched) -> None:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "ringfeed-page")
        work = partial(pictures, ring.ring, ring.descriptor, newest_places(ring.ring), self.shelf(ring.name))
        try:
            made = await asyncio.get_running_loop().run_in_executor(self._thread, work)
            self._shelves.setdefault(ring.name, deque(maxlen=KEPT)).append(made)
        except (OSError, MemoryError) as error:
            _LOG.debug("no pictures of ring %s: %s", ring.name, error)
        finally:
            self._jobs.pop(ring.name, None)

    async def close(self) -> None:
        """End the thread, once it has made what it is at."""
        for job in list(self._jobs.values()):
            with contextlib.suppress(Exception):
                await job
        if self._thread is not None:
            self._thread.shutdown(wait=True)

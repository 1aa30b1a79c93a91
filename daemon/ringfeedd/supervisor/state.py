"""What the daemon serves: settings, rings and cache. Startup fills it; the main loop, refresh and page read it."""

from __future__ import annotations

from collections.abc import Callable

from ringfeedd.cache.tiers import Tiers
from ringfeedd.config import Settings
from ringfeedd.supervisor.service import RingService
from ringfeedd.worker.protocol import Copied, Result


class DaemonState:
    """One for the daemon. Passes on what workers answer; see `PoolListener`.

    Attributes:
        settings: those of the latest reload.
        services: a service for each ring, by the ring's number; empty until the rings are made.
        tiers: the cache, once the rings are made.
        clock: seconds, monotonic; of all services.
        wake: to be called when the main loop has something to do.
    """

    def __init__(self, settings: Settings, clock: Callable[[], float], wake: Callable[[], None]) -> None:
        """Begin without rings."""
        self.settings = settings
        self.services: list[RingService] = []
        self.tiers = Tiers()
        self.clock, self.wake = clock, wake

    def __repr__(self) -> str:
        return f"DaemonState({self.services!r})"

    def results(self, results: list[Result]) -> None:
        """Tell each ring what became of its pairs."""
        for result in results:
            self.services[result.ring].result(result)
        self.wake()

    def copied(self, copied: list[Copied]) -> None:
        """Tell each ring which pairs were copied out of the memory tier."""
        for one in copied:
            self.services[one.ring].copied(one)
        self.wake()

    def lost(self, ring: int, seq: int, *, quarantine: bool) -> None:
        """Tell a ring that the worker which had a pair is dead."""
        self.services[ring].lost(seq, quarantine=quarantine)
        self.wake()

    def disk_failed(self, reason: str) -> None:
        """Take note that a worker could not store a pair."""
        self.tiers.disk_failed(reason, self.clock())

    def has_room(self) -> None:
        """Have the main loop dispatch pairs."""
        self.wake()

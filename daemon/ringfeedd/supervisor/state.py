"""What the daemon serves, and what is around it. Startup fills it; the main loop, refresh and page read it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from ringfeedd.cache.tiers import Tiers
from ringfeedd.catalog.listing import Progress
from ringfeedd.config import Config, Loaded, Settings
from ringfeedd.supervisor.service import RingService
from ringfeedd.system.systemd import Notifier
from ringfeedd.worker.process import Spawner
from ringfeedd.worker.protocol import Copied, Result


@dataclass(frozen=True)
class Surroundings:
    """What the process around a supervisor gives it, and what it is told.

    Attributes:
        say: told what a person at the terminal should know, a sentence at a time.
        on_progress, on_listed: told how far the listing has come, and that it is over.
        notifier: tells the service manager.
        spawner: starts the workers; by default each on its own.
        read: reads the configuration again at SIGHUP; None: it stays.
        on_config: called with a configuration that a reload has changed.
        on_tick: called a few times a second.
        on_stop: called before the daemon's last line is logged.
    """

    say: Callable[[str], None] = lambda _sentence: None
    on_progress: Callable[[Progress], None] = lambda _progress: None
    on_listed: Callable[[], None] = lambda: None
    notifier: Notifier = field(default_factory=Notifier)
    spawner: Spawner = field(default_factory=Spawner)
    read: Callable[[], Loaded] | None = None
    on_config: Callable[[Config], None] = lambda _config: None
    on_tick: Callable[[], None] = lambda: None
    on_stop: Callable[[], None] = lambda: None


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

"""The supervisor: the process that starts everything, keeps it going, takes it down, and alone writes the words."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from ringfeed.shm.counters import DaemonCounts
from ringfeed.shm.layout import SHM_DIR
from ringfeed.text import count
from ringfeedd.config import Loaded, Settings, resolve
from ringfeedd.config.reload import Changes, check_applied
from ringfeedd.errors import EXIT_CLEAN, EXIT_CRASH, CrashError, DaemonError, StartError
from ringfeedd.ring.fairness import divide
from ringfeedd.supervisor.linger import Need
from ringfeedd.supervisor.refresh import Refresher
from ringfeedd.supervisor.service import RingService
from ringfeedd.supervisor.signals import obey
from ringfeedd.supervisor.startup import Startup
from ringfeedd.supervisor.state import DaemonState, Surroundings
from ringfeedd.system.clock import TurnClock
from ringfeedd.system.cpu import usable_cores
from ringfeedd.system.limits import exhausted
from ringfeedd.system.systemd import Watchdog
from ringfeedd.web.token import TokenFile
from ringfeedd.worker.pool import Pool

_LOG: Final = logging.getLogger("ringfeedd")

JOBS_PER_TURN: Final = 256
"""Pairs handed to the workers between two looks at consumers and results."""

NOBODY_LEFT: Final = "no longer needed"
"""Why a daemon ends that a training job has started."""

SHARE_WAIT_S: Final = 10.0
"""A daemon is ready so long after its first ring is, though another ring has no slots: trainers are fed."""

LOOK_INTERVAL_S: Final = 1.0
"""How often the daemon checks that its files are still in /dev/shm."""

TICK_S: Final = 0.25
"""The loop turns at least this often, for liveness and expiry; doorbells and results turn it at once."""


class Supervisor:
    """Serves one root. `run` is startup, main loop and shutdown."""

    def __init__(self, settings: Settings, around: Surroundings) -> None:
        """Prepare; nothing happens before `run`."""
        self._around, self._notifier = around, around.notifier
        self._reload_wanted = False
        self._ready_sentence = ""
        self._watchdog = Watchdog(self._notifier)
        self._wake = asyncio.Event()
        self._stop = asyncio.Event()
        self._why_stopped = ""
        self._began = time.monotonic()
        self._totals = ""
        self._undo = contextlib.AsyncExitStack()
        self._clock = TurnClock()
        self._state = DaemonState(settings, self._clock, self._wake.set)
        self._first_ready = math.inf
        self._announced = False
        self._looked = 0.0
        self._cores = usable_cores()
        self._need: Need | None = None
        self._start = Startup(self._state, around, self._undo, self._wake)
        self._refresher = Refresher(self._state)

    @property
    def services(self) -> list[RingService]:
        """A service for each ring, once the rings are made."""
        return self._state.services

    async def run(self) -> int:
        """Serve until SIGTERM or SIGINT, or until its terminal is closed; returns the exit code.

        SIGHUP reads the configuration again, and lists the root again.

        Raises:
            DaemonError: it could not start.
        """
        with obey(stop=self.stop, refresh=self._reload_soon):
            try:
                async with self._undo:
                    code = await self._serve()
            except (MemoryError, RuntimeError, OSError) as error:
                if (limit := exhausted(error)) is None:
                    raise
                kind = CrashError if self._announced else StartError
                raise kind(f"the daemon {'cannot go on' if self._announced else 'cannot start'}: {limit}") from error
            self._around.on_stop()
            why = self._why_stopped if code == EXIT_CLEAN else "every ring failed"
            _LOG.info("stopped: %s, after %.0f s%s", why, time.monotonic() - self._began, self._totals)
            return code

    def starter_gone(self) -> None:
        """End once no process needs the rings any more; at once if there are none yet. On the event loop."""
        self._need = Need()
        if self.services:
            self._wake.set()
        else:
            self.stop(NOBODY_LEFT)

    def stop(self, why: str) -> None:
        """Have `run` come to its end; to be called on its event loop."""
        self._why_stopped = self._why_stopped or why
        self._stop.set()
        self._wake.set()

    def _reload_soon(self) -> None:
        self._reload_wanted = self._refresher.wanted = True
        self._wake.set()

    def _reload(self, pool: Pool) -> None:
        """Read the configuration again, and change what can be changed now; all of it stays if it has an error."""
        self._reload_wanted = False
        if self._announced:
            self._notifier.reloading()
        if self._around.read is not None:
            self._read_again(self._around.read, pool)
        if self._announced:
            self._notifier.ready(self._ready_sentence)  # the listing goes on while the daemon serves

    def _read_again(self, read: Callable[[], Loaded], pool: Pool) -> None:
        before = self._state.settings
        try:
            loaded = read()
            changes = Changes.between(before.config, loaded.config)
            config = changes.applied(before.config)
            check_applied(changes, config)
            token = TokenFile(config.http_token_file) if config.http_token_file else None
        except DaemonError as error:
            sentences = "; ".join(error.sentences)
            _LOG.error("reload: the configuration has errors, and all settings stay as they are: %s", sentences)
            return
        for warning in loaded.warnings:
            _LOG.warning("reload: %s", warning)
        self._state.settings = resolve(config)
        self._start.reconfigure(before, token, pool)
        self._around.on_config(config)
        _LOG.info("reload: %s", changes.sentence())

    async def _serve(self) -> int:
        """Start up, serve, shut down; return the exit code."""
        starting = asyncio.create_task(self._start.run(self._refresher))
        stopping = asyncio.create_task(self._stop.wait())
        await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            await asyncio.wait((starting,))
            return EXIT_CLEAN
        stopping.cancel()
        pool = starting.result()
        code = await self._main_loop(pool)
        self._notifier.stopping()
        deaths = count(pool.deaths, "worker death")
        self._totals = "; ".join(["", *(service.totals() for service in self.services), deaths])
        return code

    # Main loop.

    async def _main_loop(self, pool: Pool) -> int:
        reported = -math.inf
        while not self._stop.is_set() and not self._is_unneeded():
            self._wake.clear()
            if self._reload_wanted:
                self._reload(pool)
            self._refresher.begin(ready=self._announced)
            for service in self.services:
                service.step()
            self._hand_out(pool)
            pool.check()
            if failed := self._all_failed():
                return failed
            now = self._clock()
            if now - reported >= TICK_S:
                reported = now
                pool.look(now, self._state.settings.config.worker_timeout_s)
                store = replace(pool.store.statistics(), concurrency=pool.most_requests)
                work = pool.work()
                daemon = DaemonCounts(
                    workers=pool.alive,
                    worker_deaths=pool.deaths,
                    fork_server_deaths=self._around.spawner.server_deaths,
                    cores=self._cores,
                    worker_cpu_ns=work.cpu_ns,
                    worker_busy_ns=work.busy_ns,
                    **self._state.tiers.counts(),
                )
                self._refresher.keep(now)
                self._around.on_tick()
                self._state.tiers.look(now)
                self._start.store_wait.first_pairs(store, there=self._announced)
                for service in self.services:
                    others = {
                        other.name: other.counters.decoded_pairs for other in self.services if other is not service
                    }
                    service.report(daemon, store, work, others)
            self._check_files(now)
            if not self._announced and self._is_ready(now):
                self._announce()
            self._watchdog.feed(time.monotonic())
            await self._something_to_do()
        return EXIT_CLEAN

    def _hand_out(self, pool: Pool) -> None:
        """Give the workers' free places to the rings."""
        places = min(JOBS_PER_TURN, pool.room)
        shares = divide(places, [service.need() for service in self.services])
        for service, share in zip(self.services, shares, strict=True):
            service.give(share)
        if sum(shares) == JOBS_PER_TURN:
            self._wake.set()  # there may be more

    def _is_unneeded(self) -> bool:
        """Return True if the process that started this daemon is gone, and no other one needs it."""
        if self._need is None or not self._need.ended([one.memory for one in self.services], self._clock()):
            return False
        self._why_stopped = self._why_stopped or NOBODY_LEFT
        return True

    async def _something_to_do(self) -> None:
        """Wait until the loop is woken, for a tick at most."""
        tick = asyncio.get_running_loop().call_later(TICK_S, self._wake.set)
        try:
            await self._wake.wait()
        finally:
            tick.cancel()

    def _check_files(self, now: float) -> None:
        """Raise CrashError if files of this daemon were removed: no trainer could attach any more.

        The service manager starts the next daemon, and attached trainers continue there.
        """
        if now - self._looked < LOOK_INTERVAL_S:
            return
        self._looked = now
        gone = [name for service in self.services for name in service.memory.removed()]
        gone += [lock.name for lock in self._start.locks if not lock.held]
        if gone:
            which = gone[0] if len(gone) == 1 else f"{gone[0]} and {len(gone) - 1} more"
            raise CrashError(
                f"another process removed {which} of this daemon's files from {SHM_DIR}; start the daemon again "
                f"(systemd does), and attached trainers continue at their next pair"
            )

    def _all_failed(self) -> int | None:
        reasons = [f"ring {service.name}: {service.failed}" for service in self.services if service.failed]
        if len(reasons) < len(self.services):
            return None
        if not self._announced:
            raise StartError("; ".join(reasons))
        return EXIT_CRASH

    def _is_ready(self, now: float) -> bool:
        """Whether each ring has its first slots, or has had `SHARE_WAIT_S` for them since the first ring had."""
        served = [service for service in self.services if not service.failed]
        if any(service.ready for service in served):
            self._first_ready = min(self._first_ready, now)
        return all(service.ready for service in served) or now - self._first_ready >= SHARE_WAIT_S

    def _announce(self) -> None:
        self._announced = True
        served = [service for service in self.services if not service.failed]
        rings = ", ".join(service.name for service in served)
        self._around.say(f"ready: attach to {rings}")
        for service in served:
            if not service.ready:
                self._around.say(
                    f"ring {service.name}: no pair is published yet, because the readers of other rings take all that "
                    f"the workers can do; it gets its share when a reader attaches"
                )
        self._ready_sentence = f"serving {rings} from {self._state.settings.config.root}"
        self._notifier.ready(self._ready_sentence)

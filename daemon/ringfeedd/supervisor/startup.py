"""Start-up: everything that is made before the first pair is dispatched, from the rings' locks to the workers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from typing import TYPE_CHECKING, Final

from ringfeed.shm.descriptor import Descriptor
from ringfeedd.cache.opening import open_tiers
from ringfeedd.cache.tiers import RingTiers
from ringfeedd.catalog.catalog import TEST, Catalog
from ringfeedd.config import Settings
from ringfeedd.decode.spec import DecodeSpec
from ringfeedd.recovery.catalogs import Start
from ringfeedd.recovery.cleanup import clear_leavings, foreign_files
from ringfeedd.recovery.fdstore import drop_rows, keep_rows, kept_rows, take_over
from ringfeedd.recovery.other_versions import forget_other_versions, keep_other_versions
from ringfeedd.recovery.predecessor import Predecessor, read_predecessors
from ringfeedd.ring.failures import Failures
from ringfeedd.ring.groups import Groups
from ringfeedd.ring.ring import Ring
from ringfeedd.ring.timeline import Timeline
from ringfeedd.shm.lock import SingletonLock
from ringfeedd.shm.memory import RingMemory
from ringfeedd.supervisor.discovery import Discovery
from ringfeedd.supervisor.refresh import Refresher
from ringfeedd.supervisor.service import RingService
from ringfeedd.supervisor.signals import wake_by
from ringfeedd.supervisor.sizing import (
    Room,
    Shares,
    connections,
    geometries,
    page_connections,
    process_bytes,
    shares,
    total,
)
from ringfeedd.supervisor.state import DaemonState, Surroundings
from ringfeedd.supervisor.store_wait import StoreWait
from ringfeedd.system.limits import allow_open_files
from ringfeedd.system.work import Work
from ringfeedd.web.token import TokenFile
from ringfeedd.worker.pool import Pool
from ringfeedd.worker.protocol import Hello, RingSpec, Tuning

if TYPE_CHECKING:
    from ringfeedd.web.server import HttpServer

_LOG: Final = logging.getLogger("ringfeedd")


class Startup:
    """Locks, predecessors, page, catalog, rings and workers, made in this order.

    Attributes:
        locks: the locks of the rings' names.
        store_wait: how long the start waits for a store that does not answer.
    """

    def __init__(
        self,
        state: DaemonState,
        around: Surroundings,
        undo: contextlib.AsyncExitStack,
        wake: asyncio.Event,
    ) -> None:
        """Prepare; nothing happens before `run`.

        Args:
            state: gets the rings and the cache.
            undo: takes down what is made, in the opposite order.
            wake: set when the main loop has something to do.
        """
        settings = state.settings
        config = settings.config
        self.locks: list[SingletonLock] = []
        self.store_wait = StoreWait(
            settings.store_wait_s,
            say=around.say,
            tell=around.notifier.extend_timeout,
            has_answered=lambda: config.store_wait_s is not None or bool(settings.cache()),
        )
        self._state, self._around, self._undo, self._wake = state, around, undo, wake
        self._notifier, self._say = around.notifier, around.say
        self._formers: dict[str, list[Predecessor]] = {}
        self._server: HttpServer | None = None
        self._connections = settings.most_downloads
        self._files = self._page_connections = 0
        self._mean_pair_bytes = 0.0
        self._pool: Pool | None = None

    @property
    def _settings(self) -> Settings:
        return self._state.settings

    async def run(self, refresher: Refresher) -> Pool:
        """Make everything; return the pool of worker processes that runs then.

        Raises:
            DaemonError: something is missing: the store, pairs, memory, a free ring name.
        """
        settings, config = self._settings, self._settings.config
        names = dict(settings.ring_names)
        if not config.test_ratio:
            names = {"train": names["train"]}
        self._files = allow_open_files()
        self._page_connections = page_connections(self._files) if settings.listen else 0
        self._connections = self._most_connections(len(names))
        access = settings.access()
        handed_over = take_over(self._notifier)
        for name in names.values():
            lock = SingletonLock(name, access)
            self._undo.callback(lock.release)
            self.locks.append(lock)
            predecessors = self._formers[name] = read_predecessors(name, handed_over)
            for former in predecessors:
                former.keep()
            others = keep_other_versions(name)
            self._undo.callback(forget_other_versions, name, others)
            if cleared := clear_leavings(name, others.union(former.descriptor.generation for former in predecessors)):
                _LOG.info("ring %s: cleared %d files of a dead daemon", name, len(cleared))
            if foreign := foreign_files(name):
                _LOG.warning("ring %s: %s", name, foreign)
        await self._open_page()
        discovery = Discovery(settings, self._around, self.store_wait)
        formers_of = {split: self._formers[name] for split, name in names.items()}
        start, spec = await discovery.discover(formers_of, connections=min(settings.downloads, self._connections))
        if start.listed:
            refresher.save(start.catalog)
        else:
            refresher.wanted = settings.nodes.num_nodes == 1
        revisions = start.revisions
        if config.test_ratio and TEST not in revisions:
            self._say(
                f"ring {names[TEST]}: not served, since test_ratio = {config.test_ratio:g} gives it none of the pairs"
            )
        self._mean_pair_bytes = start.catalog.mean_pair_bytes
        shape = self._shares(len(revisions))
        self._open_rings(start, spec, shape)
        self._open_tiers(start.catalog, spec)
        pool = self._open_pool(spec, shape)
        self._undo.push_async_callback(refresher.end)
        for service in self._state.services:
            service.begin(pool)
        return pool

    async def _open_page(self) -> None:
        """Serve the status page, from before the listing: a probe may ask how far it is."""
        listen, token_file = self._settings.listen, self._settings.config.http_token_file
        if listen is None:
            return
        from ringfeedd.web.server import HttpServer  # noqa: PLC0415  # a third of a second of imports

        token = TokenFile(token_file) if token_file else None
        server = HttpServer(
            lambda: self._state.services, listen, token, most_connections=self._page_connections, work=self._work
        )
        address = await server.start()
        self._undo.push_async_callback(server.stop)
        self._server = server
        self._say(f"status page: {address}")

    def _open_rings(self, start: Start, spec: DecodeSpec, shape: Shares) -> None:
        settings, config, revisions = self._settings, self._settings.config, start.revisions
        names = [settings.ring_names[split] for split in revisions]
        laid_out = geometries(settings, spec, names, Room.look())
        identity = settings.identity(size=f"{spec.height}x{spec.width}")
        for number, (revision, name, geometry) in enumerate(zip(revisions.values(), names, laid_out, strict=True)):
            order, split = revision.order, revision.split
            descriptor = Descriptor(
                ring=name,
                generation="",
                pid=os.getpid(),
                geometry=geometry,
                identity=identity,
                split=split.name,
                catalogs=(revision.served(0),),
            )
            memory = RingMemory(descriptor, settings.access())
            self._undo.callback(memory.give_back)
            service = RingService(
                number,
                ring=Ring(name, slots=geometry.slots, readahead=shape.readahead, timeline=Timeline(revision)),
                groups=Groups(linger_s=config.linger_s, linger_blocking_s=config.linger_blocking_s),
                memory=memory,
                failures=Failures(config.max_failed, on_error=config.on_error),
                notifier=self._notifier,
                clock=self._state.clock,
            )
            if later := start.later.get(split.name):
                service.refresh.begin_later(*later)
            service.expect(self._formers[name])
            self._state.services.append(service)
            self._undo.callback(service.end)
            self._undo.enter_context(wake_by(memory.space, self._wake))
            share = f"{settings.nodes}, {order.length:,} of " if settings.nodes.num_nodes > 1 else ""
            copied = "; batches that wrap round its end are copied (the slots are not whole pages)"
            self._say(
                f"ring {name}: {share}{len(split):,} pairs, {geometry.slots} slots of {spec.height}x{spec.width}, "
                f"{geometry.total_bytes / 2**20:.0f} MiB{'' if geometry.mirrored else copied}"
            )
        _LOG.info("%d bytes of shared memory are reserved", total(laid_out))

    def _open_tiers(self, catalog: Catalog, spec: DecodeSpec) -> None:
        config, templates = self._settings.config, self._settings.templates
        ring = self._state.services[0].name
        tiers = open_tiers(
            self._settings.kept(),
            spec,
            catalog,
            origin=[config.root, config.emulator, templates.images.canonical, templates.labels.canonical],
            ring=ring,
            access=self._settings.access(),
            needed=process_bytes(self._settings, spec),
            say=self._say,
            kept=kept_rows(ring, self._notifier),
        )
        if tiers is None or tiers.memory is None or not tiers.memory.is_kept:
            drop_rows(ring, self._notifier)
        if tiers is not None:
            self._state.tiers = tiers
            self._undo.callback(tiers.close)
            if tiers.memory is not None:
                self._undo.callback(keep_rows, ring, tiers.memory.fd, self._notifier)
            for service in self._state.services:
                service.use_tiers(RingTiers(tiers, service.number))

    def _open_pool(self, spec: DecodeSpec, shape: Shares) -> Pool:
        rings = [
            RingSpec(
                name=service.name,
                data_fd=service.memory.data_fd,
                slots=service.memory.geometry.slots,
                image_offset=service.memory.geometry.image.offset,
                label_offset=service.memory.geometry.label.offset,
                decode=spec,
            )
            for service in self._state.services
        ]
        config, tiers, tunings = self._settings.config, self._state.tiers, self._tunings(shape)
        hello = Hello(
            config.root,
            config.emulator,
            tunings[0],
            rings,
            memory=None if tiers.memory is None else tiers.memory.spec,
            disk=None if tiers.disk is None else str(tiers.disk.folder),
        )
        pool = Pool(hello, tunings, self._state, most_pairs=shape.most_pairs, spawner=self._around.spawner)
        self._pool = pool
        self._undo.push_async_callback(pool.stop)
        pool.start()
        return pool

    def _work(self) -> Work:
        """Return what the workers have done; nothing before there are any."""
        return Work() if self._pool is None else self._pool.work()

    # How the work is spread, now and after a reload.

    def _most_connections(self, rings: int) -> int:
        """Return how many connections a worker may have open."""
        return connections(
            self._settings.most_downloads,
            files=self._files,
            workers=self._settings.workers,
            rings=rings,
            page=self._page_connections,
        )

    def _shares(self, rings: int) -> Shares:
        return shares(
            workers=self._settings.workers,
            concurrency=self._settings.downloads,
            most_concurrency=self._settings.most_downloads,
            rings=rings,
            mean_pair_bytes=self._mean_pair_bytes,
        )

    def _tunings(self, shape: Shares) -> list[Tuning]:
        """Return how each worker downloads, within the files that it may have open; tell if that is less."""
        settings, config = self._settings, self._settings.config
        each = tuple(min(own, self._connections) for own in shape.concurrency)
        if each[0] < shape.concurrency[0]:
            self._say(
                f"{each[0]} instead of {shape.concurrency[0]} downloads at a time in each worker: a process may have "
                f"few files open here; raise the limit (`ulimit -n`, LimitNOFILE= in the unit)"
            )
        if shape.workers < settings.workers:
            self._say(f"{shape.workers} instead of {settings.workers} workers, for concurrency = {config.concurrency}")
        most = (min(own, self._connections) for own in shape.most_concurrency)
        return [Tuning(*numbers, settings.policy) for numbers in zip(each, most, strict=True)]

    def reconfigure(self, before: Settings, token: TokenFile | None, pool: Pool) -> None:
        """Go on with the settings of a reload.

        Args:
            before: the settings that held until then.
            token: that requests to the status page must send; None: none.
        """
        settings, config = self._settings, self._settings.config
        if self._server is not None:
            self._server.set_token(token)
        self._connections = self._most_connections(len(self._state.services))
        shape = self._shares(len(self._state.services))
        for service in self._state.services:
            service.reconfigure(config, readahead=shape.readahead)
        work = (settings.workers, settings.downloads, settings.most_downloads, settings.policy)
        if work != (before.workers, before.downloads, before.most_downloads, before.policy):
            pool.resize(self._tunings(shape), most_pairs=shape.most_pairs)

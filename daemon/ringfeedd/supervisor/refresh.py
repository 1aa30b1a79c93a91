"""Refresh: list the root again while it is served, in a thread of its own, and save listings for the next start."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Final

from ringfeedd.catalog.catalog import Catalog
from ringfeedd.catalog.listing import Progress, build_catalog
from ringfeedd.config import Settings
from ringfeedd.errors import DaemonError
from ringfeedd.recovery.catalogs import make_revisions
from ringfeedd.storage import open_source
from ringfeedd.supervisor.state import DaemonState
from ringfeedd.system.limits import exhausted

_LOG: Final = logging.getLogger("ringfeedd")

KEEP_INTERVAL_S: Final = 300.0
"""How often it is said in the cache which listings are served."""

_STOPPED: Final = "the daemon stopped"


class Refresher:
    """One for the daemon; on its event loop only.

    Attributes:
        wanted: another listing was asked for; `begin` begins it.
    """

    def __init__(self, state: DaemonState) -> None:
        """Prepare; ``state`` has the rings that get the listings."""
        self.wanted = False
        self._state = state
        self._listing: asyncio.Task[None] | None = None
        self._beside: set[asyncio.Task[None]] = set()
        self._kept: frozenset[str] = frozenset()
        self._kept_at = 0.0
        self._cache_turn = threading.Lock()

    def __repr__(self) -> str:
        return f"Refresher({'wanted' if self.wanted else 'not wanted'}, {len(self._beside)} under way)"

    def begin(self, *, ready: bool) -> None:
        """List the root again if that is wanted, once what is under way is over.

        Args:
            ready: the first pairs are there, from which a listing would take cores that they wait for.
        """
        if ready and self.wanted and (self._listing is None or self._listing.done()):
            self.wanted = False
            self._listing = self._do(self._refresh())

    def save(self, catalog: Catalog) -> asyncio.Task[None]:
        """Keep a listing for the next start, in the background."""
        return self._do(self._write(self._state.settings.cache().save, catalog))

    def keep(self, now: float) -> None:
        """Say in the cache which listings are served, as soon as these change, and every `KEEP_INTERVAL_S`.

        Args:
            now: seconds, monotonic.
        """
        catalogs = {catalog.fingerprint: catalog for service in self._state.services for catalog in service.catalogs}
        served = frozenset(catalogs)
        if served == self._kept and now - self._kept_at < KEEP_INTERVAL_S:
            return
        self._kept, self._kept_at = served, now
        ring = next(iter(self._state.settings.ring_names.values()))
        self._do(self._write(self._state.settings.cache().keep, ring, list(catalogs.values())))

    async def _write(self, work: Callable[..., None], *arguments: object) -> None:
        try:
            await asyncio.to_thread(self._in_turn, work, *arguments)
        except RuntimeError as error:
            if (limit := exhausted(error)) is None:
                raise
            _LOG.warning("the listing is not kept for the next start: %s", limit)

    def _in_turn(self, work: Callable[..., None], *arguments: object) -> None:
        """One after the other: both may want to write the same listing."""
        with self._cache_turn:
            work(*arguments)

    async def end(self) -> None:
        """Break a listing off, and wait until what is being kept of one is kept."""
        if self._listing is not None:
            self._listing.cancel()
        if self._beside:
            await asyncio.wait(self._beside)

    def _do(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._beside.add(task)
        task.add_done_callback(self._beside.discard)
        return task

    async def _refresh(self) -> None:
        """List the root again, and hand each ring its new listing."""
        config, nodes = self._state.settings.config, self._state.settings.nodes
        if nodes.num_nodes > 1:
            for service in self._state.services:
                service.refresh.refuse(
                    f"not done: {nodes.num_nodes} machines share every epoch, and each would change its share "
                    f"with an epoch of its own; stop the job and restart all daemons"
                )
            return
        _LOG.info("refresh: listing %s again", config.root)
        try:
            catalog = await list_root(self._state.settings)
            for sentence in catalog.incomplete.sentences():
                _LOG.info("refresh: %s", sentence)
            revisions = make_revisions(catalog, config, nodes)
            # Before any reader is promised what is new. A cancelled refresh waits for the saving itself.
            await asyncio.shield(self.save(catalog))
        except Exception as error:  # noqa: BLE001  # whatever it is, the old listing is served on
            reason = str(error) if isinstance(error, DaemonError) else f"{type(error).__name__}: {error}"
            for service in self._state.services:
                service.refresh.refuse(f"failed, and what was listed before is served on: {reason}")
            return
        for service in self._state.services:
            split = service.memory.descriptor.split
            if split in revisions:
                service.offer(revisions[split])
            else:
                service.refresh.refuse("not taken: the listing gives this ring none of the pairs")
        self._state.wake()


async def list_root(settings: Settings) -> Catalog:
    """List the root once more.

    A listing of a million pairs sorts for a second, in which the rings would stand still: it gets a thread and a loop
    of its own. Cancelling this ends it at its next page, without waiting for it.

    Raises:
        StartError: the listing failed, or there is no pair.
    """
    loop, stop = asyncio.get_running_loop(), threading.Event()
    listed: asyncio.Future[Catalog] = loop.create_future()

    def tell(catalog: Catalog | None, error: Exception | None) -> None:
        if listed.done():
            return
        if catalog is not None:
            listed.set_result(catalog)
        else:
            listed.set_exception(error or DaemonError(_STOPPED))

    def work() -> None:
        catalog, error = None, None
        try:
            catalog = asyncio.run(_list(settings, stop))
        except Exception as failure:  # noqa: BLE001  # whatever it is, the old catalog is served on
            error = failure
        if not loop.is_closed():
            loop.call_soon_threadsafe(tell, catalog, error)

    threading.Thread(target=work, name="refresh", daemon=True).start()
    try:
        return await listed
    finally:
        stop.set()


async def _list(settings: Settings, stop: threading.Event) -> Catalog:
    def go_on(_: Progress) -> None:
        if stop.is_set():
            raise DaemonError(_STOPPED)

    source = await open_source(settings.config.root, settings.store(settings.downloads))
    try:
        return await build_catalog(source, settings.templates, go_on)
    finally:
        await source.close()

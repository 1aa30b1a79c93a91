"""Refresh: the root is listed again while it is served, in a thread beside the loop that serves."""

from __future__ import annotations

import asyncio
import threading
from typing import Final

from ringfeedd.catalog.catalog import Catalog
from ringfeedd.catalog.listing import Progress, build_catalog
from ringfeedd.config import Config
from ringfeedd.errors import DaemonError
from ringfeedd.storage import open_source

_STOPPED: Final = "the daemon stopped"


async def list_root(config: Config) -> Catalog:
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
            catalog = asyncio.run(_list(config, stop))
        except Exception as failure:  # noqa: BLE001  # whatever it is, the old catalog is served on
            error = failure
        if not loop.is_closed():
            loop.call_soon_threadsafe(tell, catalog, error)

    threading.Thread(target=work, name="refresh", daemon=True).start()
    try:
        return await listed
    finally:
        stop.set()


async def _list(config: Config, stop: threading.Event) -> Catalog:
    def go_on(_: Progress) -> None:
        if stop.is_set():
            raise DaemonError(_STOPPED)

    source = await open_source(
        config.root,
        emulator=config.emulator,
        concurrency=config.downloads,
        read_timeout_s=config.read_timeout_s,
        user_project=config.user_project,
        data_plane=config.data_plane,
        max_objects=config.max_objects,
    )
    try:
        return await build_catalog(source, config.templates, go_on)
    finally:
        await source.close()

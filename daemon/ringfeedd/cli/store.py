"""Asks a store for one page of its listing and one object, as a daemon does, and takes the time."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Final

from ringfeedd.cli.checks import Check, store_answers, store_fails, store_is_silent
from ringfeedd.errors import DaemonError
from ringfeedd.storage import ObjectInfo, Source, SourceError, StoreSettings, open_source
from ringfeedd.storage.base import read
from ringfeedd.system.proxies import spare_local_hosts

TIMEOUT_S: Final = 10.0
"""For both answers together."""

MOST_BYTES: Final = 8 << 20
"""The size of the object that is read."""


def ask_store(root: str, emulator: str | None) -> Check:
    """Return what came of one look at a bucket, by the way that a daemon takes."""
    spare_local_hosts(os.environ)
    return asyncio.run(_ask(root, emulator))


async def _ask(root: str, emulator: str | None) -> Check:
    try:
        settings = StoreSettings(
            concurrency=1, emulator=emulator, read_timeout_s=TIMEOUT_S, listing_wait_s=0.0, answered=False
        )
        source = await open_source(root, settings)
    except DaemonError as error:
        return store_fails(root, str(error), "")
    try:
        async with asyncio.timeout(TIMEOUT_S):
            return await _look(root, source)
    except SourceError as error:
        return store_fails(root, str(error), error.cause)
    except DaemonError as error:
        return store_fails(root, str(error), "")
    except TimeoutError:
        return store_is_silent(root, TIMEOUT_S)
    finally:
        await source.close()


async def _look(root: str, source: Source) -> Check:
    began = time.monotonic()
    found: list[ObjectInfo] = []
    async for page in source.list_pages(""):
        found = [info for info in page if 0 < info.size <= MOST_BYTES]
        break
    listed_s, object_s, size = time.monotonic() - began, 0.0, 0
    if found:
        began = time.monotonic()
        size = len(await read(source, found[0].name, found[0].generation, found[0].size))
        object_s = time.monotonic() - began
    return store_answers(root, listed_s=listed_s, object_s=object_s, object_bytes=size)

"""Meta's SPDL: downloads in its event loop by aiohttp, whole batches decoded in threads into one array each.

Its own decoders (FFmpeg's) give other pixels than Pillow and expand palettes, so the codecs are the task's.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Generator

import aiohttp
from common import CONCURRENCY, Entry, decode_batch, urls
from ringfeedd.bench.contender import Delivered, Task, deliver
from spdl.pipeline import PipelineBuilder

BATCHES_BUFFERED = 4


class Downloads:
    """Fetches pairs, with one session for the loop that asks first."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._session: aiohttp.ClientSession | None = None

    async def __call__(self, entry: Entry) -> tuple[Entry, bytes, bytes]:
        """Both objects of a pair, at the same time."""
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=CONCURRENCY)
            self._session = aiohttp.ClientSession(connector=connector, auto_decompress=False)
        image, label = await asyncio.gather(*(self._read(url) for url in urls(self._task, entry)))
        return entry, image, label

    async def _read(self, url: str) -> bytes:
        async with self._session.get(url) as response:
            response.raise_for_status()
            return await response.read()


def batches(task: Task) -> Generator[Delivered, None, None]:
    """What the pipeline gives."""

    def decode(pairs: list[tuple[Entry, bytes, bytes]]) -> Delivered:
        image, label = decode_batch(task, [(image, label) for _, image, label in pairs])
        return Delivered(image, label, lambda: [entry["id"] for entry, _, _ in pairs])

    threads = os.cpu_count() or 1
    pipeline = (
        PipelineBuilder()
        .add_source(task.endless_order())
        .pipe(Downloads(task), concurrency=CONCURRENCY // 2)
        .aggregate(task.batch_size)
        .pipe(decode, concurrency=threads)
        .add_sink(BATCHES_BUFFERED)
        .build(num_threads=threads)
    )
    with pipeline.auto_stop():
        yield from pipeline.get_iterator()


if __name__ == "__main__":
    the_task = Task.from_argument()
    deliver(the_task, batches(the_task))
    os._exit(0)  # an endless source is not waited for

"""Meta's SPDL: downloads in its event loop by obstore (in Rust), whole batches decoded in threads into one array each.

Its own decoders (FFmpeg's) give other pixels than Pillow and expand palettes, so the codecs are the task's.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Generator

from common import CONCURRENCY, Entry, decode_batch, names
from obstore.store import HTTPStore
from spdl.pipeline import PipelineBuilder

from ringfeedd.bench.contender import Delivered, Task, deliver

BATCHES_BUFFERED = 4


class Downloads:
    """Fetches pairs. By aiohttp, in the same loop, it took more CPU."""

    def __init__(self, task: Task) -> None:
        self._store = HTTPStore.from_url(f"{task.url}/{task.bucket}", client_options={"allow_http": True})

    async def __call__(self, entry: Entry) -> tuple[Entry, bytes, bytes]:
        """Both objects of a pair, at the same time."""
        image, label = await asyncio.gather(*(self._read(name) for name in names(entry)))
        return entry, image, label

    async def _read(self, name: str) -> bytes:
        answer = await self._store.get_async(name)
        return bytes(await answer.bytes_async())


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

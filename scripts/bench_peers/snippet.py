"""The snippet's own design: an IterableDataset over an asyncio loop in a thread, gcloud-aio-storage, Pillow.

128 pairs are under way at a time; what has come is decoded by Pillow in the loop's threads, and put together by a
DataLoader of PyTorch's without worker processes.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Generator, Iterator

import aiohttp
import numpy as np
import torch
from common import CONCURRENCY, Entry, decode_pair, names
from gcloud.aio.storage import Storage
from torch.utils.data import DataLoader, IterableDataset

from ringfeedd.bench.contender import Delivered, Task, deliver

QUEUED_PAIRS = 256


class BucketPairs(IterableDataset):
    """Pairs of the bucket, in the order in which they arrive, without an end."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._queue: queue.Queue = queue.Queue(QUEUED_PAIRS)

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray, str]]:
        """Start the loop's thread, and yield what it fetches."""
        threading.Thread(target=lambda: asyncio.run(self._fetch()), daemon=True).start()
        while True:
            yield self._queue.get()

    async def _fetch(self) -> None:
        order = self._task.endless_order()
        connector = aiohttp.TCPConnector(limit=CONCURRENCY)
        async with aiohttp.ClientSession(connector=connector) as session:
            storage = Storage(session=session, api_root=self._task.url, api_is_dev=True)

            async def one_after_another() -> None:
                for entry in order:
                    image, label = await asyncio.gather(*(self._download(storage, name) for name in names(entry)))
                    await asyncio.to_thread(self._decode, entry, image, label)

            await asyncio.gather(*(one_after_another() for _ in range(CONCURRENCY)))

    async def _download(self, storage: Storage, name: str) -> bytes:
        return await storage.download(self._task.bucket, name)

    def _decode(self, entry: Entry, image: bytes, label: bytes) -> None:
        self._queue.put((*decode_pair(self._task, image, label), entry["id"]))


def batches(task: Task) -> Generator[Delivered, None, None]:
    """What the DataLoader gives."""
    for image, label, ids in DataLoader(BucketPairs(task), batch_size=task.batch_size):
        yield Delivered(image, label, lambda ids=ids: list(ids))


if __name__ == "__main__":
    torch.set_num_threads(1)
    the_task = Task.from_argument()
    deliver(the_task, batches(the_task))

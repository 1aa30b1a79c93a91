"""LitData's StreamingRawDataset: objects as they are, read from the local server by S3 paths (obstore, in Rust).

Threads only, which measured better on two cores than worker processes: each fetches a batch and decodes it into one
array, while the others' downloads go on.
"""

from __future__ import annotations

import os
import tempfile
from collections import deque
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

from common import decode_batch, names
from litdata.raw import StreamingRawDataset
from litdata.raw.indexer import BaseIndexer, FileMetadata
from litdata.streaming import downloader

from ringfeedd.bench.contender import Delivered, Task, deliver

BATCHES_AHEAD = 4


class Manifest(BaseIndexer):
    """The files as the workload lists them: indexing is not what is measured."""

    def __init__(self, task: Task) -> None:
        self._task = task

    def discover_files(self, input_dir: str, storage_options: dict[str, Any] | None) -> list[FileMetadata]:
        """All objects, an image and then its label."""
        del storage_options
        return [
            FileMetadata(path=f"{input_dir.rstrip('/')}/{name}", size=size)
            for entry in self._task.entries()
            for name, size in zip(names(entry), (entry["image_bytes"], entry["label_bytes"]), strict=True)
        ]

    def build_or_load_index(self, input_dir: str, *_: Any, **__: Any) -> list[FileMetadata]:  # noqa: ANN401
        """Without a cache, and without an upload to the bucket."""
        return self.discover_files(input_dir, None)


class Pairs(StreamingRawDataset):
    """An item is an image and its label."""

    def setup(self, files: list[FileMetadata]) -> list[list[FileMetadata]]:
        """Two files make an item."""
        return [files[at : at + 2] for at in range(0, len(files), 2)]


def batches(task: Task) -> Generator[Delivered, None, None]:
    """What the threads give, in turn."""
    options = {
        "endpoint_url": task.url,
        "aws_access_key_id": "a",
        "aws_secret_access_key": "b",
        "region_name": "us-east-1",
    }
    downloader._OBSTORE_CLIENT_OPTIONS["allow_http"] = True  # noqa: SLF001  # it has no option for a server without TLS
    with tempfile.TemporaryDirectory() as cache:
        dataset = Pairs(
            f"s3://{task.bucket}",
            cache_dir=cache,
            indexer=Manifest(task),
            storage_options=options,
            max_prefetch=0,
            max_concurrent_downloads=128,
        )
        places = {entry["id"]: place for place, entry in enumerate(task.entries())}
        order = task.endless_order()

        def make(ids: list[str]) -> Delivered:
            return Delivered(*decode_batch(task, dataset.__getitems__([places[one] for one in ids])), lambda: ids)

        with ThreadPoolExecutor((os.cpu_count() or 1) + 1) as threads:
            coming = deque()
            while True:
                while len(coming) < BATCHES_AHEAD:
                    coming.append(threads.submit(make, [entry["id"] for entry in islice(order, task.batch_size)]))
                yield coming.popleft().result()


if __name__ == "__main__":
    the_task = Task.from_argument()
    deliver(the_task, batches(the_task))
    os._exit(0)

"""Google's Grain: a source of records that fetches by urllib3, decoding in its threads, a worker process for each core."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Generator

import grain
import numpy as np
from common import decode_pair, fetch
from ringfeedd.bench.contender import Delivered, Task, deliver

THREADS = 8
"""In each worker process; they wait for the network most of the time."""


class Pairs:
    """Pairs by their number in the manifest."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._entries = task.entries()

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, number: int) -> tuple[np.ndarray, np.ndarray, int]:
        """Fetched and decoded."""
        return (*decode_pair(self._task, *fetch(self._task, self._entries[number])), number)


def batches(task: Task) -> Generator[Delivered, None, None]:
    """What its iterator gives."""
    ids = [entry["id"] for entry in task.entries()]
    dataset = (
        grain.MapDataset.source(Pairs(task))
        .shuffle(seed=0)
        .repeat()
        .to_iter_dataset(grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=64))
        .batch(task.batch_size)
        .mp_prefetch(grain.MultiprocessingOptions(num_workers=max(2, os.cpu_count() or 1), per_worker_buffer_size=2))
    )
    iterator = iter(dataset)
    try:
        for image, label, numbers in iterator:
            yield Delivered(image, label, lambda numbers=numbers: [ids[number] for number in numbers])
    finally:
        iterator.close()  # or its worker processes leave their shared memory behind


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that an interrupted run is closed, too
    the_task = Task.from_argument()
    deliver(the_task, batches(the_task))

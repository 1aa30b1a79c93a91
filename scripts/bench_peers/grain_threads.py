"""Google's Grain: a source of records that fetches by urllib3 and decodes, in its reading threads.

Threads only: with worker processes it was no faster on two cores, and each stop left batches of its in /dev/shm.
"""

from __future__ import annotations

import os
from collections.abc import Generator

import grain
import numpy as np
from common import decode_pair, fetch

from ringfeedd.bench.contender import Delivered, Task, deliver

THREADS = 16
"""They wait for the network most of the time."""


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
        .to_iter_dataset(grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=128))
        .batch(task.batch_size)
    )
    for image, label, numbers in dataset:
        yield Delivered(image, label, lambda numbers=numbers: [ids[number] for number in numbers])


if __name__ == "__main__":
    the_task = Task.from_argument()
    deliver(the_task, batches(the_task))
    os._exit(0)  # its threads are not waited for

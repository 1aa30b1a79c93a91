"""A DataLoader over a dict in memory: each pair is fetched and decoded once, by the training process itself.

Without worker processes: each of them would fill a dict of its own.
"""

from __future__ import annotations

from collections.abc import Generator

import numpy as np
import torch
from common import Entry, decode_pair, fetch
from torch.utils.data import DataLoader, Dataset
from torch_loader import EndlessOrder

from ringfeedd.bench.contender import Delivered, Task, deliver


class Kept(Dataset):
    """Pairs, kept by id once they came."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._pairs: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def __getitem__(self, entry: Entry) -> tuple[np.ndarray, np.ndarray, str]:
        """Return a pair."""
        pair = self._pairs.get(entry["id"])
        if pair is None:
            pair = self._pairs[entry["id"]] = decode_pair(self._task, *fetch(self._task, entry))
        return (*pair, entry["id"])


def batches(task: Task) -> Generator[Delivered, None, None]:
    """What the DataLoader gives."""
    loader = DataLoader(Kept(task), batch_size=task.batch_size, sampler=EndlessOrder(task), drop_last=True)
    for image, label, ids in loader:
        yield Delivered(image, label, lambda ids=ids: list(ids))


if __name__ == "__main__":
    torch.set_num_threads(1)
    the_task = Task.from_argument()
    deliver(the_task, batches(the_task))

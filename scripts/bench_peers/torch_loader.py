"""PyTorch's DataLoader as most people write it: a map-style dataset, urllib3 and Pillow, worker processes."""

from __future__ import annotations

import io
import os
from collections.abc import Generator, Iterator

import numpy as np
import torch
from common import Entry, decode_pair, fetch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Sampler

from ringfeedd.bench.contender import Delivered, Task, deliver


class Pairs(Dataset):
    """Pairs by what the manifest says of them."""

    def __init__(self, task: Task) -> None:
        self._task = task

    def __getitem__(self, entry: Entry) -> tuple[np.ndarray, np.ndarray, str]:
        """Fetch and decode one pair; scale it where the task's size is another one."""
        image, label = fetch(self._task, entry)
        if "resize" not in self._task.settings:
            return (*decode_pair(self._task, image, label), entry["id"])
        size = (self._task.width, self._task.height)
        pixels = Image.open(io.BytesIO(image)).convert("RGB").resize(size, Image.Resampling.BILINEAR)
        classes = Image.open(io.BytesIO(label)).resize(size, Image.Resampling.NEAREST)
        return np.array(pixels), np.array(classes), entry["id"]


class EndlessOrder(Sampler):
    """The entries themselves stand for indices."""

    def __init__(self, task: Task) -> None:
        self._task = task

    def __iter__(self) -> Iterator[Entry]:
        """All pairs, again and again."""
        return self._task.endless_order()


def batches(task: Task) -> Generator[Delivered, None, None]:
    """What the DataLoader gives."""
    loader = DataLoader(
        Pairs(task),
        batch_size=task.batch_size,
        sampler=EndlessOrder(task),
        num_workers=int(task.settings.get("workers") or max(2, os.cpu_count() or 1)),
        prefetch_factor=4,
    )
    for image, label, ids in loader:
        yield Delivered(image, label, lambda ids=ids: list(ids))


if __name__ == "__main__":
    torch.set_num_threads(1)
    the_task = Task.from_argument()
    deliver(the_task, batches(the_task))

"""PyTorch's DataLoader as most people write it: a map-style dataset, urllib3 and Pillow, worker processes.

With the setting `device` it feeds a GPU as well, or is asked how long that waits; else its batches are left where they
are.
"""

from __future__ import annotations

import io
import os
import random
import time
from collections.abc import Callable, Generator, Iterator

import numpy as np
import torch
from common import Entry, decode_pair, fetch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Sampler

from ringfeedd.bench.contender import Delivered, Task, deliver
from ringfeedd.bench.device import DEVICES
from ringfeedd.bench.feeding import WAYS, Tensors, fed, waits
from ringfeedd.bench.gpu_figures import report


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


class Epoch(Sampler):
    """The entries, each once, in another random order for each epoch."""

    def __init__(self, task: Task) -> None:
        self._entries = task.entries()
        self._shuffler = random.Random(0)

    def __iter__(self) -> Iterator[Entry]:
        """One epoch."""
        self._shuffler.shuffle(self._entries)
        return iter(list(self._entries))

    def __len__(self) -> int:
        return len(self._entries)


def loader_of(task: Task, order: Sampler) -> DataLoader:
    """The DataLoader; page-locked batches for a GPU."""
    return DataLoader(
        Pairs(task),
        batch_size=task.batch_size,
        sampler=order,
        num_workers=int(task.settings.get("workers") or max(2, os.cpu_count() or 1)),
        prefetch_factor=4,
        drop_last=True,
        pin_memory=task.settings.get("device") == "cuda",
        persistent_workers=bool(task.settings.get("persistent")),
    )


def batches(task: Task) -> Generator[Delivered, None, None]:
    """What the DataLoader gives."""
    for image, label, ids in loader_of(task, EndlessOrder(task)):
        yield Delivered(image, label, lambda ids=ids: list(ids))


class ForDevice:
    """The batches of a DataLoader as a model takes them: channels first, over the same memory."""

    def __init__(self, loader: DataLoader) -> None:
        self._loader = loader

    def with_ids(self) -> Iterator[tuple[Tensors, Callable[[], list[str]]]]:
        """Each with what makes its ids."""
        for image, label, ids in self._loader:
            yield (image.permute(0, 3, 1, 2), label), lambda ids=ids: list(ids)

    def __iter__(self) -> Iterator[Tensors]:
        """One epoch, without ids."""
        return (batch for batch, _ in self.with_ids())


def main() -> None:
    """Deliver, feed a device, or show a device's waits."""
    task = Task.from_argument()
    settings = task.settings
    if "device" not in settings:
        deliver(task, batches(task))
        return
    device = DEVICES[settings["device"]]()
    way = WAYS["straight"](device)  # its batches are page-locked already
    if settings["measure"] == "waits":
        loader = ForDevice(loader_of(task, Epoch(task)))
        report(waits(loader, device, way, epochs=settings["epochs"], step_s=settings["step_s"], pause=time.sleep))
        return
    loader = ForDevice(loader_of(task, EndlessOrder(task)))
    deliver(task, fed(loader.with_ids(), device, way, shown=bool(task.check_pairs)))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()

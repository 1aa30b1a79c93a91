"""What the loaders of converted data share: encoded pairs to convert, and batches that worker processes decode."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common import decode_batch, names

from ringfeedd.bench.contender import Delivered, Task

Sample = dict[str, Any]
Batch = tuple[torch.Tensor, torch.Tensor, list[str]]


def samples(task: Task) -> Iterator[Sample]:
    """Every pair of the workload: id, and both objects' bytes."""
    for entry in task.entries():
        image, label = (Path(task.folder, name).read_bytes() for name in names(entry))
        yield {"id": entry["id"], "image": image, "label": label}


def collated(task: Task) -> Callable[[list[Sample]], Batch]:
    """Return what makes a batch of samples, in a worker process: tensors, which travel in shared memory."""
    return partial(_collate, task)


def _collate(task: Task, batch: list[Sample]) -> Batch:
    torch.set_num_threads(1)
    image, label = decode_batch(task, [(one["image"], one["label"]) for one in batch])
    return torch.from_numpy(image), torch.from_numpy(label), [one["id"] for one in batch]


def delivered(batch: Batch) -> Delivered:
    """Return a batch as the benchmark takes it."""
    image, label, ids = batch
    return Delivered(image, label, lambda: ids)

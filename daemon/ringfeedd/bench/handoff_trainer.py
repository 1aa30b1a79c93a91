"""A trainer that looks at its own CPU clock around every batch. Run by `ringfeedd.bench.handoff`."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Iterator
from typing import Any, Final

import torch

import ringfeed
from ringfeed.torch import RingDataset
from ringfeedd.bench.contender import Task

WAITED_BATCHES: Final = 64
LEFT_IN_HAND: Final = 4
"""The last batches of a full ring are not counted as lying there: the daemon has begun to fill it again by then."""


def tensors(task: Task) -> Iterator[tuple[Any, Any]]:
    """Image and label tensors, batch after batch, epoch after epoch."""
    ring, batch_size = task.settings["ring"], task.batch_size
    if task.settings["through"] == "dataset":
        dataset = RingDataset(ring, batch_size=batch_size)
        while True:
            yield from dataset
    with ringfeed.attach(ring, batch_size=batch_size) as reader:
        while True:
            for batch in reader:
                yield torch.from_numpy(batch.image), torch.from_numpy(batch.label)


def main() -> None:
    """Take what lies there, then what has to be waited for."""
    task = Task.from_argument()
    batches = tensors(task)
    image, label = next(batches)
    batch_bytes = image.numel() * image.element_size() + label.numel() * label.element_size()
    del image, label  # a trainer that kept them would stop the ring
    in_the_ring = task.settings["slots"] // task.batch_size
    ready = [_one(batches) for _ in range(in_the_ring - 1 - LEFT_IN_HAND)]
    for _ in range(in_the_ring):  # whatever was made meanwhile
        next(batches)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw
    waited = [_one(batches) for _ in range(WAITED_BATCHES)]
    switches = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw - before
    found = {
        "batch_bytes": batch_bytes,
        "ready_us": ready,
        "waited_us": waited,
        "switches": switches / WAITED_BATCHES,
    }
    sys.stdout.write(json.dumps(found) + "\n")
    sys.stdout.flush()


def _one(batches: Iterator[tuple[Any, Any]]) -> float:
    """CPU of this thread for one batch, in microseconds."""
    before = time.thread_time_ns()
    next(batches)
    return (time.thread_time_ns() - before) / 1000


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()

"""WebDataset: the same pairs in tar shards, read over HTTP by curl, as it does, in a worker process for each core.

The shards are made once, next to the pairs. Shuffling is what WebDataset offers: shards, and a buffer.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Generator
from pathlib import Path

import torch
import webdataset
from common import decode_pair, names

from ringfeedd.bench.contender import Delivered, Task, deliver

PAIRS_PER_SHARD = 100
SHUFFLED_PAIRS = 200


def shards(task: Task) -> list[str]:
    """Addresses of the shards; made where they are not there yet."""
    folder = Path(task.folder) / "shards"
    entries = task.entries()
    starts = range(0, len(entries), PAIRS_PER_SHARD)
    if not folder.is_dir():
        draft = folder.with_suffix(f".draft{os.getpid()}")
        draft.mkdir()
        for number, start in enumerate(starts):
            with tarfile.open(draft / f"{number:05d}.tar", "w") as tar:
                for entry in entries[start : start + PAIRS_PER_SHARD]:
                    for name in names(entry):
                        tar.add(Path(task.folder) / name, Path(name).name)
        draft.rename(folder)
    return [f"{task.url}/{task.bucket}/shards/{number:05d}.tar" for number in range(len(starts))]


def batches(task: Task) -> Generator[Delivered, None, None]:
    """What its loader gives."""

    def decode(sample: dict) -> tuple:
        return (*decode_pair(task, sample["jpg"], sample["png"]), sample["__key__"])

    dataset = (
        webdataset.WebDataset(shards(task), resampled=True, shardshuffle=False, seed=0)
        .shuffle(SHUFFLED_PAIRS)
        .map(decode)
        .batched(task.batch_size, partial=False)
    )
    loader = webdataset.WebLoader(dataset, batch_size=None, num_workers=max(2, os.cpu_count() or 1), prefetch_factor=4)
    for image, label, ids in loader:
        yield Delivered(image, label, lambda ids=ids: list(ids))


if __name__ == "__main__":
    torch.set_num_threads(1)
    the_task = Task.from_argument()
    deliver(the_task, batches(the_task))

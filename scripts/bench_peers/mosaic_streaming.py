"""MosaicML Streaming over converted data: encoded pairs in shards, which its local cache holds after an epoch.

The conversion is not measured. The shards' origin is a folder, so what is measured is reading and decoding alone. A
process per core decodes whole batches, with the fast codecs.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Generator
from pathlib import Path
from types import ModuleType

from converted import Sample, collated, delivered, samples
from torch.utils.data import DataLoader

from ringfeedd.bench.contender import Delivered, Task, deliver

# Streaming imports its example data sets, and these torchvision, which has to be built for this very torch.
sys.modules |= {name: ModuleType(name) for name in ("streaming.multimodal", "streaming.text", "streaming.vision")}

from streaming import MDSWriter, StreamingDataset  # noqa: E402

COLUMNS = {"id": "str", "image": "bytes", "label": "bytes"}
CANONICAL_NODES = 1


def convert(task: Task, folder: Path) -> None:
    """Write the workload's pairs into shards."""
    with MDSWriter(out=str(folder), columns=COLUMNS) as shards:
        for sample in samples(task):
            shards.write(sample)


def batches(task: Task) -> Generator[Delivered, None, None]:
    """Epoch after epoch of what the DataLoader gives."""
    with tempfile.TemporaryDirectory(prefix="bench-mosaic-", ignore_cleanup_errors=True) as folder:
        convert(task, Path(folder) / "shards")
        dataset = StreamingDataset(
            remote=f"{folder}/shards",
            local=f"{folder}/cache",
            shuffle=True,
            batch_size=task.batch_size,
            num_canonical_nodes=CANONICAL_NODES,
        )
        loader: DataLoader[Sample] = DataLoader(
            dataset,
            batch_size=task.batch_size,
            num_workers=os.cpu_count() or 1,
            collate_fn=collated(task),
            persistent_workers=True,
            drop_last=True,
        )
        while True:
            yield from map(delivered, loader)


if __name__ == "__main__":
    the_task = Task.from_argument()
    deliver(the_task, batches(the_task))
    os._exit(0)

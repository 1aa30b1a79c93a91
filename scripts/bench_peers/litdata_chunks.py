"""LitData over converted data: encoded pairs in its chunks, in a local folder, as its cache has them.

The conversion is not measured. A process per core decodes whole batches, with the fast codecs.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Generator
from pathlib import Path

from converted import Sample, collated, delivered, samples
from litdata import StreamingDataLoader, StreamingDataset
from litdata.streaming.writer import BinaryWriter

from ringfeedd.bench.contender import Delivered, Task, deliver

CHUNK_BYTES = 64 << 20


def convert(task: Task, folder: Path) -> None:
    """Write the workload's pairs into chunks."""
    folder.mkdir()
    chunks = BinaryWriter(str(folder), chunk_bytes=CHUNK_BYTES)
    for number, sample in enumerate(samples(task)):
        chunks[number] = sample
    chunks.done()
    chunks.merge()


def batches(task: Task) -> Generator[Delivered, None, None]:
    """Epoch after epoch of what its loader gives."""
    with tempfile.TemporaryDirectory(prefix="bench-litdata-") as folder:
        convert(task, Path(folder) / "chunks")
        dataset: StreamingDataset = StreamingDataset(f"{folder}/chunks", shuffle=True, drop_last=True)
        loader: StreamingDataLoader = StreamingDataLoader(
            dataset,
            batch_size=task.batch_size,
            num_workers=os.cpu_count() or 1,
            collate_fn=collated(task),
            persistent_workers=True,
        )
        while True:
            batch: tuple[Sample, ...]
            for batch in loader:
                yield delivered(batch)


if __name__ == "__main__":
    the_task = Task.from_argument()
    deliver(the_task, batches(the_task))
    os._exit(0)

"""A training process that reads a ring and does nothing with it: Ringfeed as a contender. Run by the benchmark."""

from __future__ import annotations

from collections.abc import Generator

import ringfeed
from ringfeedd.bench.contender import Delivered, Task, deliver


def batches(task: Task) -> Generator[Delivered, None, None]:
    """Epoch after epoch of the ring that the task's settings name."""
    settings = task.settings
    reader = ringfeed.attach(
        settings["ring"],
        batch_size=task.batch_size,
        group=settings["group"],
        rank=settings.get("rank", 0),
        world_size=settings.get("world_size", 1),
    )
    with reader:
        while True:
            for batch in reader:
                yield Delivered(batch.image, batch.label, lambda batch=batch: batch.ids)  # type: ignore[misc]


if __name__ == "__main__":
    the_task = Task.from_argument()
    deliver(the_task, batches(the_task))

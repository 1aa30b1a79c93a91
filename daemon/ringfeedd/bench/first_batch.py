"""A trainer that looks at the clock from attaching to its first batch. Run by `ringfeedd.bench.starting`."""

from __future__ import annotations

import sys
import time

import ringfeed
from ringfeedd.bench.contender import Task

if __name__ == "__main__":
    task = Task.from_argument()
    began = time.perf_counter()
    with ringfeed.attach(task.settings["ring"], batch_size=task.batch_size) as reader:
        next(iter(reader))
        sys.stdout.write(f"{1000 * (time.perf_counter() - began):.3f}\n")
        sys.stdout.flush()

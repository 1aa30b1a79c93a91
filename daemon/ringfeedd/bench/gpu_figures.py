"""What trainers with a GPU report, as one line of JSON each. Standard library only, since the peers import it too."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Copied:
    """What each way of one batch into a device's memory cost; every batch took every way.

    Attributes:
        device: its name.
        batch_bytes: image and label of one batch.
        wall_ms: by way: from the call until the batch was there.
        cpu_us: by way: CPU of the trainer's thread for the same.
    """

    device: str
    batch_bytes: int
    wall_ms: dict[str, list[float]]
    cpu_us: dict[str, list[float]]


@dataclass(frozen=True, slots=True)
class Waits:
    """How long the device waited for batches, from the end of a step to the next batch in its memory, in ms.

    Attributes:
        first_ms: for each epoch's first batch.
        other_ms: for all other batches.
    """

    first_ms: list[float]
    other_ms: list[float]


def report(found: Copied | Waits) -> None:
    """Print it for the benchmark."""
    sys.stdout.write(json.dumps(asdict(found)) + "\n")
    sys.stdout.flush()

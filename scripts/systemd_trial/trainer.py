"""A rank that checks every pixel and logs every id: ``trainer.py RING GROUP RANK WORLD_SIZE FOLDER``.

It writes a line of JSON for each batch, [epoch, ids], to FOLDER/GROUP.RANK, and ends before the epoch that
FOLDER/until names. The pixels of pair N are known: see `trial.write_pairs`.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np

import ringfeed

STEP_S = 0.03
CLASSES = 250
JPEG_ERROR = 3


def main() -> int:
    """Read until the epoch that the file names."""
    ring, group, rank, world_size, folder = sys.argv[1:]
    until = Path(folder, "until")
    with (
        ringfeed.attach(
            ring, batch_size=8, group=group, rank=int(rank), world_size=int(world_size), drop_last=False, wait_s=60
        ) as reader,
        Path(folder, f"{group}.{rank}").open("a", buffering=1) as log,
    ):
        while not until.exists() or reader.epoch < int(until.read_text()):
            for batch in reader:
                rows = [row for row in range(len(batch.ids)) if batch.valid[row]]
                for row in rows:
                    check(batch.ids[row], batch.image[row], batch.label[row])
                log.write(json.dumps([batch.epoch, [batch.ids[row] for row in rows]]) + "\n")
                time.sleep(STEP_S)  # the training step
    return 0


def check(pair_id: str, image: np.ndarray, label: np.ndarray) -> None:
    """Raise AssertionError unless these are the pixels of the pair."""
    wanted = int(pair_id) % CLASSES
    assert (label == wanted).all(), f"the label of {pair_id} has the pixels of another pair"
    assert np.abs(image.astype(int) - wanted).max() <= JPEG_ERROR, f"the image of {pair_id} is another pair's"


if __name__ == "__main__":
    sys.exit(main())

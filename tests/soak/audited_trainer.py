"""A rank that logs what it takes, a line for each batch, and does as it is told on its standard input.

Orders, a line each: ``take N``: N batches more; ``until EPOCH``: all up to that epoch's start, and end. At the input's
end it ends. A line of the log is written whole before the batch counts as taken; one without its end is none.
"""

from __future__ import annotations

import hashlib
import json
import os
import select
import sys
import time
from pathlib import Path

import ringfeed

REFUSED = 4
"""Exit code when the daemon refuses the place that is asked for; its sentence is printed."""

OTHER_CATALOG = 5
"""Exit code when the state that it is to start from is of ids that are not served any more."""


class Orders:
    """What may be taken; `may_take` waits for it."""

    def __init__(self) -> None:
        self.left = 0
        self.until = None
        self._bytes = b""
        self._ended = False

    def may_take(self, epoch: int) -> bool:
        """Whether to take one more batch, of this epoch; False: end."""
        self._read(wait=False)
        while not self._ended:
            if self.until is not None:
                return epoch < self.until
            if self.left:
                return True
            self._read(wait=True)
        return False

    def _read(self, *, wait: bool) -> None:
        while not self._ended and select.select([0], [], [], None if wait else 0)[0]:
            wait = False
            data = os.read(0, 4096)
            self._ended = not data
            *lines, self._bytes = (self._bytes + data).split(b"\n")
            for line in lines:
                verb, number = line.decode().split()
                if verb == "take":
                    self.left += int(number)
                else:
                    self.until = int(number)


def main() -> int:
    ring, group, rank, world_size, batch_size, start, log, step_s = sys.argv[1:]
    place = json.loads(start)
    try:
        try:
            reader = ringfeed.attach(
                ring,
                batch_size=int(batch_size),
                group=group,
                rank=int(rank),
                world_size=int(world_size),
                drop_last=False,
                start=tuple(place) if isinstance(place, list) else place,
                wait_s=60,
            )
        except ringfeed.StateMismatchError as error:  # here only: a reader that is in is promised its catalog
            print(error, flush=True)
            return OTHER_CATALOG
        with Path(log).open("ab", buffering=0) as file:
            file.write(b"in\n")
            _read(reader, file, float(step_s))
    except ringfeed.AttachRefusedError as error:
        print(error, flush=True)
        return REFUSED
    reader.close()
    return 0


def _read(reader, file, step_s: float) -> None:
    orders, batches = Orders(), iter(())
    while orders.may_take(reader.epoch):
        batch = next(batches, None)
        if batch is None:
            batches = iter(reader)
            continue
        rows = [
            [batch.ids[i], batch.epoch, int(batch.positions[i]), bool(batch.valid[i]), digest(image, label)]
            for i, (image, label) in enumerate(zip(batch.image, batch.label, strict=True))
        ]
        del batch
        file.write(json.dumps([rows, reader.state_dict()]).encode() + b"\n")
        orders.left -= 1
        if step_s:
            time.sleep(step_s)  # the training step


def digest(image, label) -> str:
    """SHA-256 of a pair's pixels: the image's ``(H, W, 3)``, then the label's ``(H, W)``, uint8."""
    return hashlib.sha256(image.tobytes() + label.tobytes()).hexdigest()


if __name__ == "__main__":
    sys.exit(main())

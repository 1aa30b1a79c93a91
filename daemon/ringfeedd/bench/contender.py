"""What every contender does, ours and the peers': take its task, deliver batches, measure itself, print one line.

Standard library and NumPy only, since the peers import it too.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ringfeedd.bench.meter import TreeCpu, tree_cpu

MOST_WARM_S = 15.0
"""A warm-up is over by then, however slow: a benchmark ends."""


@dataclass(frozen=True, slots=True)
class Task:
    """What a contender is asked for.

    Attributes:
        url: of the store; objects at ``url/bucket/NAME``, the JSON API at ``url/storage/v1``.
        folder: the workload's, for its manifest: a loader's listing is not what is measured.
        height, width: of what is delivered, in pixels.
        warm_pairs: delivered before the measurement begins: more than any loader has in hand.
        seconds: how long it is measured.
        check_pairs: not 0: nothing is measured; the pixels of so many pairs are hashed instead.
        roots: processes besides its own whose trees' CPU counts, by what they are called.
        settings: the contender's own.
    """

    url: str
    bucket: str
    folder: str
    height: int
    width: int
    batch_size: int = 32
    warm_pairs: int = 768
    seconds: float = 5.0
    check_pairs: int = 0
    roots: dict[str, int] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_argument(cls) -> Task:
        """The task that stands on this process's command line."""
        return cls(**json.loads(sys.argv[1]))

    def as_argument(self) -> str:
        """For a contender's command line."""
        return json.dumps(asdict(self))

    def entries(self) -> list[dict[str, Any]]:
        """The pairs of the workload, as its manifest lists them: id, image_bytes, label_bytes, ..."""
        listed: list[dict[str, Any]] = json.loads((Path(self.folder) / "manifest.json").read_bytes())["pairs"]
        return listed

    def endless_order(self, seed: int = 0) -> Iterator[dict[str, Any]]:
        """All pairs, reshuffled each time round, without an end: no contender pays for an epoch's end."""
        entries = self.entries()
        shuffler = random.Random(seed)
        while True:
            shuffler.shuffle(entries)
            yield from entries


@dataclass(frozen=True, slots=True)
class Delivered:
    """One batch as it reaches the training loop.

    Attributes:
        image: (B, H, W, 3) uint8, array or tensor.
        label: (B, H, W) or (B, H, W, C), array or tensor.
        ids: makes the pairs' ids; called only where pixels are checked.
    """

    image: Any
    label: Any
    ids: Callable[[], list[str]]


@dataclass(frozen=True, slots=True)
class Measured:
    """One consumer's window.

    Attributes:
        pairs, seconds: delivered in the window, and its length.
        own_cpu_s: used by the consumer's process and its children.
        cpu_s: used by each of the task's roots; ``NAME`` the process itself, ``NAME.children`` all below.
    """

    pairs: int
    seconds: float
    own_cpu_s: float
    cpu_s: dict[str, float]


def deliver(task: Task, batches: Generator[Delivered, None, None], *, own: bool = True) -> None:
    """Take batches as a training loop would, and print what was measured as one line of JSON.

    Args:
        batches: closed before the line is printed.
        own: this process counts by itself; False where one of the task's roots has it among its children.
    """
    with contextlib.closing(batches):  # what it has started shall end before the rest is killed
        result = _check(task, batches) if task.check_pairs else asdict(_measure(task, batches, own=own))
    sys.stdout.write(json.dumps(result) + "\n")
    sys.stdout.flush()


def _measure(task: Task, batches: Iterable[Delivered], *, own: bool) -> Measured:
    roots = {**task.roots, **({"": os.getpid()} if own else {})}
    pairs = 0
    began = 0.0
    started = time.monotonic()
    before: dict[str, TreeCpu] = {}
    for batch in batches:
        pairs += len(batch.image)
        if began:
            if (now := time.monotonic()) - began >= task.seconds:
                break
        elif pairs >= task.warm_pairs or time.monotonic() - started >= MOST_WARM_S:
            pairs = 0
            before = {name: tree_cpu(pid) for name, pid in roots.items()}
            began = time.monotonic()
    else:
        raise RuntimeError("the loader ended before the measurement did")
    used = {name: tree_cpu(pid) - before[name] for name, pid in roots.items()}
    own_cpu_s = used.pop("").total if own else 0.0
    cpu_s = {name: cpu.root for name, cpu in used.items()} | {
        f"{name}.children": cpu.children for name, cpu in used.items()
    }
    return Measured(pairs, now - began, own_cpu_s, cpu_s)


def _check(task: Task, batches: Iterable[Delivered]) -> dict[str, str]:
    """The hash of each pair's pixels, by its id."""
    found: dict[str, str] = {}
    for batch in batches:
        for pair_id, image, label in zip(batch.ids(), batch.image, batch.label, strict=True):
            found[pair_id] = pixel_hash(np.asarray(image), np.asarray(label))
        if len(found) >= task.check_pairs:
            break
    return found


def pixel_hash(image: np.ndarray[Any, Any], label: np.ndarray[Any, Any]) -> str:
    """Return the hash of an image and its label, both of any uint8 shape."""
    return hashlib.sha256(np.ascontiguousarray(image).tobytes() + np.ascontiguousarray(label).tobytes()).hexdigest()[
        :16
    ]

"""What a DataLoader is about to do with a dataset, told by the stack: nothing else in torch tells a dataset."""

from __future__ import annotations

import os
import sys
import weakref
from collections.abc import Iterator
from multiprocessing.context import get_spawning_popen
from types import FrameType
from typing import Any, Final, Protocol

_TORCHS: Final = ("torch.", "torchdata.")
"""Only frames of these modules are looked into: a look at a user's frame would keep its variables, and their slots."""


class Handed(Protocol):
    """A dataset that wants to know when it is handed to a DataLoader's workers."""

    def hand_over(self) -> None:
        """Workers of a DataLoader, which are being started in this process, will read."""


_DATASETS: weakref.WeakSet[Any] = weakref.WeakSet()


def tell_of_workers(dataset: Handed) -> None:
    """Have a dataset's `hand_over` be called before a process is forked that will read from it."""
    _DATASETS.add(dataset)


def spawns_workers_of(dataset: Handed) -> bool:
    """Return whether the dataset is being pickled for a worker that a DataLoader starts."""
    return get_spawning_popen() is not None and _starts_workers_of(dataset)


def collates(caller: FrameType) -> bool:
    """Return whether the DataLoader that iterates would make batches of what a dataset yields."""
    return caller.f_globals.get("__name__", "").startswith(_TORCHS) and bool(caller.f_locals.get("auto_collation"))


def _starts_workers_of(dataset: Handed) -> bool:
    return any(getattr(owner, "_dataset", None) is dataset for owner in _owners())


def _owners() -> Iterator[Any]:
    """The objects of torch's whose constructors are running."""
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001  # the stack, from here on outwards
    while frame is not None:
        if frame.f_code.co_name == "__init__" and frame.f_globals.get("__name__", "").startswith(_TORCHS):
            yield frame.f_locals.get("self")
        frame = frame.f_back


def _before_fork() -> None:
    for dataset in list(_DATASETS):
        if _starts_workers_of(dataset):
            dataset.hand_over()


os.register_at_fork(before=_before_fork)

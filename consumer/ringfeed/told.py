"""What a DataLoader's workers tell the process that started them: batches with states, or only that they read."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from multiprocessing.context import get_spawning_popen
from typing import Any, NamedTuple


class Told(NamedTuple):
    """A worker's item, with the state after it. A named tuple, which torch pins and moves as it does any other."""

    item: Any
    state: dict[str, Any]


class ItemCollate:
    """Collates an item as it is told to, whether a state travels with it or not; pickles with its function."""

    def __init__(self, collate: Callable[[Any], Any]) -> None:
        self.collate: Callable[[Any], Any] = collate.collate if isinstance(collate, ItemCollate) else collate

    def __call__(self, item: Any) -> Any:  # noqa: ANN401  # what the function returns
        """Collate an item, and what a worker told with it not."""
        return Told(self.collate(item.item), item.state) if isinstance(item, Told) else self.collate(item)


class ReadByWorkers:
    """Whether workers have read that do not tell where they stand, seen from the process that started them.

    Forked workers write a byte that they share with it; of spawned ones it is known when the dataset is sent to them.
    """

    def __init__(self) -> None:
        self._byte = mmap.mmap(-1, mmap.PAGESIZE)

    def __bool__(self) -> bool:
        return self._byte[0] != 0

    def note(self) -> None:
        """Workers read, or will."""
        self._byte[0] = 1

    def note_if_sent(self) -> None:
        """Note it where this is being pickled for a process that multiprocessing starts."""
        if get_spawning_popen() is not None:
            self.note()

    def forget(self) -> None:
        """What workers have read does not matter any more: another place was chosen."""
        self._byte[0] = 0

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return ReadByWorkers, ()

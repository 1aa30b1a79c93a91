"""One iteration of a DataLoader's worker over a ring, and where it leaves its rank's place."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ringfeed.reader.reader import Reader
from ringfeed.torch.items import Items
from ringfeed.torch.workers.requests import RequestedIteration
from ringfeed.torch.workers.told import Told


class WorkerPass:
    """What a worker reads for one iteration of its loader."""

    def __init__(self, reader: Reader, iteration: RequestedIteration | None) -> None:
        """Begin it.

        Args:
            iteration: a `RingLoader`'s; None where another loader reads, which tells its workers nothing.
        """
        self._reader = reader
        self._iteration = iteration
        self._stood: dict[str, Any] | None = None
        reader.read_ahead_for(iteration)

    def items(self, make: Items, turn: range, world_size: int) -> Iterator[Any]:
        """Return the epoch's items, for a `RingLoader` each with the state after it; detach after the last.

        Args:
            turn, world_size: see `Reader.with_states`.
        """
        return _Items(self, self._items(make, turn, world_size))

    def _items(self, make: Items, turn: range, world_size: int) -> Iterator[Any]:
        try:
            for batch, state in self._reader.with_states(turn, world_size):
                item = make.of(batch)
                del batch
                yield item if self._iteration is None else Told(item, state)
                del item
        finally:
            self.leave()

    def leave(self) -> None:
        """Detach and keep the rank's place: where this iteration began as long as it is a look, else where it is."""
        if not self._reader.closed:
            self._stood = self._reader.state_dict()
            self._reader.close(keep_place=True, take_back=self._is_look)

    def leave_at(self) -> dict[str, Any]:
        """Detach, and return the state from which this worker's next iteration goes on."""
        self.leave()
        return self._reader.state_dict() if self._is_look or self._stood is None else self._stood

    @property
    def _is_look(self) -> bool:
        return self._iteration is not None and self._iteration.is_look()


class _Items(Iterator[Any]):
    """Detaches once torch drops it, also if it was asked for nothing, when no line of a generator would run."""

    def __init__(self, reads: WorkerPass, items: Iterator[Any]) -> None:
        self._reads = reads
        self._items = items

    def __next__(self) -> Any:  # noqa: ANN401  # what transforms return
        return next(self._items)

    def __del__(self) -> None:
        self._reads.leave()

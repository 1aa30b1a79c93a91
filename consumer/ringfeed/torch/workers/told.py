"""What a loader's workers tell the process that started them: batches with states."""

from __future__ import annotations

from collections.abc import Callable
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

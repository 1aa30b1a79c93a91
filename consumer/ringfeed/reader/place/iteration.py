"""Iterations over a reader: each gives one epoch, and a later one supersedes it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from ringfeed.reader.batch import Batch


class LoaderIteration(Protocol):
    """An iteration over a loader, as the readers of its workers see it."""

    def is_look(self) -> bool:
        """Whether no more than its first batch was asked for."""

    def has_ended(self) -> bool:
        """Whether its next batch is no longer asked for."""


class TakesBatches(Protocol):
    """A reader, as its iterations see it."""

    def take(self, iteration: int, epoch: int) -> Batch | None:
        """Return the next batch of ``epoch``; None at its end."""


class EpochIterator(Iterator[Batch]):
    """One epoch of a reader. Keeps no batch, so that a batch's slots are free as soon as the trainer drops it."""

    def __init__(self, reader: TakesBatches, iteration: int, epoch: int) -> None:
        self._reader = reader
        self._iteration = iteration
        self._epoch = epoch
        self._ended = False

    def __next__(self) -> Batch:
        if self._ended:  # an iterator that has ended stays so, whatever began since
            raise StopIteration
        batch = self._reader.take(self._iteration, self._epoch)
        if batch is None:
            self._ended = True
            raise StopIteration
        return batch


def superseded(ring: str) -> str:
    """Return the sentence of an iteration that a later one has superseded."""
    return (
        f"This iteration over ring {ring!r} was superseded: a later one has begun, or set_epoch() or load_state_dict() "
        f"went elsewhere. A group makes one pass at a time: leave one loop before the next begins. To read two passes "
        f"in step (zip), make a RingDataset, or attach a reader, for each."
    )

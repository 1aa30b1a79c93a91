"""What a loader tells its workers while they read: how many batches they were asked for, in shared memory."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from multiprocessing.sharedctypes import RawArray
from typing import Final

LOOK_BATCHES: Final = 1
"""An iteration of which no more batches were asked for was a look; the next one begins where it began."""


class _Word(enum.IntEnum):
    """Each is written by the loader's process only."""

    ITERATION = 0
    ENDED = 1  # the latest iteration that has ended
    ASKED = 2  # by even and by odd iterations: workers may still leave one while the next begins


class Requests:
    """The batches that a loader was asked for, in the iteration that its workers read for.

    It goes to the workers with their dataset, by a fork or by the pickle that starts a process.
    """

    def __init__(self) -> None:
        self._words = RawArray("q", len(_Word) + 1)

    def __repr__(self) -> str:
        return f"Requests(iteration {self.iteration}, {self.asked_in(self.iteration)} batches)"

    # The loader.

    def begin(self) -> None:
        """Begin another iteration."""
        iteration = self.iteration + 1
        self._words[self._asked(iteration)] = 0
        self._words[_Word.ITERATION] = iteration

    def ask(self) -> None:
        """Ask for one more batch."""
        self._words[self._asked(self.iteration)] += 1

    def end(self) -> None:
        """End the iteration: no more of its batches are asked for."""
        self._words[_Word.ENDED] = self.iteration

    # Its workers.

    @property
    def iteration(self) -> int:
        """The iteration that is read now, counted from 1."""
        return int(self._words[_Word.ITERATION])

    def latest(self) -> RequestedIteration:
        """Return the iteration that is read now."""
        return RequestedIteration(self, self.iteration)

    def asked_in(self, iteration: int) -> int:
        """Return the batches that were asked for in an iteration, the latest or the one before."""
        return int(self._words[self._asked(iteration)])

    @property
    def latest_ended(self) -> int:
        """The latest iteration that has ended; 0 where none has."""
        return int(self._words[_Word.ENDED])

    @staticmethod
    def _asked(iteration: int) -> int:
        return _Word.ASKED + iteration % 2


@dataclass(frozen=True, slots=True)
class RequestedIteration:
    """One iteration of a loader, as its workers see it until the second one after it begins."""

    requests: Requests
    number: int

    def is_look(self) -> bool:
        """Return whether so few batches were asked for, or were until it ended, that it is a look."""
        return self.requests.asked_in(self.number) <= LOOK_BATCHES

    def has_ended(self) -> bool:
        """Return whether no more batches are asked for."""
        return self.requests.latest_ended >= self.number

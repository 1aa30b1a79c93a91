"""Failed pairs: counted, listed with their reasons, and the budget beyond which a ring stops."""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

WINDOW_PAIRS: Final = 1000
"""The fraction of failed pairs is taken over this many of the latest outcomes."""

FIRST_PAIRS: Final = 20
"""When this many fail before one succeeds, the root, the credentials or the format is wrong."""

MOST_LISTED: Final = 1000


@dataclass(slots=True)
class Failure:
    """One pair that could not be had.

    Attributes:
        times: how often it was drawn and failed.
    """

    pair_id: str
    reason: str
    cause: str
    attempts: int
    times: int = 1


class Failures:
    """The failed pairs of one ring; bounded in memory."""

    def __init__(self, max_failed: float) -> None:
        """Start with none.

        Args:
            max_failed: fraction of the latest `WINDOW_PAIRS` that may fail.
        """
        self.total = 0
        self.causes: Counter[str] = Counter()
        self._max_failed = max_failed
        self._succeeded = False
        self._window: deque[bool] = deque(maxlen=WINDOW_PAIRS)
        self._failed_in_window = 0
        self._listed: OrderedDict[str, Failure] = OrderedDict()

    def __iter__(self) -> Iterator[Failure]:
        return iter(self._listed.values())

    def __contains__(self, pair_id: str) -> bool:
        return pair_id in self._listed

    def __len__(self) -> int:
        return len(self._listed)

    def succeed(self) -> None:
        """A pair was decoded."""
        self._succeeded = True
        self._note(failed=False)

    def fail(self, failure: Failure) -> str | None:
        """A pair could not be had. Returns the sentence with which the ring must stop, if it must."""
        self.total += 1
        self.causes[failure.cause] += 1
        known = self._listed.pop(failure.pair_id, None)
        failure.times += known.times if known else 0
        self._listed[failure.pair_id] = failure
        if len(self._listed) > MOST_LISTED:
            self._listed.popitem(last=False)
        self._note(failed=True)
        cause, count = self.causes.most_common(1)[0]
        latest = f"mostly {cause!r} ({count} of {self.total}); the latest was {failure.pair_id!r}: {failure.reason}"
        if not self._succeeded:
            return f"each of the first {self.total} pairs failed, {latest}" if self.total >= FIRST_PAIRS else None
        if self._failed_in_window > self._max_failed * WINDOW_PAIRS:
            return (
                f"{self._failed_in_window} of the latest {len(self._window)} pairs failed, more than max_failed = "
                f"{self._max_failed:g} of {WINDOW_PAIRS} allows, {latest}"
            )
        return None

    def _note(self, *, failed: bool) -> None:
        if len(self._window) == WINDOW_PAIRS:
            self._failed_in_window -= self._window[0]
        self._window.append(failed)
        self._failed_in_window += failed

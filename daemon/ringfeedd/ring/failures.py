"""Failed pairs: counted, listed with their reasons, and the budget beyond which a ring stops."""

from __future__ import annotations

import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from ringfeed.shm.failures import FailedPair, FailedPairs
from ringfeed.shm.layout import REASON_BYTES
from ringfeed.text import one_line

WINDOW_PAIRS: Final = 1000
"""The fraction of failed pairs is taken over this many of the latest outcomes."""

FIRST_PAIRS: Final = 20
"""When this many fail before one succeeds, the root, the credentials or the format is wrong."""

MOST_LISTED: Final = 1000

LASTING_CAUSES: Final = frozenset(
    ("missing", "forbidden", "corrupt", "unsupported", "too_large", "size", "size_mismatch", "crc32c", "gzip", "crash")
)
"""What another download of the same object would end with, too."""


class OnError(StrEnum):
    """What a pair that fails to load does to its ring."""

    REPLACE = "replace"
    """Another draw takes its place, within the budget."""

    STOP = "stop"
    """The ring stops at the first."""


@dataclass(frozen=True, slots=True)
class Failure:
    """One draw of a pair that failed to load.

    Attributes:
        cause: a short word for counting.
        attempts: how many times it was tried.
    """

    pair_id: str
    reason: str
    cause: str
    attempts: int


class Failures:
    """The failed pairs of one ring; bounded in memory.

    Attributes:
        total: draws that failed, each time counted.
        causes: the same by cause.
    """

    def __init__(
        self,
        max_failed: float,
        *,
        on_error: OnError = OnError.REPLACE,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """Start with none.

        Args:
            max_failed: fraction of the latest `WINDOW_PAIRS` that may fail.
            on_error: whether the first is one too many.
            wall_clock: seconds since 1970; shown, and nothing more.
        """
        self.total = 0
        self.causes: Counter[str] = Counter()
        self.max_failed = max_failed
        self.on_error = on_error
        self._wall_clock = wall_clock
        self._succeeded = False
        self._window: deque[bool] = deque(maxlen=WINDOW_PAIRS)
        self._failed_in_window = 0
        self._listed: OrderedDict[str, FailedPair] = OrderedDict()

    def __iter__(self) -> Iterator[FailedPair]:
        return iter(self._listed.values())

    def __contains__(self, pair_id: str) -> bool:
        return pair_id in self._listed

    def __len__(self) -> int:
        return len(self._listed)

    def listing(self, ring: str, generation: str, stopped: str) -> FailedPairs:
        """Everything for those who ask, in one object; see `FailedPairs`."""
        return FailedPairs(ring, generation, stopped, self.total, dict(self.causes), list(self))

    def succeed(self) -> None:
        """A pair was decoded."""
        self._succeeded = True
        if self._failed_in_window and len(self._window) == WINDOW_PAIRS:  # for each pair: mostly there is none
            self._failed_in_window -= self._window[0]
        self._window.append(False)

    def fail(self, failure: Failure) -> str | None:
        """A pair failed to load. Returns the sentence with which the ring must stop, if it must."""
        self.total += 1
        self.causes[failure.cause] += 1
        latest = self._list(failure)
        if len(self._window) == WINDOW_PAIRS:
            self._failed_in_window -= self._window[0]
        self._window.append(True)
        self._failed_in_window += 1
        if self.on_error is OnError.STOP:
            return (
                f'on_error = "stop", and the pair {latest.pair_id!r} failed to load: {latest.reason}; fix or remove '
                f'it, or let it be replaced: on_error = "replace"'
            )
        cause, count = self.causes.most_common(1)[0]
        mostly = f"mostly {cause!r} ({count} of {self.total}); the latest was {latest.pair_id!r}: {latest.reason}"
        if not self._succeeded:
            return f"each of the first {self.total} pairs failed, {mostly}" if self.total >= FIRST_PAIRS else None
        if self._failed_in_window > self.max_failed * WINDOW_PAIRS:
            return (
                f"{self._failed_in_window} of the latest {len(self._window)} pairs failed, more than max_failed = "
                f"{self.max_failed:g} of {WINDOW_PAIRS} allows, {mostly}"
            )
        return None

    def fail_again(self, pair_id: str) -> str | None:
        """A pair that failed before is not tried again; it counts as `fail` does, and returns what that returns."""
        known = self._listed.get(pair_id)
        if known is None:
            return self.fail(Failure(pair_id, "failed earlier", "missing", 1))
        return self.fail(Failure(pair_id, known.reason, known.cause, known.attempts))

    def _list(self, failure: Failure) -> FailedPair:
        now, known = self._wall_clock(), self._listed.pop(failure.pair_id, None)
        pair = self._listed[failure.pair_id] = FailedPair(
            pair_id=failure.pair_id,
            reason=one_line(failure.reason)[:REASON_BYTES],  # it may quote what a server sent
            cause=failure.cause,
            attempts=failure.attempts,
            times=1 + (known.times if known else 0),
            first_unix_s=known.first_unix_s if known else now,
            last_unix_s=now,
        )
        if len(self._listed) > MOST_LISTED:
            self._listed.popitem(last=False)
        return pair

"""What is told of a ring's failed pairs: lines in the log, the list in /dev/shm, the sentence that stops the ring."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from ringfeed.shm.failures import FailedPairs
from ringfeedd.reporting.errorfile import ErrorsFile
from ringfeedd.ring.failure_log import FailureLog
from ringfeedd.ring.failures import Failure, Failures

_LOG: Final = logging.getLogger("ringfeedd.ring")


class FailureReporter:
    """Counts the failed pairs of one ring, and tells of them.

    Attributes:
        failures: the counts, and the budget.
    """

    def __init__(self, ring: str, failures: Failures, file: ErrorsFile, clock: Callable[[], float]) -> None:
        """Begin with none.

        Args:
            file: holds the list for other processes.
            clock: seconds, monotonic.
        """
        self.failures = failures
        self._ring, self._file, self._clock = ring, file, clock
        self._log = FailureLog(ring)

    def __repr__(self) -> str:
        return f"FailureReporter({self._ring!r}, {self.failures.total} failed)"

    @property
    def listing(self) -> FailedPairs:
        """The pairs that failed to load, and why the ring was stopped if it was, as the list in /dev/shm has them."""
        return self._file.listing

    def failed(self, failure: Failure) -> str | None:
        """Take note of a failure; return the sentence with which the ring must stop, if it must."""
        known = failure.pair_id in self.failures  # it is named once, not every epoch
        if not known and (line := self._log.failed(failure.pair_id, failure.reason, failure.cause, self._clock())):
            _LOG.warning("ring %s: %s", self._ring, line)
        return self.failures.fail(failure)

    def look(self, *, stopped: bool) -> None:
        """Write what has changed, if it is time for that.

        Args:
            stopped: the ring has stopped, so that its list is complete.
        """
        if not stopped:
            self._file.write_if_due(self.failures, self._clock())
        self._summarise()

    def stop(self, reason: str) -> None:
        """Tell of all failures, and that the ring stops for ``reason``."""
        self._summarise(end=True)
        _LOG.error("ring %s stops: %s", self._ring, reason)
        self._file.write(self.failures, stopped=reason)

    def end(self, *, stopped: bool) -> None:
        """Come to the end of the ring, whose list is removed unless it ``stopped`` by itself."""
        self._summarise(end=True)
        if not stopped:
            self._file.remove()

    def _summarise(self, *, end: bool = False) -> None:
        if line := self._log.summary(self._clock(), end=end):
            _LOG.warning("ring %s: %s", self._ring, line)

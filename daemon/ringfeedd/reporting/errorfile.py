"""A ring's list of failed pairs, next to the ring, so that other processes read it without asking the daemon."""

from __future__ import annotations

import logging
from typing import Final

from ringfeed.shm import layout, segment
from ringfeed.shm.descriptor import Descriptor
from ringfeed.shm.failures import FailedPairs
from ringfeedd.ring.failures import Failures
from ringfeedd.shm.memory import Access

_LOG: Final = logging.getLogger("ringfeedd.ring")

WRITE_INTERVAL_S: Final = 1.0
"""A thousand pairs that fail in a second are one write."""


class ErrorsFile:
    """``/dev/shm/ringfeed.RING.errors``: absent until a pair failed, then whole at any moment.

    Attributes:
        listing: what was written last. Whatever shows failed pairs, shows these, so that all numbers agree.
    """

    def __init__(self, descriptor: Descriptor, access: Access) -> None:
        """Nothing is written yet."""
        self._ring, self._generation = descriptor.ring, descriptor.generation
        self._mode, self._gid = access.mode & 0o640, access.gid
        self.listing = FailedPairs.none(descriptor.ring, descriptor.generation)
        self._written_at: float | None = None
        self._complained = False

    def write_if_due(self, failures: Failures, now: float) -> None:
        """Write the list if it changed, at most once in `WRITE_INTERVAL_S`; ``now`` in seconds, monotonic."""
        if failures.total == self.listing.failed_draws:
            return
        if self._written_at is None or now - self._written_at >= WRITE_INTERVAL_S:
            self._written_at = now
            self.write(failures, stopped="")

    def write(self, failures: Failures, *, stopped: str) -> None:
        """Write the list at once; ``stopped`` is the sentence that stopped the ring, or empty. Never raises."""
        self.listing = failures.listing(self._ring, self._generation, stopped)
        try:
            segment.replace_file(
                layout.errors_name(self._ring),
                self.listing.to_json(),
                draft=layout.draft_name(self._ring, self._generation),
                mode=self._mode,
                gid=self._gid,
            )
        except OSError as error:  # a full /dev/shm must not stop a ring that serves
            if not self._complained:
                self._complained = True
                _LOG.warning(
                    "ring %s: could not write the list of failed pairs, %s: %s; `ringfeed errors` will not be complete",
                    *(self._ring, segment.shm_path(layout.errors_name(self._ring)), error.strerror),
                )

    def remove(self) -> None:
        """Remove the list: the ring ends well."""
        if self._written_at is not None:
            segment.shm_path(layout.errors_name(self._ring)).unlink(missing_ok=True)

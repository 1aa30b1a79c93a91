"""Whether the store answers: a circuit that keeps requests back while it does not. Pure; time comes in as an argument.

A pair must not be lost because the store is down for a while, nor must the ring wait for ever for one object that
cannot be had. Failures alone do not tell the two apart; a read of an object that was there a moment ago does. So a run
of failures is only a doubt, which a *probe* of such an object settles: where it is answered the failures stand; where
it is not, the store is down, and nothing but probes goes out until one of them is answered.
"""

from __future__ import annotations

import enum
import random
from dataclasses import dataclass
from typing import Final

FAILURES_TO_DOUBT: Final = 5
"""Requests that fail one after the other, without an answer to anybody in between."""

FAILURES_TO_REOPEN: Final = 2
"""The same while the store is just coming back."""

FIRST_PROBE_S: Final = 0.5
MAX_PROBE_S: Final = 30.0
"""Between two probes at most; it doubles up to here, less up to half of it by chance."""

FIRST_PERMITS: Final = 2
FULL_PERMITS: Final = 32
"""Requests at a time that a store which comes back is given: one more with each answer, all of them from here on."""


class CircuitState(enum.IntEnum):
    """What is thought of the store."""

    CLOSED = 0
    """It answers."""
    DOUBTED = 1
    """A run of failures: the probe that goes out now decides, and everybody waits for it."""
    OPEN = 2
    """It is down: nothing but probes, further and further apart."""
    HALF_OPEN = 3
    """It has answered again: a few requests at a time, more with each answer."""


@dataclass(frozen=True, slots=True)
class CircuitStatistics:
    """The circuit at one moment; times are seconds of its clock.

    Attributes:
        failing_since: when the first of the failures came; None while the store answers.
        next_probe_at: when the store is asked next; None while nobody asks.
        outages: how often the store was found to be down.
    """

    state: CircuitState
    failing_since: float | None
    next_probe_at: float | None
    outages: int


class Circuit:
    """One worker's view of the store.

    Attributes:
        answered_at: when the store last answered; None before that. A final refusal, such as 404, is an answer.
        outages: how often the store was found to be down.
        openings: the same, and each time that it went down again while it was coming back.
    """

    def __init__(self, rng: random.Random | None = None) -> None:
        self.state = CircuitState.CLOSED
        self.answered_at: float | None = None
        self.outages = self.openings = 0
        self._rng = rng or random.Random()
        self._run = 0
        self._failing_since: float | None = None
        self._next_probe_at = 0.0
        self._interval_s = FIRST_PROBE_S
        self._half_open_since = 0.0
        self._permits = FIRST_PERMITS

    def __repr__(self) -> str:
        return f"Circuit({self.state.name.lower()}, {self._run} failures in a row, {self.outages} outages)"

    def statistics(self) -> CircuitStatistics:
        """The numbers that reports and tests read."""
        down = self.state is not CircuitState.CLOSED
        asking = self.state in (CircuitState.DOUBTED, CircuitState.OPEN)
        return CircuitStatistics(
            self.state, self._failing_since if down else None, self._next_probe_at if asking else None, self.outages
        )

    def answered_since(self, moment: float) -> bool:
        """Whether the store has answered anybody after `moment`."""
        return self.answered_at is not None and self.answered_at > moment

    @property
    def down(self) -> bool:
        """Whether the store was found to be down, and is not quite back."""
        return self.state in (CircuitState.OPEN, CircuitState.HALF_OPEN)

    def may_begin(self, in_flight: int) -> bool:
        """Whether one more request may go out beside `in_flight` others."""
        if self.state is CircuitState.CLOSED:
            return True
        return self.state is CircuitState.HALF_OPEN and in_flight < self._permits

    def answered(self, now: float) -> None:
        """The store has answered, a probe or anything else."""
        self.answered_at = now
        self._run = 0
        if self.state is CircuitState.CLOSED:
            return
        if self.state is CircuitState.DOUBTED:
            self._close()
        elif self.state is CircuitState.OPEN:
            self.state = CircuitState.HALF_OPEN
            self._half_open_since = now
            self._permits = FIRST_PERMITS
        else:
            self._permits += 1
            if self._permits >= FULL_PERMITS:
                self._close()

    def failed(self, now: float, *, began: float, retry_after_s: float | None = None) -> None:
        """A request that began at `began` failed as it does when the store is down.

        Args:
            retry_after_s: what the store asked for, seconds.
        """
        if self.state is CircuitState.OPEN:
            self._next_probe_at = max(self._next_probe_at, now + (retry_after_s or 0.0))
            return
        if self.state is CircuitState.HALF_OPEN and began < self._half_open_since:
            return  # it hung since before the store came back
        if self._run == 0 and self.state is CircuitState.CLOSED:
            self._failing_since = now
        self._run += 1
        if self.state is CircuitState.HALF_OPEN:
            if self._run >= FAILURES_TO_REOPEN:
                self._open(now, retry_after_s)
        elif self.state is CircuitState.CLOSED and self._run >= FAILURES_TO_DOUBT:
            if retry_after_s:
                self._open(now, retry_after_s)  # it said itself that it is not to be asked now
            else:
                self.doubt(now)

    def doubt(self, now: float) -> None:
        """Somebody is about to give a pair up, and nobody knows whether the store answers at all: ask it."""
        if self.state is CircuitState.CLOSED:
            if self._run == 0:
                self._failing_since = now
            self.state = CircuitState.DOUBTED
            self._next_probe_at = now

    def probe_wait_s(self, now: float) -> float | None:
        """Seconds until the next probe shall go out; None when none is wanted."""
        if self.state in (CircuitState.DOUBTED, CircuitState.OPEN):
            return max(0.0, self._next_probe_at - now)
        return None

    def probe_failed(self, now: float, retry_after_s: float | None = None) -> None:
        """A probe got no answer; one that did is told to `answered`."""
        if self.state in (CircuitState.DOUBTED, CircuitState.OPEN):
            self._open(now, retry_after_s)

    def settle(self) -> None:
        """Nothing waits and nothing is in flight any more: what the store came back for is done."""
        if self.state is CircuitState.HALF_OPEN and self._run == 0:
            self._close()

    def _close(self) -> None:
        self.state = CircuitState.CLOSED
        self._failing_since = None
        self._interval_s = FIRST_PROBE_S

    def _open(self, now: float, retry_after_s: float | None) -> None:
        if not self.down:
            self.outages += 1
        else:
            self._interval_s = min(2 * self._interval_s, MAX_PROBE_S)
        if self.state is not CircuitState.OPEN:
            self.openings += 1
        self.state = CircuitState.OPEN
        self._run = 0
        wait_s = self._interval_s * self._rng.uniform(0.5, 1.0)  # all workers found it down at the same moment
        self._next_probe_at = now + max(wait_s, retry_after_s or 0.0)

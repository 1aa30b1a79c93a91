"""How many requests one worker has under way, and how fast it sends them. Pure; time comes in as an argument.

Three things bound it, as in TCP. `size` is how many may be under way: it begins small, grows by one with each answer (a
doubling for each round trip) up to a target, and the target doubles while decoders wait for the store and that brings
more pairs. `pace` is how many may be sent each second: it comes with the first answer that limits the rate, and follows
what the store lets through, down to one request in several seconds. And while nothing is answered the window is
*down*: one request at a time, with growing waits. An answer opens it again, the way it began.
"""

from __future__ import annotations

import math
import random
from collections import deque
from typing import Final

from ringfeedd.fetch.pace import Pace

FIRST_REQUESTS: Final = 8
"""With which a window begins. After an outage it begins with `REOPENED_REQUESTS`."""

REOPENED_REQUESTS: Final = 2

FAILURES_TO_COLLAPSE: Final = 8
QUIET_TO_COLLAPSE_S: Final = 0.3
"""Failures in a row, and time without an answer, after which the store counts as unreachable."""

SUSPICION_S: Final = 0.05
"""Between two requests after so many failures in a row: a store that is near refuses a thousand a second."""

FIRST_WAIT_S: Final = 0.25
MOST_WAIT_S: Final = 10.0
"""Between two requests while nothing is answered: doubled from the first to the most, less up to half by chance."""

LATENCIES: Final = 101
LEAST_LATENCIES: Final = 8

STARVED: Final = 0.1
"""A decoder that waits for more than this part of the time wants a larger window."""

GROWTH: Final = 2
SHRINKAGE: Final = 0.7
WORTH: Final = 1.1
"""A window that is twice as large must bring at least so many times the pairs; a smaller one may cost as little."""

LATER: Final = 3.0
LATER_S: Final = 0.1
"""Answers that take so many times, and so much longer than they did have a queue before them: fewer are asked for."""

ROUND_TRIPS: Final = 2.0
"""For so many times as long as an answer takes, at least, pairs are counted before a size is judged by them."""

HOLD_S: Final = 300.0
"""After a change of size did not help, until it is tried again."""

SLOW_CUT_S: Final = 5.0
"""Between two cuts of the size for attempts that were too slow."""


class Window:
    """One worker's window.

    Attributes:
        size: requests that may be under way.
        pace: how fast they may be sent.
        answered_at: when the store last answered anything but "later"; None before that. A 404 is an answer.
        down_since: since when nothing is answered; None while the store answers.
        next_try_at: when the next request goes out while it is down.
        tries: requests that were not answered since it is down.
    """

    def __init__(self, first: int, most: int, rng: random.Random | None = None) -> None:
        """Begin with a store that answers.

        Args:
            first: requests under way that slow start grows to.
            most: the same while decoders wait for the store.
        """
        self.size = float(min(first, FIRST_REQUESTS))
        self._target, self._most = float(first), float(max(first, most))
        self._rng = rng or random.Random()
        self.answered_at: float | None = None
        self._answered_began = -math.inf
        self.pace = Pace(self._rng)
        self._hold_until = -math.inf
        # An outage.
        self.down_since: float | None = None
        self.next_try_at = 0.0
        self._failures = self.tries = 0
        self._failing_since = 0.0
        self._pace_before: float | None = None
        self._probe: float | None = None
        # The size.
        self._latencies: deque[float] = deque(maxlen=LATENCIES)
        self._usual_s = math.inf
        self._trial: tuple[float, float] | None = None
        self._settling = False
        self._period_began = self._pairs = self._starved_s = 0.0
        self._held_until = self._slow_cut_at = -math.inf

    def __repr__(self) -> str:
        return f"Window({'down, ' if self.down else ''}{self.size:.0f} of {self._target:.0f} requests, {self.pace!r})"

    def retarget(self, first: int, most: int) -> None:
        """Go on with another size; see `__init__`. A larger one is grown into by slow start."""
        self._most = float(max(first, most))
        self._trial, self._settling = None, False
        self._resize(float(first))

    @property
    def down(self) -> bool:
        """Whether nothing is answered."""
        return self.down_since is not None

    def answered_since(self, moment: float) -> bool:
        """Return True if the store has answered a request that was not sent before `moment`."""
        return self._answered_began >= moment

    def usual_s(self) -> float | None:
        """Return the median time of recent answers, seconds; None while there are too few."""
        if len(self._latencies) < LEAST_LATENCIES:
            return None
        return sorted(self._latencies)[len(self._latencies) // 2]

    # Requests.

    def wait_s(self, now: float, under_way: int) -> float:
        """Return the seconds until one more request may go; 0: it may go now; infinite: not before one ends."""
        if self.down_since is not None:
            return math.inf if self._probe is not None else max(0.0, self.next_try_at - now)
        if under_way >= self.size or (under_way and self._failures >= FAILURES_TO_COLLAPSE):
            return math.inf
        if self.pace.per_s is None and now >= self._hold_until:  # nearly always: keep it cheap
            return 0.0
        return max(self.pace.wait_s(now), self._hold_until - now, 0.0)

    def sent(self, now: float) -> None:
        """Take note of a request that goes out."""
        self.pace.sent(now)
        if self.down_since is not None:
            self._probe = now

    def given_up(self, began: float) -> None:
        """Take note of a request that was cancelled, so that nothing will come of it."""
        if began == self._probe:
            self._probe = None

    def answered(self, now: float, began: float, *, whole: bool = True) -> None:
        """Take note of an answer.

        Args:
            whole: it brought the object.
        """
        self.answered_at = now
        if began > self._answered_began:  # noqa: PLR1730  # a call less for each answer
            self._answered_began = began
        self._failures = 0
        if whole:
            self._latencies.append(now - began)
        if self.down_since is not None:
            self._reopen()
        elif self.size < self._target:
            self.size = min(self._target, self.size + 1.0)
        if self.pace.per_s is not None:
            self.pace.good(now, began)

    def limited(self, now: float, began: float, retry_after_s: float | None = None) -> None:
        """Take note of an answer that only says "later" (429)."""
        if self.down_since is not None:
            self._reopen()  # it is there
        pace = self.pace
        pace.limited(now, began)
        if retry_after_s and pace.mostly_limited:  # else others are answered, and only this request has to wait
            self._hold_until = max(self._hold_until, now + retry_after_s * self._rng.uniform(1.0, 1.1))

    def failed(self, now: float, began: float, *, retry_after_s: float | None = None, overloaded: bool = False) -> None:
        """Take note of a request that was not answered, or only with a failure of the store's (5xx).

        Args:
            overloaded: it was a 503.
        """
        if self.down_since is not None:
            if began == self._probe:
                self._probe = None
                self.tries += 1
                self._try_later(now, retry_after_s)
            return
        if not self._failures:
            self._failing_since, self._pace_before = now, self.pace.per_s
        self._failures += 1
        if self._failures >= FAILURES_TO_COLLAPSE:
            self._hold_until = max(self._hold_until, now + SUSPICION_S * self._rng.uniform(0.5, 1.5))
        if overloaded:
            self.pace.limited(now, began)
        quiet_since = max(self._failing_since, -math.inf if self.answered_at is None else self.answered_at)
        if self._failures >= FAILURES_TO_COLLAPSE and now - quiet_since >= QUIET_TO_COLLAPSE_S:
            self._collapse(now, retry_after_s)

    def silent(self, now: float, since: float) -> None:
        """Take note that requests are under way, and that nothing has come for long."""
        if self.down_since is None:
            self._failing_since, self._pace_before = since, self.pace.per_s
            self._collapse(now, None)

    def slow(self, now: float) -> None:
        """Take note that many attempts took too long: what is before the store has a queue.

        Also while nothing is answered, as when all that is under way is cut: else the next window would be as large.
        """
        if now - self._slow_cut_at >= SLOW_CUT_S:
            self._slow_cut_at, self._held_until, self._trial = now, now + SLOW_CUT_S, None
            self._resize(max(float(REOPENED_REQUESTS), SHRINKAGE * self._target))

    # The size.

    def look(self, now: float, *, pairs: int, starved_s: float) -> None:
        """Decide on the size for the next while; to be called every half second or so.

        Args:
            pairs: that came since the last look.
            starved_s: for which decoders waited for the store since then.
        """
        self.pace.look(now)
        usual_s, seconds = self.usual_s(), now - self._period_began
        self._pairs += pairs
        self._starved_s += starved_s
        judged = self.down_since is None and not self.pace.bounds(now) and usual_s and self.size >= self._target
        if usual_s and judged:
            if seconds < ROUND_TRIPS * usual_s:  # answers to what was asked for together come together
                return
            self._judge(now, usual_s, self._pairs / seconds, self._starved_s / seconds)
        self._period_began, self._pairs, self._starved_s = now, 0, 0.0

    def _judge(self, now: float, usual_s: float, pairs: float, starved: float) -> None:
        if self._settling:  # what came in this while was asked for with the other size
            self._settling = False
            return
        if self._trial is not None:
            size, rate = self._trial
            self._trial = None
            worse = pairs * WORTH < rate if size > self.size else pairs < WORTH * rate
            if starved > STARVED and worse:  # else it helped, or less was wanted
                self._resize(size)
                self._held_until = now + HOLD_S
                return
        self._usual_s = min(1.01 * self._usual_s, usual_s)
        if starved <= STARVED or not pairs or now < self._held_until:
            return
        if usual_s > LATER * self._usual_s and usual_s > self._usual_s + LATER_S and self.size > FIRST_REQUESTS:
            self._try(max(float(FIRST_REQUESTS), SHRINKAGE * self.size), pairs)
        elif self.size < self._most:
            self._try(min(self._most, GROWTH * self.size), pairs)

    def _try(self, size: float, pairs: float) -> None:
        self._trial, self._settling = (self.size, pairs), True
        self._resize(size)

    def _resize(self, size: float) -> None:
        """A larger size is grown into by slow start."""
        self._target = size
        self.size = min(self.size, size)

    # An outage.

    def _collapse(self, now: float, retry_after_s: float | None) -> None:
        self.pace.restore(self._pace_before)  # what failed since then was no limit
        self.down_since = self._failing_since
        self.tries, self._probe, self._trial, self._settling = 0, None, None, False
        self._try_later(now, retry_after_s)

    def _try_later(self, now: float, retry_after_s: float | None) -> None:
        wait_s = min(MOST_WAIT_S, FIRST_WAIT_S * 2 ** min(self.tries, 30)) * self._rng.uniform(0.5, 1.0)
        self.next_try_at = now + max(wait_s, retry_after_s or 0.0)

    def _reopen(self) -> None:
        self.down_since = self._probe = None
        self._failures = 0
        self.size = min(self._target, float(REOPENED_REQUESTS))

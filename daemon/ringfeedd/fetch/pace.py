"""How fast one worker sends its requests once the store refuses some of them. Pure; time comes in as an argument.

A store that limits the rate answers as many requests as it allows, however many more are sent. So the rate of good
answers, just measured, is what the pace is cut to. The cuts also show whether it is a limit: if as large a part is
refused after several of them, refusals have nothing to do with the rate; then they are tolerated, and nothing limits
the pace. After a cut the pace grows by a small part, and by twice that part each time that no more than usual is
refused, as TCP's slow start does.

Workers share nothing, but see the same refusals at the same time. One that tolerates refusals tries again at moments of
a clock that all of them read, since one of many alone changes little about what the store sees.
"""

from __future__ import annotations

import math
import random
from typing import Final

LEAST_PER_S: Final = 0.25
"""Requests a second, however many are refused."""

IGNORED: Final = 0.02
IGNORED_FREELY: Final = 0.12
"""Such a part of the requests may be refused at a pace, and while there is none."""

SPARE: Final = 1.2
"""The random part, once known, may be so many times as large."""

LEAST_REFUSED: Final = 8
DEVIATIONS: Final = 3.0
"""A pace begins with so many refusals, which are more than tolerated by so many standard deviations."""

EXCESS: Final = 2.5
"""Refusals above what is tolerated that cut a pace: a cumulative sum (Page, 1954)."""

CUT_S: Final = 0.5
CUT_ANSWERS: Final = 10
"""For so long, and so many answers, a pace is measured before it is cut."""

LOOK_S: Final = 1.0
LOOK_ANSWERS: Final = 20
MOST_LOOK_S: Final = 10.0
"""The same before it grows; but no longer than the last."""

TRIAL_ANSWERS: Final = 8
TRIAL_CUTS: Final = 3
SAME: Final = 0.6
"""If so many cuts, each after so many answers, leave this part of the refusals, then these are random."""

FULL: Final = 0.7
"""A pace counts as measured where requests were sent at this part of it."""

UNDER: Final = 0.97
MOST_CUT: Final = 8.0
"""A cut goes to this part of the rate of good answers, and divides the pace by no more than this."""

GROWTH: Final = 0.03
MOST_GROWTH: Final = 1.0
"""By which part a pace grows at a look."""

LEAST_STEP: Final = 0.03
"""Requests a second: the least growth, so that a worker which has nearly nothing comes nearer to the others."""

NEAR: Final = 0.5
CAREFUL_ANSWERS: Final = 80
"""Above this part of the pace that was cut the growth is not doubled before so many answers."""

PATIENCE: Final = 8
"""After so many looks without a cut a single refusal does not slow the growth."""

LEARNED: Final = 0.3
"""How much the part that is refused after one cut says about the random part."""

MANY: Final = 0.2
LEAST_MANY: Final = 10
"""Such a part, and so many, still refused once cuts in a row have halved the pace, are random: the cuts are undone."""

RETRIAL_S: Final = 60.0
"""At multiples of it the random part is doubted."""

BURST_S: Final = 0.2
"""A loop that was busy for so long may make up for it."""

BOUNDS_S: Final = 1.0
"""A pace for which nothing had to wait for so long bounds nothing."""

FORGOTTEN_S: Final = 300.0
"""Without a refusal, until a pace is forgotten."""

MEMORY: Final = 64
MOSTLY: Final = 0.5
"""Of so many answers, the part above which nearly nothing but refusals come."""


class Pace:
    """One worker's pace.

    Attributes:
        per_s: requests a second; None where nothing limits them.
        limited_at: when the store last refused a request.
        confirmed: whether the store refuses less where less is asked for.
        random: the part of the requests that is refused whatever the pace.
    """

    def __init__(self, rng: random.Random) -> None:
        """Begin without a limit.

        Args:
            rng: for requests that keep no step with those of other workers.
        """
        self._rng = rng
        self.per_s: float | None = None
        self.limited_at = -math.inf
        self.confirmed = False
        self.random = 0.0
        self._next_at = self._waited_at = -math.inf
        self._growth, self._looks, self._careful = GROWTH, 0, 0
        self._refused_part = 0.0
        # A trial: cuts that are left, and the part that was refused before the first.
        self._trial_cuts, self._before = 0, 0.0
        # Cuts in a row: the pace before them, and what was answered and refused since then.
        self._after_cut, self._since_cuts, self._pace_before = False, (0, 0), 0.0
        self._begin(-math.inf)

    def __repr__(self) -> str:
        return "Pace(unlimited)" if self.per_s is None else f"Pace({self.per_s:.3g} requests/s)"

    @property
    def mostly_limited(self) -> bool:
        """Whether nearly nothing but refusals come."""
        if self.per_s is None:
            return self._refused >= max(float(LEAST_REFUSED), (MOSTLY + self.random) * self._requests)
        return self._refused_part >= MOSTLY + self.random

    def wait_s(self, now: float) -> float:
        """Return the seconds until the next request may go."""
        wait_s = self._next_at - now
        if self.per_s is None or wait_s <= 0.0:
            return 0.0
        self._waited_at = now
        return wait_s

    def limits(self, now: float) -> bool:
        """Return True if the store limits the rate, as cuts have shown, and requests had to wait for it."""
        return self.confirmed and self.bounds(now)

    def bounds(self, now: float) -> bool:
        """Return True if requests had to wait for it lately."""
        return now - self._waited_at < BOUNDS_S + 2.0 / (self.per_s or 1.0)

    def sent(self, now: float) -> None:
        """Take note of a request that goes out."""
        if self.per_s is not None:
            self._next_at = max(self._next_at, now - BURST_S) + self._rng.uniform(0.5, 1.5) / self.per_s
            return
        if now - self._since >= 2 * LOOK_S:
            if self.random:
                self._doubt(now)
            self._begin(now)
        self._requests += 1

    def good(self, now: float, began: float) -> None:
        """Take note of an answer to a request that was sent at `began`."""
        if self.per_s is not None:
            self._count(self.per_s, now, began, refused=False)

    def limited(self, now: float, began: float) -> None:
        """Take note of an answer that refuses a request."""
        self.limited_at = now
        if self.per_s is not None:
            self._count(self.per_s, now, began, refused=True)
        elif -math.inf < self._since <= began:
            self._refused += 1
            self._begin_trial(now, began - self._since)

    def look(self, now: float) -> None:
        """Forget a pace that bounds nothing any more; to be called every slow second or so."""
        if self.per_s is not None and now - self.limited_at > FORGOTTEN_S:
            self.restore(None)

    def restore(self, per_s: float | None) -> None:
        """Go back to a pace of before."""
        self.per_s, self.random, self._growth = per_s, 0.0, GROWTH
        self.confirmed = self.confirmed and per_s is not None
        self._trial_cuts, self._after_cut = 0, False
        self._begin(-math.inf)

    def _begin(self, now: float) -> None:
        """Begin to count requests that are sent from `now` on."""
        self._since = self._latest = now
        self._requests = self._refused = 0
        self._excess = 0.0

    def _doubt(self, now: float) -> None:
        """Take less for random if less is refused, and nothing at some moments, at which another trial begins."""
        part = self._refused / max(1, self._requests)
        self.random += LEARNED * min(0.0, part - self.random)
        if now // RETRIAL_S > self._since // RETRIAL_S:
            self.random = 0.0

    def _begin_trial(self, now: float, span_s: float) -> None:
        """Begin a pace if too many of the requests of `span_s` seconds, answered by now, were refused."""
        if span_s < CUT_S or self._refused < LEAST_REFUSED:
            return
        answers = max(float(self._refused), self._requests * span_s / (now - self._since))
        tolerated = answers * min(1.0, IGNORED_FREELY + SPARE * self.random)
        if self._refused > tolerated + DEVIATIONS * math.sqrt(tolerated):
            self._trial_cuts, self._before = TRIAL_CUTS, self._refused / answers
            self._refused_part = self._before
            self._set(max(1.0, answers - self._refused) / span_s, now)

    def _set(self, per_s: float, now: float) -> None:
        self.per_s = max(LEAST_PER_S, per_s)
        self._begin(now)

    def _count(self, pace: float, now: float, began: float, *, refused: bool) -> None:
        self._refused_part += (refused - self._refused_part) / MEMORY
        if began < self._since:  # it was sent at another pace
            return
        self._requests += 1
        self._refused += refused
        self._latest = max(self._latest, began)
        self._excess = max(0.0, self._excess + refused - IGNORED - SPARE * self.random)
        span_s = self._latest - self._since
        if self._trial_cuts:
            if span_s >= LOOK_S and self._requests >= TRIAL_ANSWERS:
                self._try(pace, now, span_s)
        elif self._excess >= EXCESS:
            if span_s >= CUT_S and self._requests >= CUT_ANSWERS:
                self._cut_or_learn(pace, now, span_s)
        elif span_s >= LOOK_S and (self._requests >= LOOK_ANSWERS or span_s >= MOST_LOOK_S):
            self._grow(pace, now)

    def _cut(self, pace: float, span_s: float) -> float:
        sent = self._requests / span_s
        if sent < FULL * pace:  # so little was wanted that it tells nothing of what the store lets through
            sent = pace
        good = sent * (1.0 - self._refused / self._requests)
        return min(pace, max(UNDER * good, pace / MOST_CUT))

    def _try(self, pace: float, now: float, span_s: float) -> None:
        """See whether the trial's latest cut has brought something."""
        part = self._refused / self._requests
        self._trial_cuts -= 1
        if part < SAME * self._before:
            self._trial_cuts, self.confirmed, self._after_cut = 0, True, True
        elif self._trial_cuts:
            pace = self._cut(pace, span_s)
        else:
            self.restore(None)
            self.random = part
            return
        self._set(pace, now)

    def _cut_or_learn(self, pace: float, now: float, span_s: float) -> None:
        part = self._refused / self._requests
        if not self._after_cut:
            self._pace_before, self._since_cuts = pace, (0, 0)
        else:
            answers, refused = self._since_cuts
            self._since_cuts = answers + self._requests, refused + self._refused
        self._learn(part)
        answers, refused = self._since_cuts
        if pace <= self._pace_before / 2 and refused >= max(LEAST_MANY, MANY * answers):
            self.random, pace = refused / answers, self._pace_before
        elif part > IGNORED + SPARE * self.random:
            self._growth, self._after_cut, self._looks, self._careful = GROWTH, True, 0, CAREFUL_ANSWERS
            pace = self._cut(pace, span_s)
        self._set(pace, now)

    def _grow(self, pace: float, now: float) -> None:
        part, excess = self._refused / self._requests, self._excess
        self._learn(part)
        self._looks += 1
        self._careful -= self._requests
        well = part <= self.random or (self._looks > PATIENCE and excess < 1)
        if well and (self._careful <= 0 or pace < NEAR * self._pace_before):
            self._growth = min(MOST_GROWTH, 2 * self._growth)
        else:
            self._growth = GROWTH
        self._set(pace + max(self._growth * pace, LEAST_STEP) if self.bounds(now) else pace, now)
        self._excess = excess

    def _learn(self, part: float) -> None:
        """Take from the refused part after a cut, or from a smaller one at any time, how much of it is random."""
        if self._after_cut or part < self.random:
            self.random += LEARNED * (part - self.random)
        self._after_cut = False

"""How fast one worker sends its requests once the store refuses some of them. Pure; time comes in as an argument.

A worker does not know how many others there are, and may have to send less than one request in a round trip. So it is
the rate that is cut and raised: cut with answers that refuse ("later", 429), raised with time, whatever the rate, which
lets workers come to equal shares.

A store may also refuse some requests whatever the rate. An experiment tells the two apart: for a moment everything is
sent at slow the pace. A limit refuses next to nothing then; what is refused as often as before has nothing to do with
the rate, and is tolerated. All workers of a machine halve their pace in the same seconds of its clock, since one of
many alone changes little about what the store sees.
"""

from __future__ import annotations

import math
from typing import Final

CUT: Final = 0.1
"""Of the pace, for an answer that refuses."""

FAR_CUT: Final = 0.5
FAR_PART: Final = 0.4
FAR_ANSWERS: Final = 3
"""The same where fewer good answers came between the last three that refuse, and more than this part of them lately:
the pace is far from what the store lets through."""

CUT_S: Final = 0.5
"""Between two cuts, at least: a store that counts by the second refuses all that comes at the end of one."""

LEAST_PER_S: Final = 0.25
"""Requests a second, however many are refused."""

GROWTH_PER_S: Final = 0.01
SMALL_PER_S: Final = 1.5
MOST_LARGER: Final = 6.0
"""A pace of so many requests a second is raised by this part a second, at which one answer of 13 refuses. A larger one
is raised faster, by the root of what it is larger. A smaller one starves, and is raised all the faster."""

RECOVERY_PER_S: Final = 0.2
RECOVERY: Final = 0.85
"""Below this part of the pace at which it was cut last, a pace is raised faster."""

MOST_GROWTH_PER_S: Final = 1.0
HASTE_PERIODS: Final = 1.5
"""A pace at which nothing is refused for so many times as long as usual is raised twice as fast, and twice again."""

BURST_S: Final = 0.2
"""A loop that was busy for so long may make up for it."""

SPARE: Final = 1.3
"""A pace that is so many times what is sent is not raised."""

BOUNDS_S: Final = 1.0
"""A pace for which nothing had to wait for so long bounds nothing."""

FORGOTTEN_S: Final = 300.0
"""Without an answer that refuses, until the pace is forgotten; and until what is tolerated is found out again."""

IGNORED: Final = 0.03
LEAST_REFUSED: Final = 8
COUNTED_S: Final = 1.0
"""From so large a part of the requests, and so many, in so many seconds on there is a pace."""

SLOWLY: Final = 0.25
"""Of the pace, in an experiment."""

SETTLED_S: Final = 1.0
LONGEST_S: Final = 20.0
"""The answers to what is sent so long after the begin of an experiment count; it ends after the longest."""

EVERY_S: Final = 300.0
"""The first experiment begins with the pace, others at multiples of this time."""

EXPECTED: Final = 10.0
RANDOM: Final = 0.4
"""Answers that would have refused if the pace made no difference, from which on an experiment tells; and the part of
them from which on it makes none."""

MOST_RANDOM: Final = 0.8
"""If a larger part of the answers refuses, it is a limit."""

TOLERANCE: Final = 1.5
"""What refuses whatever the rate is tolerated up to so many times as often."""

MEMORY: Final = 64.0
"""Answers over which the refused part is averaged."""


MOSTLY: Final = 0.5


class _Share:
    """How many of some answers refused."""

    def __init__(self) -> None:
        self.answers = self.refused = 0.0

    @property
    def part(self) -> float:
        return self.refused / max(1.0, self.answers)

    def count(self, refused: bool, memory: float = math.inf) -> None:
        kept = min(1.0, memory / (self.answers + 1))
        self.answers, self.refused = (self.answers + 1) * kept, (self.refused + refused) * kept


class Pace:
    """One worker's pace.

    Attributes:
        per_s: requests a second; None where nothing limits them.
        limited_at: when the store last refused a request.
        confirmed: whether the store refuses less where less is asked for.
        tolerated: the part of the answers that may refuse, since the pace makes no difference.
    """

    def __init__(self) -> None:
        self.per_s: float | None = None
        self.limited_at = -math.inf
        self.confirmed = False
        self.tolerated = 0.0
        self._tolerated_until = -math.inf
        self._gap, self._gaps = 0, (FAR_ANSWERS, FAR_ANSWERS)
        self._ceiling = 0.0
        self._grown_at = self._cut_at = self._next_at = self._waited_at = -math.inf
        # Of the latest seconds and those before.
        self._since, self._sent, self._refused = -math.inf, 0, 0
        self._seconds_before, self._sent_before, self._refused_before = 1.0, 0, 0
        # The experiment.
        self._from = math.inf  # a request that was sent since then goes at the slower pace
        self._tested_at = -math.inf
        self._full, self._slow = _Share(), _Share()

    def __repr__(self) -> str:
        return "Pace(unlimited)" if self.per_s is None else f"Pace({self.per_s:.3g} requests/s)"

    def wait_s(self, now: float) -> float:
        """Return the seconds until the next request may go."""
        wait_s = self._next_at - now
        if self.per_s is None or wait_s <= 0.0:
            return 0.0
        self._waited_at = now
        return wait_s

    def limits(self, now: float) -> bool:
        """Return True if the store limits the rate, as an experiment has shown, and requests had to wait for it."""
        return self.confirmed and self.bounds(now)

    def bounds(self, now: float) -> bool:
        """Return True if requests had to wait for it lately."""
        return now - self._waited_at < BOUNDS_S

    def sent(self, now: float) -> None:
        """Take note of a request that goes out."""
        self._sent += 1
        if now - self._since >= COUNTED_S:
            first = self._since == -math.inf
            self._seconds_before = 0.0 if first else now - self._since
            self._sent_before, self._refused_before = (0, 0) if first else (self._sent, self._refused)
            self._since, self._sent, self._refused = now, int(first), 0
        if self.per_s is not None:
            pace = max(LEAST_PER_S, self.per_s * SLOWLY) if self._from <= now else self.per_s
            self._next_at = max(self._next_at, now - BURST_S) + 1.0 / pace

    def good(self, now: float, began: float) -> None:
        """Take note of an answer to a request that was sent at `began`."""
        if self.per_s is not None:
            self._count(self.per_s, now, began, refused=False)

    def limited(self, now: float, began: float) -> None:
        """Take note of an answer that refuses a request."""
        self.limited_at = now
        self._refused += 1
        if self.per_s is not None:
            self._count(self.per_s, now, began, refused=True)
            return
        if now > self._tolerated_until:
            self.tolerated = 0.0
        refused, sent = self._refused + self._refused_before, self._sent + self._sent_before
        if refused >= LEAST_REFUSED and refused > max(IGNORED, self.tolerated) * sent:
            self._ceiling = sent / (self._seconds_before + max(0.1, now - self._since))
            self.tolerated, self.confirmed = 0.0, False
            self._full = _Share()
            self._full.answers, self._full.refused = float(max(sent, refused)), float(refused)
            self._grown_at = now
            self._experiment(self._ceiling, now)

    @property
    def mostly_limited(self) -> bool:
        """Whether nearly nothing but refusals come."""
        return self.per_s is not None and self._full.part >= MOSTLY

    def restore(self, per_s: float | None) -> None:
        """Go back to a pace of before."""
        self.per_s, self._from, self.confirmed = per_s, math.inf, False
        self._ceiling = per_s or 0.0
        self._full, self._slow = _Share(), _Share()

    def look(self, now: float) -> None:
        """Forget a pace that bounds nothing any more; to be called every slow second or so."""
        if self.per_s is not None and now - self.limited_at > FORGOTTEN_S:
            self.restore(None)

    def _count(self, pace: float, now: float, began: float, *, refused: bool) -> None:
        self._gap += not refused
        if refused:
            self._gaps, self._gap = (self._gaps[1], self._gap), 0
        if self._is_tried(pace, now, began, refused):
            return
        self.per_s = pace = self._grown(pace, now)
        if refused:
            far = sum(self._gaps) < FAR_ANSWERS and self._full.part > FAR_PART
            if began >= self._cut_at and (far or now - self._cut_at >= CUT_S):  # else it was sent at another pace
                self._ceiling, self._cut_at = pace, now
                self.per_s = pace = max(LEAST_PER_S, pace * (1 - (FAR_CUT if far else CUT)))
            if now // EVERY_S > self._tested_at // EVERY_S:
                self._tested_at = now
                if now % EVERY_S < SETTLED_S:  # else others are done
                    self._experiment(pace, now)

    def _is_tried(self, pace: float, now: float, began: float, refused: bool) -> bool:
        """Count an answer, and return True while an experiment goes on, or where it has just decided."""
        if began < self._from:
            self._full.count(refused, MEMORY)
        elif began >= self._from + SETTLED_S:
            self._slow.count(refused)
            if max(self._slow.answers * self._full.part, self._slow.refused) >= EXPECTED:
                self._decide(pace, now)
                return True
        if self._from > now:
            return False
        if now - self._from > LONGEST_S or self._full.part > MOST_RANDOM:
            self._from, self.confirmed = math.inf, self._full.part > MOST_RANDOM
            return False
        self._grown_at = now
        return True

    def _experiment(self, pace: float, now: float) -> None:
        self.per_s, self._slow = pace, _Share()
        self._from = self._tested_at = now

    def _decide(self, pace: float, now: float) -> None:
        """End an experiment."""
        slow, full = self._slow, self._full
        self._from = math.inf
        if slow.part > MOST_RANDOM:
            self._full, self.confirmed = slow, True
        elif not self.bounds(now):  # so few were sent that nothing went slowly
            self._experiment(min(pace, self._lately_per_s(now)), now)
        elif slow.part * RANDOM > full.part:  # there are ever more
            self._full = slow
            self._experiment(max(LEAST_PER_S, SLOWLY * pace), now)
        elif slow.part >= RANDOM * full.part:
            self.tolerated = min(MOST_RANDOM, IGNORED + TOLERANCE * max(slow.part, full.part))
            self._tolerated_until = now + FORGOTTEN_S
            self._refused = self._refused_before = 0
            self.per_s = None
        else:
            self.confirmed = True

    def _grown(self, pace: float, now: float) -> float:
        passed_s, self._grown_at = min(1.0, now - self._grown_at), now
        if pace > SPARE * self._lately_per_s(now):  # it bounds nothing
            return pace
        larger = pace / SMALL_PER_S
        growth = GROWTH_PER_S * (min(MOST_LARGER, larger) ** 0.5 if larger > 1.0 else larger**-2.0)
        if pace < RECOVERY * self._ceiling:
            growth = max(growth, RECOVERY_PER_S)
        else:
            periods = (now - self._cut_at) * growth / (HASTE_PERIODS * CUT)
            growth = min(MOST_GROWTH_PER_S, growth * 2 ** min(30.0, max(0.0, periods - 1)))
        return pace * math.exp(growth * passed_s)

    def _lately_per_s(self, now: float) -> float:
        """Requests a second that were sent lately; a burst counts as if it had taken a second."""
        before_per_s = self._sent_before / max(1.0, self._seconds_before)
        return max(1.0, self._sent / max(1.0, now - self._since), before_per_s)

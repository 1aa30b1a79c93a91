"""How fast one worker sends its requests once the store limits the rate. Pure; time comes in as an argument.

A worker does not know how many others there are, and may have to send less than one request in a round trip. So it is
the rate that is cut and raised: cut with answers that limit it ("later", 429), raised with time, quickly up to where it
was limited last and slowly beyond. Raising by time, whatever the rate, lets workers come to equal shares.

A store may also answer "later" to some requests whatever the rate. Where a quarter of the rate changes little about how
often it does, that part of the answers is tolerated.
"""

from __future__ import annotations

import math
from typing import Final

CUT: Final = 0.1
"""Of the pace, for an answer that limits it."""

CUT_S: Final = 0.5
"""Between two cuts, at least: a store that counts by the second limits all that comes at the end of one."""

FAR_CUT: Final = 0.5
FAR_PART: Final = 0.4
FAR_ANSWERS: Final = 3
"""The same where fewer good answers came between the last three that limit it, and more than this part of them lately:
the pace is far from what the store lets through."""

LEAST_PER_S: Final = 0.25
"""Requests a second, however often the store limits the rate."""

GROWTH_PER_S: Final = 0.01
SMALL_PER_S: Final = 1.5
"""A pace of so many requests a second is raised by this part a second, at which one answer of 13 limits it. A larger
one is raised faster, by the root of what it is larger: one answer of 50 limits a pace of 25. A smaller one starves, and
is raised the faster the smaller it is."""

MOST_LARGER: Final = 6.0
RECOVERY_PER_S: Final = 0.2
RECOVERY: Final = 0.85
"""Below this part of the pace at which it was limited last, a pace is raised faster."""

MOST_GROWTH_PER_S: Final = 1.0
HASTE_PERIODS: Final = 1.5
"""A pace at which nothing is limited for so many times as long as usual is raised twice as fast, and twice again."""

BURST_S: Final = 0.2
"""A loop that was busy for so long may make up for it."""

BOUNDS_S: Final = 1.0
"""A pace for which nothing had to wait for so long bounds nothing."""

SPARE: Final = 1.3
"""A pace that is so many times what is sent is not raised."""

FORGOTTEN_S: Final = 300.0
"""Without an answer that limits the rate, until the pace is forgotten."""

LEAST_ANSWERS: Final = 8
MOSTLY: Final = 0.5
MEMORY: Final = 32
"""Answers over which the limited part is averaged."""

POINTLESS: Final = 0.5
POINTLESS_PART: Final = 0.4
FALL_S: Final = 6.0
UNCHANGED: Final = 0.75
POINTLESS_FROM_PER_S: Final = 20.0
"""A pace cut to this part of what it was, from so many requests a second and as fast as this, that leaves so much of
the limited part as it was is pointless."""

TOLERANCE: Final = 1.5
MOST_TOLERATED: Final = 0.3
TOLERATED_S: Final = 300.0
UNTOLERATED: Final = 1.4
"""So many times the part that did not change is tolerated then, for so long; unless it is larger than this, or the pace
that is restored makes so many times as much of it."""

MOST_CREDIT: Final = 10.0

COMPARED: Final = 64
CHECKED: Final = 256
"""Answers at each of the two paces, and at the one that is restored."""


class _Share:
    """How many of some answers limited the rate."""

    def __init__(self) -> None:
        self.answers = self._limited = 0

    @property
    def part(self) -> float:
        return self._limited / max(1, self.answers)

    def count(self, limited: bool) -> None:
        self.answers += 1
        self._limited += limited

    def reset(self) -> None:
        self.answers = self._limited = 0


class Pace:
    """One worker's pace.

    Attributes:
        per_s: requests a second; None where nothing limits them.
        limited_at: when the store last limited the rate.
        part: of recent answers that limited it.
    """

    def __init__(self) -> None:
        self.per_s: float | None = None
        self.limited_at = -math.inf
        self.part = 0.0
        self._answers = self._gap = 0
        self._gaps = (FAR_ANSWERS, FAR_ANSWERS)
        self._ceiling = 0.0
        self._grown_at = self._cut_at = self._next_at = self._waited_at = -math.inf
        self._second_began, self._sent, self._sent_before_per_s = -math.inf, 0, 0.0
        self._high, self._high_at, self._fell = 0.0, 0.0, False
        self._at_high, self._at_low = _Share(), _Share()
        self._tolerated = self._credit = 0.0
        self._tolerated_until = self._compared_from = -math.inf

    def __repr__(self) -> str:
        return "Pace(unlimited)" if self.per_s is None else f"Pace({self.per_s:.3g} requests/s)"

    def wait_s(self, now: float) -> float:
        """Return the seconds until the next request may go."""
        wait_s = self._next_at - now
        if self.per_s is None or wait_s <= 0.0:
            return 0.0
        self._waited_at = now
        return wait_s

    def bounds(self, now: float) -> bool:
        """Return True if requests had to wait for it lately."""
        return now - self._waited_at < BOUNDS_S

    def sent(self, now: float) -> None:
        """Take note of a request that goes out."""
        self._sent += 1
        if now - self._second_began >= 1.0:
            self._sent_before_per_s = self._sent / min(60.0, now - self._second_began)
            self._second_began, self._sent = now, 0
        if self.per_s is not None:
            self._next_at = max(self._next_at, now - BURST_S) + 1.0 / self.per_s

    def good(self, now: float) -> None:
        """Take note of an answer that does not limit the rate."""
        if self.per_s is not None:
            self._gap += 1
            self._average(0.0)
            self._grow(now)

    def limited(self, now: float, began: float, size: float) -> None:
        """Take note of an answer that limits the rate, to a request that was sent at `began`.

        Args:
            size: requests that may be under way.
        """
        self.limited_at = now
        if self.per_s is None:
            self.per_s = self._ceiling = max(self._lately_per_s(now), size / max(1e-3, now - began))
            self._grown_at, self._high = now, 0.0
        self._gaps, self._gap = (self._gaps[1], self._gap), 0
        self._average(1.0)
        self._grow(now)
        if self._credit >= 1.0:
            self._credit -= 1.0
        elif began >= self._cut_at:  # else it was sent faster than requests are now
            self._cut(now, self.per_s)

    @property
    def mostly_limited(self) -> bool:
        """Whether nearly nothing but "later" comes."""
        return self._answers >= LEAST_ANSWERS and self.part >= MOSTLY

    def restore(self, per_s: float | None) -> None:
        """Go back to a pace of before."""
        self.per_s, self.part, self._answers = per_s, 0.0, 0
        self._ceiling = per_s or 0.0

    def look(self, now: float) -> None:
        """Forget a pace that bounds nothing any more; to be called every half second or so."""
        if self.per_s is not None and now - self.limited_at > FORGOTTEN_S:
            self.per_s, self.part, self._answers = None, 0.0, 0

    def _average(self, limited: float) -> None:
        self._answers = min(MEMORY, self._answers + 1)
        self.part += (limited - self.part) / self._answers
        self._compare(limited > 0.0)
        self._credit = min(MOST_CREDIT, self._credit + self._tolerated)

    def _cut(self, now: float, pace: float) -> None:
        far = sum(self._gaps) < FAR_ANSWERS and self.part > FAR_PART
        if not far and now - self._cut_at < CUT_S:
            return
        self._ceiling, self._cut_at = pace, now
        self.per_s = max(LEAST_PER_S, pace * (1 - (FAR_CUT if far else CUT)))
        if now > self._tolerated_until:
            self._tolerated = 0.0

    def _compare(self, limited: bool) -> None:
        """See whether half the pace changes how often it is limited, and whether the whole of it does again."""
        pace, at_high, at_low = self.per_s, self._at_high, self._at_low
        assert pace is not None
        if pace >= UNCHANGED * self._high:
            self._high, self._high_at, self._fell = max(pace, self._high), self._grown_at, False
            at_high.count(limited)
            at_low.reset()
            if self._tolerated and at_high.answers >= CHECKED:
                if at_high.part > UNTOLERATED * self._tolerated:
                    self._tolerated, self._high = 0.0, pace
                    self._compared_from = self._grown_at + TOLERATED_S
                at_high.reset()
        elif pace < POINTLESS * self._high:
            if not self._fell and self._grown_at - self._high_at > FALL_S:
                self._high = pace
                at_high.reset()
                return
            self._fell = True
            at_low.count(limited)
            if at_low.answers >= COMPARED:
                part = at_high.part
                if self._high < POINTLESS_FROM_PER_S or at_high.answers < COMPARED or part > MOST_TOLERATED:
                    self._high = pace
                    at_high.reset()
                elif at_low.part > POINTLESS_PART * part and self._grown_at >= self._compared_from:
                    self._tolerated = TOLERANCE * max(part, at_low.part)
                    self._tolerated_until = self._grown_at + TOLERATED_S
                    self.per_s = self._ceiling = self._high
                    at_high.reset()
                at_low.reset()

    def _grow(self, now: float) -> None:
        pace = self.per_s
        assert pace is not None
        passed_s, self._grown_at = min(1.0, now - self._grown_at), now
        if pace > SPARE * self._lately_per_s(now):  # it bounds nothing
            return
        if self._tolerated and pace >= self._high:  # what is tolerated at this pace may be a limit at another
            return
        larger = pace / SMALL_PER_S
        growth = GROWTH_PER_S * (min(MOST_LARGER, larger) ** 0.5 if larger > 1.0 else larger**-2.0)
        if pace < RECOVERY * self._ceiling:
            growth = max(growth, RECOVERY_PER_S)
        else:
            periods = (now - self._cut_at) * growth / (HASTE_PERIODS * CUT)
            growth = min(MOST_GROWTH_PER_S, growth * 2 ** min(30.0, max(0.0, periods - 1)))
        self.per_s = pace * math.exp(growth * passed_s)

    def _lately_per_s(self, now: float) -> float:
        """Requests a second that were sent lately; a burst counts as if it had taken a second."""
        return max(1.0, self._sent / max(1.0, now - self._second_began), self._sent_before_per_s)

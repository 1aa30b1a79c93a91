"""What the workers together make of the store: whether it answers, what it lets through, what was asked of it. Pure."""

from __future__ import annotations

import operator
import time
from dataclasses import dataclass
from typing import Final

import msgspec
from msgspec.structs import astuple

LIMITED_FOR_S: Final = 10.0
"""A limit that lasted so long is told, when its rate is known."""

CONFIRMED_S: Final = 1.0
"""Workers report twice a second: after so long the answers of all are known."""

FEW_OBJECTS: Final = 5
"""While fewer objects are wanted, each may be late by itself: that they do not come in time is no outage yet."""

FEW_FOR_S: Final = 60.0
"""After which it is one all the same."""

_LATE: Final = frozenset({"timeout", "slow", "deadline"})
"""Causes of a `SourceError` that tell of what takes long, and not of a store that does not work."""

UNLIMITED_FOR_S: Final = 60.0
"""Without a limit, after which its end is told."""

_REASONS: Final = {
    "connect": "no connection",
    "timeout": "no answer in time",
    "slow": "no answer in time",
    "deadline": "no answer in time",
    "reset": "connections are lost",
    "truncated": "answers break off",
    "redirect": "redirects",
    "http": "answers that cannot be understood",
    "html": "a page of HTML in the place of objects",
    "unauthorized": "no access token",
}
"""Cause of a `SourceError` -> why nothing comes."""


class RequestCounts(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Requests since the start.

    Attributes:
        requests: sent for objects, second ones included.
        limited: of them, those that were answered with "later" (429).
        second: for an object that all readers waited for.
        second_won: of these, the ones that came first.
    """

    requests: int = 0
    limited: int = 0
    second: int = 0
    second_won: int = 0

    def __add__(self, other: RequestCounts) -> RequestCounts:
        return RequestCounts(*map(operator.add, astuple(self), astuple(other)))


NO_REQUESTS: Final = RequestCounts()


class StoreReport(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What a worker tells of its requests; counts are since its start, times CLOCK_MONOTONIC seconds.

    Attributes:
        failing_since: since when the store does not answer; None while it does.
        next_try_at: when it is asked next; None while it answers.
        answered_at: when it last answered; None before that.
        cause: of the latest failure that looked like the store's; empty where there was none.
        pace: requests a second that the store lets through; 0 while nothing limits them.
        counts: of the requests.
        wanted: objects that were asked for, or are about to be, and did not come yet.
    """

    failing_since: float | None = None
    next_try_at: float | None = None
    answered_at: float | None = None
    cause: str = ""
    pace: float = 0.0
    counts: RequestCounts = NO_REQUESTS
    wanted: int = 0

    @property
    def down(self) -> bool:
        """Whether the store answers nothing, as this worker sees it."""
        return self.failing_since is not None


@dataclass(frozen=True, slots=True)
class StoreHealth:
    """The store at one moment, as all workers see it; counts are since the start, times CLOCK_MONOTONIC seconds.

    Attributes:
        workers: that have reported.
        waiting_workers: of these, the ones that keep their pairs back because nothing is answered.
        failing_since: since when no request was answered; None while one is.
        next_try_at: when the first of them asks again; None while none waits for that.
        cause: of the latest failure among those that wait.
        limit_per_s: requests a second that the store lets through; 0 while nothing limits them.
        concurrency: most requests that the settings allow at a time.
        outages: times that no request was answered.
        counts: of the requests.
    """

    workers: int = 0
    waiting_workers: int = 0
    failing_since: float | None = None
    next_try_at: float | None = None
    cause: str = ""
    limit_per_s: float = 0.0
    concurrency: int = 0
    outages: int = 0
    counts: RequestCounts = NO_REQUESTS

    @property
    def reason(self) -> str:
        """Why nothing comes, for people."""
        return reason_of(self.cause)


def reason_of(cause: str) -> str:
    """Return what a cause is called in sentences."""
    if cause.startswith("http_"):
        return f"it answers {cause.removeprefix('http_')}"
    return _REASONS.get(cause, cause)


class StoreMonitor:
    """Adds up workers' reports, over their deaths. It is unreachable while workers wait and no request is answered."""

    def __init__(self) -> None:
        self._reports: dict[int, StoreReport] = {}
        self._of_the_dead = NO_REQUESTS
        self._answered_at = 0.0
        self._outages = 0
        self._few_at = 0.0
        self._down_since: float | None = None
        self._told_down: float | None = None
        self._limited_since: float | None = None
        self._limited_at = 0.0
        self._told_limit = False

    def __repr__(self) -> str:
        health = self.statistics()
        return (
            f"StoreMonitor({health.waiting_workers}/{health.workers} workers wait, {health.counts.requests} requests)"
        )

    def report(self, worker: int, report: StoreReport, now: float) -> None:
        """Take a worker's report; `now` in CLOCK_MONOTONIC seconds."""
        self._reports[worker] = report
        self._answered_at = max(self._answered_at, report.answered_at or 0.0)
        self._look(now)

    def forget(self, worker: int) -> None:
        """Keep what a worker that has ended has counted."""
        if (last := self._reports.pop(worker, None)) is not None:
            self._of_the_dead += last.counts

    def statistics(self) -> StoreHealth:
        """Return the numbers that status, metrics, the log and tests read."""
        waiting = [report for report in self._reports.values() if report.down]
        tries_at = [report.next_try_at for report in waiting if report.next_try_at is not None]
        return StoreHealth(
            workers=len(self._reports),
            waiting_workers=len(waiting),
            failing_since=self._down_since,
            next_try_at=min(tries_at, default=None) if self._down_since is not None else None,
            cause=waiting[-1].cause if waiting else "",
            limit_per_s=sum(report.pace for report in self._reports.values()),
            outages=self._outages,
            counts=sum((report.counts for report in self._reports.values()), self._of_the_dead),
        )

    def news(self, now: float) -> str | None:
        """Return a sentence for the log: once when a state of the store begins, once when it ends.

        Args:
            now: CLOCK_MONOTONIC seconds.
        """
        health = self.statistics()
        if self._down_since is not None and self._told_down is None:
            self._told_down = self._down_since
            return (
                f"the store is unreachable since {clock_time(self._down_since, now)} ({health.reason}); next try "
                f"{_in(health.next_try_at, now)}. No pair is lost: workers go on by themselves when it answers"
            )
        if self._down_since is None and self._told_down is not None:
            down_s, self._told_down = self._answered_at - self._told_down, None
            return f"the store answers again, after {max(0.0, down_s):.0f} s"
        return self._news_of_limit(health, now)

    def _news_of_limit(self, health: StoreHealth, now: float) -> str | None:
        if health.limit_per_s:
            self._limited_at = now
            if self._limited_since is None:
                self._limited_since = now
            if not self._told_limit and now - self._limited_since >= LIMITED_FOR_S:
                self._told_limit = True
                return f"limited by the store to about {health.limit_per_s:.0f} requests/s"
        elif now - self._limited_at >= UNLIMITED_FOR_S:
            self._limited_since = None
            if self._told_limit:
                self._told_limit = False
                return "no longer limited by the store"
        return None

    def _look(self, now: float) -> None:
        """See whether any request was answered since those that wait began to fail."""
        since = [report.failing_since for report in self._reports.values() if report.failing_since is not None]
        if since and self._answered_at <= max(since):
            if self._few_are_late(now - min(since)):
                self._few_at = now
            elif self._down_since is None and now - max(*since, self._few_at) >= CONFIRMED_S:
                self._outages += 1
                self._down_since = max(min(since), self._answered_at)
        elif self._down_since is not None and self._answered_at > self._down_since:
            # a worker that died, or is new, does not wait either: only an answer tells that the store is back
            self._down_since = None

    def _few_are_late(self, for_s: float) -> bool:
        """Return True if all that is missing is a few objects, which may be late by themselves."""
        down = [report for report in self._reports.values() if report.down]
        wanted = sum(report.wanted for report in self._reports.values())
        return wanted < FEW_OBJECTS and for_s < FEW_FOR_S and all(report.cause in _LATE for report in down)


def clock_time(moment: float, now: float) -> str:
    """Return a moment of the monotonic clock as people write it, ``12:03``."""
    return time.strftime("%H:%M", time.localtime(time.time() - (now - moment)))


def _in(moment: float | None, now: float) -> str:
    return "now" if moment is None or moment <= now else f"in {moment - now:.0f} s"

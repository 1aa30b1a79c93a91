"""One process's requests for objects: which goes next, when it may go, and what its end says about the store.

Nothing here waits and nothing is a task: a clock with timers and a source that calls back drive it, the event loop's
or a simulation's. `Window` decides how much may be under way, `Download` what becomes of one object.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import deque
from collections.abc import Callable
from typing import Final

from ringfeedd.catalog.catalog import Pair
from ringfeedd.errors import BadPairError
from ringfeedd.fetch.clock import Clock, Timer
from ringfeedd.fetch.download import RATE_LIMITED, Download, OnFetched, PairDownload
from ringfeedd.fetch.health import RequestCounts, StoreReport
from ringfeedd.fetch.policy import Fetched, FetchPolicy
from ringfeedd.fetch.request import Request
from ringfeedd.fetch.window import Window
from ringfeedd.storage.base import ObjectInfo, Source, SourceError
from ringfeedd.system.histogram import FETCH_BOUNDS_S, Histogram

LOOK_S: Final = 0.5
"""Between two looks at the requests under way."""

SECONDS_PART: Final = 0.05
"""The part of all requests for objects that are not waited for yet."""

SILENT_S: Final = 5.0
SILENT_MEDIANS: Final = 8.0
"""A store from which nothing comes for so many times what an object usually takes, at least `SILENT_S`, is silent."""

MOST_DOUBLINGS: Final = 10

SILENT_REQUESTS: Final = 5
"""So many silent requests at a time are a silent store; of fewer, each may be late by itself."""

OWN_CAUSES: Final = frozenset({"internal", "too_large"})
"""What was not asked of the store says nothing about it."""

OVERLOADED: Final = "http_503"
SLOW_CAUSES: Final = frozenset({"timeout", "slow"})

AHEAD_S: Final = 2.0
"""For so long a worker has pairs in hand where the store limits the rate; more often than once in it they are given."""

LIMIT_SHOWN_S: Final = 10.0
"""After the latest answer that limits the rate, for which a client says that it is limited."""

LEAST_SHOWN_PER_S: Final = 0.1
"""The lowest rate that a limit is shown with; 0 would say that there is none."""


class StoreClient:
    """Reads objects from a source, within what the store can take; one for each process.

    Attributes:
        source: what objects are read from.
        window: what bounds the requests.
        requests: those under way, the oldest first.
        wanted: objects that were asked for, and did not come yet.
        sent: requests since the start.
        seconds: of these, second ones for an object.
        seconds_won: of these, the ones that brought it.
        now: returns the clock's time, seconds.
        heard_at: when something last came from the store, or this process could not see whether it did.
        witness: an object that could be read lately.
        fetched: how long objects took, from the first request to the verified bytes.
    """

    def __init__(
        self,
        source: Source,
        policy: FetchPolicy,
        *,
        first: int = 64,
        most: int = 64,
        witness: ObjectInfo | None = None,
        feed: Callable[[], bool] = lambda: False,
        fetched: Histogram | None = None,
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        """Begin with a store that answers.

        Args:
            first, most: see `Window`.
            witness: an object that a download could read lately. It is asked for where nothing is answered and all that
                is wanted has failed so often that only an answer to something else can tell whose fault that is.
            feed: called when one more pair may begin; it calls `fetch`, and returns False where there is none.
            fetched: counts how long each object took.
            clock: by default the running event loop.
        """
        self.policy, self.rng = policy, rng or random.Random()
        self.window = Window(first, most, self.rng)
        self.requests: dict[Request, None] = {}
        self.wanted = self.sent = self.seconds = self.seconds_won = 0
        self.source, self._feed = source, feed
        self._clock: Clock = clock or asyncio.get_running_loop()
        self.now = self._clock.time
        self.heard_at = self.now()
        self.witness = witness
        self.fetched = fetched or Histogram(FETCH_BOUNDS_S)
        self._again: deque[Download] = deque()
        self._fresh: deque[Download] = deque()
        self._pumping = self._closed = False
        self._timer: Timer | None = None
        self._timer_at = math.inf
        self._looking: Timer | None = None
        self._look_due = 0.0
        self._slow = self._silences = 0
        self._cause = ""
        self._told_to_wait_until = -math.inf
        self._limited = 0

    def retune(self, policy: FetchPolicy, first: int, most: int) -> None:
        """Go on with another policy, also for the downloads under way, and another window; see `Window`."""
        self.policy = policy
        self.window.retarget(first, most)
        self.pump()

    def __repr__(self) -> str:
        return f"StoreClient({self.window!r}, {self.under_way} under way, {self.wanted} wanted)"

    @property
    def under_way(self) -> int:
        """Requests, second ones included."""
        return len(self.requests)

    @property
    def is_refused(self) -> bool:
        """Whether the store has refused a request for its rate in the last `LIMIT_SHOWN_S`."""
        return self.now() - self.window.pace.limited_at < LIMIT_SHOWN_S

    def pairs_ahead(self) -> int | None:
        """Return how many pairs it can ask for in the next `AHEAD_S`, and one; None where nothing limits the rate."""
        pace = self.window.pace.per_s
        return None if pace is None else 1 + int(pace * AHEAD_S / 2)

    def report(self) -> StoreReport:
        """Return the numbers that status, metrics and tests read."""
        window, now = self.window, self.now()
        limited = window.pace.limits(now) and self.is_refused
        limited = limited or (not self.requests and now < self._told_to_wait_until)
        return StoreReport(
            failing_since=window.down_since,
            next_try_at=window.next_try_at if window.down else None,
            answered_at=window.answered_at,
            cause=self._cause,
            pace=max(LEAST_SHOWN_PER_S, round(window.pace.per_s or 0.0, 1)) if limited else 0.0,
            counts=RequestCounts(self.sent, self._limited, self.seconds, self.seconds_won),
            wanted=self.wanted,
        )

    def fetch(self, pair: Pair, on_end: OnFetched) -> PairDownload:
        """Begin to read both objects of a pair, verified by size and crc32c.

        While the store is down it waits, for as long as that takes, and no attempt counts.

        Args:
            on_end: called once with its bytes, or with why they do not come, never from in here. The error's cause is
                that of the `SourceError`, or ``"size"``, ``"html"``, ``"crc32c"``, ``"too_large"``, ``"gzip"``,
                ``"deadline"``, ``"slow"``.

        Returns:
            What cancels it, after which `on_end` is not called.
        """
        download = PairDownload(self, pair, on_end)
        self.wanted += 2
        self._fresh.extend((download.image, download.label))
        self.pump()
        return download

    def hurry(self, pair: PairDownload, *, soon: bool = False) -> None:
        """Send a second request for what is late of a pair that all readers wait for; at most one with each attempt.

        What was refused for the rate of requests only waits for the window from now on.

        Args:
            soon: all readers will wait for it next: only as long as few requests are second ones.
        """
        if soon and self.seconds >= SECONDS_PART * self.sent:
            return
        now = self.now()
        pair.image.hurry(now, soon=soon)
        pair.label.hurry(now, soon=soon)

    def close(self) -> None:
        """End all that is under way, without a callback."""
        self._closed = True
        for request in list(self.requests):
            request.cancel()
        for timer in (self._timer, self._looking):
            if timer is not None:
                timer.cancel()

    # For downloads and their requests.

    def later(self, delay_s: float, callback: Callable[[], object]) -> Timer:
        """Call back after so many seconds."""
        return self._clock.call_later(delay_s, callback)

    def note(self, error: SourceError, began: float, now: float) -> None:
        """Take note of what a failure says about the store."""
        window, cause = self.window, error.cause
        if cause in OWN_CAUSES:
            return
        if not error.of_store:
            window.answered(now, began, whole=False)
            return
        self._cause = cause
        if cause == RATE_LIMITED:
            self._limited += 1
            self._told_to_wait_until = max(self._told_to_wait_until, now + (error.retry_after_s or 0.0))
            window.limited(now, began, error.retry_after_s)
            return
        self._slow += cause in SLOW_CAUSES
        self._silences += window.down and cause == "timeout"
        window.failed(now, began, retry_after_s=error.retry_after_s, overloaded=cause == OVERLOADED)

    def wait_again(self, download: Download) -> None:
        """Let a download wait for the window again, before those that have not begun."""
        if self.window.down:
            self._again.appendleft(download)
        else:
            self._again.append(download)
        self.pump()

    def pump(self) -> None:
        """Send what may go now."""
        if self._pumping or self._closed:
            return
        self._pumping = True
        window, now = self.window, self.now()
        try:
            while True:
                if wait_s := window.wait_s(now, len(self.requests)):
                    if wait_s < math.inf:
                        self._pump_at(now + wait_s)
                    break
                queue = self._again or self._fresh
                if not queue:
                    if not self._feed():
                        break
                    continue
                # While nothing is answered, the oldest is asked for every other time, and something else in between.
                other = window.down_since is not None and window.tries % 2 == 1
                if other and self.witness is not None:
                    Request(self, self.witness, lambda *_: self.pump(), now)
                    break
                download = queue.pop() if other else queue.popleft()
                if not download.ended:
                    download.begin(now)
        finally:
            self._pumping = False
        if self._looking is None and self.requests:
            self._look_due = now + LOOK_S
            self._looking = self._clock.call_later(LOOK_S, self._look)

    def _pump_at(self, moment: float) -> None:
        if self._timer is not None:
            if self._timer_at <= moment:
                return
            self._timer.cancel()
        self._timer_at = moment
        self._timer = self._clock.call_later(moment - self.now(), self._pump_now)

    def _pump_now(self) -> None:
        self._timer = None
        self.pump()

    # What takes too long.

    def _look(self) -> None:
        self._looking = None
        now = self.now()
        if now - self._look_due > LOOK_S:  # this process stood still: what came meanwhile was not looked at
            self.heard_at = now
        else:
            self._look_at_requests(now)
        self.pump()

    def _look_at_requests(self, now: float) -> None:
        window, silent_s = self.window, self._silent_after_s()
        for request in list(self.requests):
            request.look(now, silent_s if window.down else math.inf)
        if self._slow > max(1, len(self.requests) // 8):
            window.slow(now)
        self._slow = 0
        if not window.down and self.requests and now - self.heard_at >= silent_s:
            self._begin_again(now, silent_s)

    def _silent_after_s(self) -> float:
        """Return after how many seconds without anything the store is silent.

        One that has not answered yet may be a slow one: each silence is followed by more patience, up to the timeout.
        """
        usual_s = self.window.usual_s()
        if usual_s is None:
            return min(self.policy.read_timeout_s, SILENT_S * 2.0 ** min(self._silences, MOST_DOUBLINGS))
        return max(SILENT_S, SILENT_MEDIANS * usual_s)

    def _begin_again(self, now: float, silent_s: float) -> None:
        """Begin all again that is silent; one at a time, if the store seems to be silent."""
        self._silences += 1
        if len(self.requests) >= SILENT_REQUESTS:
            self._cause = "timeout"
            self.window.silent(now, self.heard_at)
        for request in list(self.requests):
            if request.began <= now - silent_s:
                request.cut(now, f"{request.info.name}: nothing came for {now - request.began:.0f} s.", "timeout")


async def fetch_pair(client: StoreClient, pair: Pair) -> Fetched:
    """Wait for both objects of a pair; see `StoreClient.fetch`. Raises: BadPairError."""
    came: asyncio.Future[Fetched | BadPairError] = asyncio.get_running_loop().create_future()
    download = client.fetch(pair, came.set_result)
    try:
        result = await came
    finally:
        download.cancel()
    if isinstance(result, BadPairError):
        raise result
    return result

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
from ringfeedd.fetch.download import OVERLOADED, RATE_LIMITED, Download, OnFetched, PairDownload, Stage
from ringfeedd.fetch.health import RequestCounts, StoreReport
from ringfeedd.fetch.policy import Fetched, FetchPolicy
from ringfeedd.fetch.silence import Silence
from ringfeedd.fetch.window import Window
from ringfeedd.storage.base import ObjectInfo, OnEnd, Reading, Source, SourceError
from ringfeedd.system.histogram import FETCH_BOUNDS_S, Histogram

LOOK_S: Final = 0.5
"""Between two looks at the attempts under way."""

SECOND_AFTER_S: Final = 1.0
SECOND_AFTER_MEDIANS: Final = 4.0
"""After which the object that all readers wait for gets a second request."""

SECONDS_PART: Final = 0.05
"""The part of all requests for objects that are not waited for yet."""

SILENT_REQUESTS: Final = 5
"""So many silent requests at a time are a silent store; of fewer, each may be late by itself."""

INTERNAL: Final = "internal"
"""The cause of a defect of ours, which says nothing about the store."""

SLOW_CAUSES: Final = frozenset({"timeout", "slow"})

LIMIT_SHOWN_S: Final = 10.0
"""After the latest answer that limits the rate, for which a client says that it is limited."""

LEAST_SHOWN_PER_S: Final = 0.1
"""The lowest rate that a limit is shown with; 0 would say that there is none."""


class StoreClient:
    """Reads objects from a source, within what the store can take; one for each process.

    Attributes:
        window: what bounds the requests.
        under_way: requests, second ones included.
        flying: the downloads that they are for.
        pausing: the downloads that pause after a failure.
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
        self.under_way = 0
        self._source, self._feed = source, feed
        self._pumping = False
        self._clock: Clock = clock or asyncio.get_running_loop()
        self.witness = witness
        self.fetched = fetched or Histogram(FETCH_BOUNDS_S)
        self._witness_reading: Reading | None = None
        self._witness_began = 0.0
        self._again: deque[Download] = deque()
        self._fresh: deque[Download] = deque()
        self.flying: set[Download] = set()
        self.pausing: set[Download] = set()
        self._timer: Timer | None = None
        self._timer_at = math.inf
        self._looking: Timer | None = None
        self._look_due = 0.0
        self._silence = Silence(self._clock.time())
        self._slow = 0
        self._cause = ""
        self._told_to_wait_until = -math.inf
        self._requests = self._limited = self._seconds = self._seconds_won = 0

    def retune(self, policy: FetchPolicy, first: int, most: int) -> None:
        """Go on with another policy, also for the downloads under way, and another window; see `Window`."""
        self.policy = policy
        self.window.retarget(first, most)
        self.pump()

    def __repr__(self) -> str:
        return f"StoreClient({self.window!r}, {self.under_way} under way, {self.waiting} wait)"

    @property
    def waiting(self) -> int:
        """Downloads that wait for the window."""
        return len(self._again) + len(self._fresh)

    @property
    def probe_s(self) -> float:
        """Seconds after which an attempt is cut while nothing is answered."""
        return min(self.policy.read_timeout_s, self._silent_after_s())

    def report(self) -> StoreReport:
        """Return the numbers that status, metrics and tests read."""
        window, now = self.window, self._clock.time()
        limited = window.pace.limits(now) and now - window.pace.limited_at < LIMIT_SHOWN_S
        limited = limited or (not self.under_way and now < self._told_to_wait_until)
        return StoreReport(
            failing_since=window.down_since,
            next_try_at=window.next_try_at if window.down else None,
            answered_at=window.answered_at,
            cause=self._cause,
            pace=max(LEAST_SHOWN_PER_S, round(window.pace.per_s or 0.0, 1)) if limited else 0.0,
            counts=RequestCounts(self._requests, self._limited, self._seconds, self._seconds_won),
            wanted=self.waiting + len(self.flying),
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
        most = self.policy.max_object_bytes
        if pair.image.size > most or pair.label.size > most:
            download.refuse(most)
            return download
        fresh = self._fresh
        fresh.append(download.image)
        fresh.append(download.label)
        self.pump()
        return download

    def hurry(self, pair: PairDownload, *, soon: bool = False) -> None:
        """Send a second request for what is late of a pair that all readers wait for; at most one with each attempt.

        What was refused for the rate of requests only waits for the window from now on.

        Args:
            soon: all readers will wait for it next: only as long as few requests are second ones.
        """
        if soon and self._seconds >= SECONDS_PART * self._requests:
            return
        for one in (pair.image, pair.label):
            if one.stage is Stage.PAUSING and not soon:
                one.go_on()
            elif one.stage is Stage.UNDER_WAY and not one.has_second:
                now = self._clock.time()
                usual_s = self.window.usual_s() or SECOND_AFTER_S
                late_s = max(SECOND_AFTER_S, SECOND_AFTER_MEDIANS * usual_s)
                if now - one.began > late_s and not self.window.down:
                    one.second(now)

    def close(self) -> None:
        """End all that is under way, without a callback."""
        for download in (*self.flying, *self.pausing, *self._again, *self._fresh):
            download.cancel()
        if self._witness_reading is not None:
            self._witness_reading.cancel()
        for timer in (self._timer, self._looking):
            if timer is not None:
                timer.cancel()
        self._again.clear()
        self._fresh.clear()

    # For downloads.

    def now(self) -> float:
        """Seconds of the clock."""
        return self._clock.time()

    def later(self, delay_s: float, callback: Callable[[], object]) -> Timer:
        """Call back after so many seconds."""
        return self._clock.call_later(delay_s, callback)

    def send(self, info: ObjectInfo, on_end: OnEnd, now: float, *, second: bool = False) -> Reading | None:
        """Send a request; None if that failed, which `on_end` is told soon."""
        self.under_way += 1
        self._requests += 1
        self._seconds += second
        self.window.sent(now)
        try:
            return self._source.begin_read(info.name, info.generation, info.size, on_end)
        except Exception as error:  # noqa: BLE001  # a defect of ours must cost one object, and be told
            failure = SourceError(f"{info.name}: {type(error).__name__}: {error}", cause="internal")
            self._clock.call_later(0.0, lambda: on_end(failure))
            return None

    def stop(self, reading: Reading) -> None:
        """Cancel a request."""
        reading.cancel()
        self.under_way -= 1

    def ended(self) -> float:
        """Take note of the end of a request; the time."""
        self.under_way -= 1
        now = self._clock.time()
        self._silence.broken(now)
        return now

    def note(self, error: SourceError, began: float, now: float) -> None:
        """Take note of what a failure says about the store."""
        window, cause = self.window, error.cause
        if cause == INTERNAL:
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
        window.failed(now, began, retry_after_s=error.retry_after_s, overloaded=cause == OVERLOADED)

    def second_won(self) -> None:
        """Take note of a second request that brought the object."""
        self._seconds_won += 1

    def wait_again(self, download: Download) -> None:
        """Let a download wait for the window again, before those that have not begun."""
        if self.window.down:
            self._again.appendleft(download)
        else:
            self._again.append(download)
        self.pump()

    def pump(self) -> None:
        """Send what may go now."""
        if self._pumping:
            return
        self._pumping = True
        try:
            self._send_some()
        finally:
            self._pumping = False

    def _send_some(self) -> None:
        window = self.window
        now = self._clock.time()
        while True:
            if wait_s := window.wait_s(now, self.under_way):
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
                self._ask_witness(self.witness, now)
                break
            download = queue.pop() if other else queue.popleft()
            if download.stage is not Stage.WAITING:
                continue
            self.flying.add(download)
            download.begin(now)
        if self._looking is None and self.under_way:
            self._look_later()

    def _pump_at(self, moment: float) -> None:
        if self._timer is not None:
            if self._timer_at <= moment:
                return
            self._timer.cancel()
        self._timer_at = moment
        self._timer = self._clock.call_later(moment - self._clock.time(), self._pump_now)

    def _pump_now(self) -> None:
        self._timer = None
        self.pump()

    # The witness.

    def _ask_witness(self, info: ObjectInfo, now: float) -> None:
        self._witness_began = now
        self._witness_reading = self.send(info, self._witness_came, now)

    def _witness_came(self, came: bytes | SourceError) -> None:
        self._witness_reading = None
        now = self.ended()
        if isinstance(came, SourceError):
            self.note(came, self._witness_began, now)
        else:
            self.window.answered(now, self._witness_began, whole=False)
        self.pump()

    # What takes too long.

    def _look_later(self) -> None:
        self._look_due = self._clock.time() + LOOK_S
        self._looking = self._clock.call_later(LOOK_S, self._look)

    def _look(self) -> None:
        self._looking = None
        now = self._clock.time()
        if now - self._look_due > LOOK_S:  # this process stood still: what came meanwhile was not looked at
            self._silence.broken(now)
        else:
            for download in list(self.flying):
                download.look(now)
            if self._slow > max(1, len(self.flying) // 8):
                self.window.slow(now)
            self._slow = 0
            self._look_for_silence(now)
        self.pump()

    def _silent_after_s(self) -> float:
        return self._silence.after_s(self.window.usual_s(), self.policy.read_timeout_s)

    def _look_for_silence(self, now: float) -> None:
        """See whether all that is under way is silent; then it is begun again, one at a time."""
        silence, reading, after_s = self._silence, self._witness_reading, self._silent_after_s()
        if reading is not None and now - self._witness_began > after_s:
            self._witness_reading = None
            self.stop(reading)
            silence.count += 1
            error = SourceError("The store is silent.", cause="timeout", retryable=True)
            self.note(error, self._witness_began, now)
        if self.window.down or not self.flying:
            return
        if not silence.lasts(now, after_s, sum(download.received for download in self.flying)):
            return
        silence.count += 1
        if len(self.flying) >= SILENT_REQUESTS:
            self._cause = "timeout"
            self.window.silent(now, silence.since)
        for download in list(self.flying):
            download.cut_silent(now, now - after_s)


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

"""One object on its way, and the pair that it belongs to: attempt, wait, again. Driven by callbacks.

What nearly every object needs is one request and one callback; whatever does not come whole at once goes the same way
once more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeAlias

from ringfeedd.catalog.catalog import Pair
from ringfeedd.errors import BadPairError
from ringfeedd.fetch.clock import Timer
from ringfeedd.fetch.policy import Fetched
from ringfeedd.fetch.request import Request
from ringfeedd.storage.base import ObjectInfo, SourceError

if TYPE_CHECKING:
    from ringfeedd.fetch.client import StoreClient

LONGER: Final = 1.6
"""The widest pause is so many times the one before. With 2, where two requests of five fail, the few objects that fail
ten times in a row would make all readers wait for longer than all others together."""

SECOND_AFTER_S: Final = 1.0
SECOND_AFTER_MEDIANS: Final = 4.0
"""After which the object that all readers wait for gets a second request."""

RATE_LIMITED: Final = "http_429"

OnFetched: TypeAlias = Callable[[Fetched | BadPairError], None]
"""Called once, with what came of a pair."""


class Download:
    """One object. It waits for the window's leave, has one request or two under way, or pauses after a failure.

    Attributes:
        info: the object.
        data: its verified content; None before.
        error: the latest that it failed with.
        attempts: begun so far.
        retries: cause -> failures that another attempt followed, or was under way already; None for none.
        ended: nothing comes of it any more.
    """

    def __init__(self, client: StoreClient, info: ObjectInfo, on_end: Callable[[Download], None]) -> None:
        self._client, self.info, self._on_end = client, info, on_end
        self.data: bytes | None = None
        self.error: SourceError | None = None
        self.retries: dict[str, int] | None = None
        self.ended = False
        self.attempts = self._failures = self._under_way = 0
        self._first_at = self._spent_s = 0.0
        self._first: Request | None = None
        self._second: Request | None = None
        self._timer: Timer | None = None

    def __repr__(self) -> str:
        return f"Download({self.info.name!r}, {self._under_way} under way, {self.attempts} attempts)"

    @property
    def idle(self) -> bool:
        """Whether no request for it is under way."""
        return not self._under_way

    def begin(self, now: float) -> None:
        """Send a request; the window has given leave."""
        if not self.attempts:
            self._first_at = now
        self.attempts += 1
        self._under_way = 1
        self._second = None
        until = now + self._client.policy.deadline_s - self._spent_s
        self._first = Request(self._client, self.info, self._came, now, until)

    def hurry(self, now: float, *, soon: bool) -> None:
        """Send a second request if the first one is late, at most one with each attempt; see `StoreClient.hurry`."""
        if self._timer is not None:
            if not soon:
                self._end_pause(self._timer)
        elif (first := self._first) is not None and self._under_way and self._second is None:
            client = self._client
            late_s = max(SECOND_AFTER_S, SECOND_AFTER_MEDIANS * (client.window.usual_s() or 0.0))
            if now - first.began > late_s and not client.window.down:
                self._under_way += 1
                self._second = Request(client, self.info, self._came, now, first.until)
                client.seconds += 1

    def cancel(self) -> None:
        """End it, without a callback."""
        if self.ended:
            return
        self.ended = True
        self._client.wanted -= 1
        if self._timer is not None:
            self._timer.cancel()
        if self._under_way:
            self._cancel_requests()

    def _cancel_requests(self) -> None:
        for request in (self._first, self._second):
            if request is not None:
                request.cancel()

    def _end_pause(self, timer: Timer) -> None:
        """End a pause after an answer that limits the rate, unless the store said how long to wait.

        Such a pause keeps this request from the others' way; the window's pace bounds all of them anyway.
        """
        if self.error and self.error.cause == RATE_LIMITED and self.error.retry_after_s is None:
            timer.cancel()
            self._again()

    # What comes of an attempt.

    def _came(self, request: Request, came: bytes | SourceError, now: float) -> None:
        client = self._client
        self._under_way -= 1
        if type(came) is not bytes:
            assert isinstance(came, SourceError)
            self._attempt_failed(came, request.began, now)
            return
        if request is self._second:
            client.seconds_won += 1
        client.witness = self.info
        client.fetched.add(now - self._first_at)
        self.data = came
        self._end()

    def _end(self) -> None:
        client = self._client
        self.ended = True
        client.wanted -= 1
        if self._under_way:
            self._cancel_requests()
        self._on_end(self)
        client.pump()

    def _attempt_failed(self, error: SourceError, began: float, now: float) -> None:
        """Go on with what is still under way, or pause, or give up."""
        client, policy = self._client, self._client.policy
        if self._under_way and not error.final:
            self._count_retry(error)
            client.pump()  # the other one may bring it
            return
        if error.cause == "deadline" and self.error is not None:
            error = SourceError(f"{error} Before that: {self.error}", cause=error.cause)
        self.error = error
        # what an object fails with while nothing is answered says nothing about it
        window = client.window
        counts = not error.of_store or (not window.down and window.answered_since(self._first_at))
        if counts:
            self._spent_s += now - began
            self._failures += error.cause != RATE_LIMITED  # it says nothing about the object
        used_up = self._failures >= policy.max_attempts or self._spent_s >= policy.deadline_s
        if error.final or (counts and used_up):
            self._end()
            return
        self._count_retry(error)
        self._pause(error, counts=counts)
        client.pump()

    def _count_retry(self, error: SourceError) -> None:
        retries = self.retries = self.retries or {}
        retries[error.cause] = retries.get(error.cause, 0) + 1

    def _pause(self, error: SourceError, *, counts: bool) -> None:
        policy, client = self._client.policy, self._client
        # in an outage the window makes it wait; and 2.0**10000 would overflow a float before the cap is applied
        steps = min(self.attempts - 1, 60) if counts else 0
        pause_s = client.rng.uniform(0.0, min(policy.max_delay_s, policy.base_delay_s * LONGER**steps))
        if error.retry_after_s is not None:  # all clients were told alike
            pause_s = error.retry_after_s + client.rng.uniform(0.0, policy.base_delay_s)
        if counts:
            pause_s = min(pause_s, policy.deadline_s - self._spent_s)
            self._spent_s += pause_s
        self._timer = client.later(pause_s, self._again)

    def _again(self) -> None:
        self._timer = None
        self._client.wait_again(self)


class PairDownload:
    """Both objects of a pair."""

    def __init__(self, client: StoreClient, pair: Pair, on_end: OnFetched) -> None:
        self._on_end = on_end
        self.image = Download(client, pair.image, self._one_ended)
        self.label = Download(client, pair.label, self._one_ended)

    def __repr__(self) -> str:
        return f"PairDownload({self.image!r}, {self.label!r})"

    @property
    def idle(self) -> bool:
        """Whether no request for either object is under way."""
        return self.image.idle and self.label.idle

    def cancel(self) -> None:
        """End what is under way, without a callback."""
        self.image.cancel()
        self.label.cancel()

    def _one_ended(self, one: Download) -> None:
        image, label = self.image, self.label
        if one.data is None:
            self.cancel()
            self._on_end(self._bad_pair(one))
        elif image.data is None or label.data is None:
            return
        elif image.retries is label.retries:  # both None
            self._on_end(Fetched(image.data, label.data))
        else:
            self._on_end(Fetched(image.data, label.data, self._attempts, self.retries()))

    @property
    def _attempts(self) -> int:
        return max(self.image.attempts, self.label.attempts)

    def retries(self) -> dict[str, int]:
        """Return how many failures of either object another attempt followed, by cause."""
        retries = dict(self.image.retries or {})
        for cause, count in (self.label.retries or {}).items():
            retries[cause] = retries.get(cause, 0) + count
        return retries

    def _bad_pair(self, one: Download) -> BadPairError:
        error, attempts = one.error, self._attempts
        assert error is not None
        times = f"After {attempts} attempts: " if attempts > 1 else ""
        bad = BadPairError(f"{times}{error}", cause=error.cause, attempts=attempts, retries=self.retries())
        bad.__cause__ = error
        return bad

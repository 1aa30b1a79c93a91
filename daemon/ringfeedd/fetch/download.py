"""One object on its way, and the pair that it belongs to: attempt, verify, wait, again. Driven by callbacks.

What nearly every object needs is one request and one callback; whatever does not come whole at once goes through the
same few states once more.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeAlias

from ringfeedd.catalog.catalog import Pair
from ringfeedd.errors import BadPairError
from ringfeedd.fetch.clock import Timer
from ringfeedd.fetch.policy import Fetched
from ringfeedd.fetch.verify import content_of, verify
from ringfeedd.storage.base import ObjectInfo, Reading, SourceError
from ringfeedd.storage.payload import GZIP_MAGIC

if TYPE_CHECKING:
    from ringfeedd.fetch.client import StoreClient

SLOW_S: Final = 10.0
"""Over which the bytes of an attempt are counted."""

BYTES_PER_S: Final = 1 << 20
"""For each of them an attempt may take a second longer."""

LONGER: Final = 1.6
"""The widest pause is so many times the one before. With 2, where two requests of five fail, the few objects that fail
ten times in a row would make all readers wait for longer than all others together."""

RATE_LIMITED: Final = "http_429"
OVERLOADED: Final = "http_503"

OnFetched: TypeAlias = Callable[[Fetched | BadPairError], None]
"""Called once, with what came of a pair."""


class Stage(enum.IntEnum):
    """Where a download stands."""

    WAITING = 0
    """For the window's leave to send a request."""
    UNDER_WAY = 1
    PAUSING = 2
    """After a failure."""
    ENDED = 3


class Download:
    """One object.

    Attributes:
        data: the verified bytes; None before.
        error: what it failed with, for good.
        attempts: begun so far.
        retries: cause -> failures that another attempt followed, or was under way already; None for none.
        began: when the attempt under way began, by the client's clock.
        unanswered: failures since the store last answered any request.
    """

    __slots__ = (
        "_client",
        "_failing_since",
        "_failures",
        "_first_at",
        "_marked_at",
        "_marked_bytes",
        "_on_end",
        "_reading",
        "_second",
        "_spent_s",
        "_timer",
        "attempts",
        "began",
        "data",
        "error",
        "info",
        "retries",
        "stage",
        "unanswered",
    )

    def __init__(self, client: StoreClient, info: ObjectInfo, on_end: Callable[[Download], None]) -> None:
        self._client, self.info, self._on_end = client, info, on_end
        self.stage = Stage.WAITING
        self.data: bytes | None = None
        self.error: SourceError | None = None
        self.attempts = self.unanswered = self._failures = 0
        self.retries: dict[str, int] | None = None
        self.began = self._first_at = self._spent_s = self._failing_since = 0.0
        self._marked_at = 0.0
        self._marked_bytes = 0
        self._reading: Reading | None = None
        self._second: _Second | None = None
        self._timer: Timer | None = None

    def __repr__(self) -> str:
        return f"Download({self.info.name!r}, {self.stage.name.lower()}, {self.attempts} attempts)"

    def begin(self, now: float) -> None:
        """Send a request; the window has given leave."""
        self.stage = Stage.UNDER_WAY
        if not self.attempts:
            self._first_at = now
        self.attempts += 1
        self.began = self._marked_at = now
        self._marked_bytes = 0
        self._second = None
        self._reading = self._client.send(self.info, self.came, now)

    def second(self, now: float) -> None:
        """Send a second request while the first one takes long; the first of the two that brings the object wins."""
        if self.stage is Stage.UNDER_WAY and self._second is None:
            self._second = _Second(self, now)
            self._second.reading = self._client.send(self.info, self._second.came, now, second=True)

    def go_on(self) -> None:
        """End a pause after an answer that limits the rate, unless the store said how long to wait.

        Such a pause keeps this request from the others' way; the window's pace bounds all of them anyway.
        """
        error, timer = self.error, self._timer
        if timer and error and error.cause == RATE_LIMITED and error.retry_after_s is None:
            timer.cancel()
            self._again()

    @property
    def has_second(self) -> bool:
        """Whether a second request was sent in this attempt."""
        return self._second is not None

    def refuse(self, sentence: str, cause: str) -> None:
        """End it with an error soon, without a request."""
        self.error = SourceError(sentence, cause=cause)
        self.stage = Stage.PAUSING
        self._timer = self._client.later(0.0, lambda: self._end(None))

    def cancel(self) -> None:
        """End it, without a callback."""
        if self.stage is Stage.UNDER_WAY:
            self._stop(given_up=True)
        elif self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._client.pausing.discard(self)
        self.stage = Stage.ENDED

    @property
    def received(self) -> int:
        """Bytes that came in the attempts under way."""
        second = None if self._second is None else self._second.reading
        return sum(reading.received or 0 for reading in (self._reading, second) if reading is not None)

    def look(self, now: float) -> None:
        """Cut an attempt that takes too long, or brings too little; to be called now and then."""
        if (reading := self._reading) is None:
            return
        client, policy = self._client, self._client.policy
        longest_s = policy.attempt_s + self.info.size / BYTES_PER_S
        if client.window.down:
            longest_s = client.probe_s
        left_s = policy.deadline_s - self._spent_s
        name = self.info.name
        if now - self.began > left_s:
            before = "" if self.error is None else f"; before that: {self.error}"
            self._cut(f"{name} was not there within {policy.deadline_s:g} s{before or '.'}", "deadline")
        elif now - self.began > longest_s:
            self._cut(f"{name} was not there after {now - self.began:.0f} s, and the attempt was cut.", "timeout")
        elif now - self._marked_at >= SLOW_S and (received := reading.received) is not None:
            rate = (received - self._marked_bytes) / (now - self._marked_at)
            self._marked_at, self._marked_bytes = now, received
            if rate < policy.min_bytes_per_s:
                self._cut(f"{name} came with {rate:,.0f} bytes a second, and the attempt was cut.", "slow")

    def cut_silent(self, now: float, since: float) -> None:
        """End an attempt that began before `since`, since nothing is answered at all."""
        if self.began < since:
            self._cut(f"{self.info.name}: nothing came for {now - self.began:.0f} s.", "timeout")

    # What comes of an attempt.

    def came(self, came: bytes | SourceError, second: _Second | None = None) -> None:
        """Take what came of a request; `second`: the second one, if it is that."""
        client = self._client
        now = client.ended()
        if second is None:
            self._reading, began = None, self.began
        else:
            second.reading, began = None, second.began
        if self.stage is Stage.ENDED:
            return
        try:
            if type(came) is not bytes:
                assert isinstance(came, SourceError)
                raise came
            verify(came, self.info)
        except SourceError as error:
            self._attempt_failed(error, began, now)
            return
        client.window.answered(now, began)
        if second is not None:
            client.second_won()
        self._succeed(came, now)

    def _succeed(self, data: bytes, now: float) -> None:
        client = self._client
        client.witness = self.info
        client.fetched.add(now - self._first_at)
        if self._reading is not None or self._second is not None:
            self._stop(given_up=True)
        self._end(data)

    def _end(self, data: bytes | None) -> None:
        client = self._client
        client.flying.discard(self)
        self.stage = Stage.ENDED
        self.data = data
        self._on_end(self)
        client.pump()

    def _cut(self, sentence: str, cause: str) -> None:
        self._stop(given_up=False)
        error = SourceError(sentence, cause=cause, retryable=cause != "deadline")
        self._attempt_failed(error, self.began, self._client.now())

    def _attempt_failed(self, error: SourceError, began: float, now: float) -> None:
        """Take note of it, and go on with what is still under way, or pause, or give up."""
        client = self._client
        client.note(error, began, now)
        if self._reading is not None or (self._second is not None and self._second.reading is not None):
            if not error.final:
                self._count_retry(error)
                client.pump()  # the other one may bring it
                return
            self._stop(given_up=True)
        if not self._failures and not self.unanswered:
            self._failing_since = began
        self.error = error
        if error.final or self._is_given_up(error, now - began):
            self._end(None)
            return
        self._pause(error)
        client.pump()

    def _is_given_up(self, error: SourceError, took_s: float) -> bool:
        """Count the failure, unless no request was answered since this object began to fail."""
        policy, client = self._client.policy, self._client
        if error.of_store and not client.window.answered_since(self._failing_since):
            self.unanswered += 1
            return False
        self.unanswered = 0
        self._spent_s += took_s
        if error.cause != RATE_LIMITED:  # it says nothing about the object
            self._failures += 1
        return self._failures >= policy.max_attempts or self._spent_s >= policy.deadline_s

    def _count_retry(self, error: SourceError) -> None:
        retries = self.retries = self.retries or {}
        retries[error.cause] = retries.get(error.cause, 0) + 1

    def _pause(self, error: SourceError) -> None:
        policy, client = self._client.policy, self._client
        self._count_retry(error)
        # in an outage the window makes it wait; and 2.0**10000 would overflow a float before the cap is applied
        steps = 0 if self.unanswered else min(self.attempts - 1, 60)
        widest_s = min(policy.max_delay_s, policy.base_delay_s * LONGER**steps)
        pause_s = client.rng.uniform(0.0, widest_s)
        if error.retry_after_s is not None:  # all clients were told alike
            pause_s = error.retry_after_s + client.rng.uniform(0.0, policy.base_delay_s)
        if not self.unanswered:
            pause_s = min(pause_s, policy.deadline_s - self._spent_s)
            self._spent_s += pause_s
        client.flying.discard(self)
        client.pausing.add(self)
        self.stage = Stage.PAUSING
        self._timer = client.later(pause_s, self._again)

    def _again(self) -> None:
        self._timer = None
        self._client.pausing.discard(self)
        self.stage = Stage.WAITING
        self._client.wait_again(self)

    def _stop(self, *, given_up: bool) -> None:
        """End the requests under way.

        Args:
            given_up: nothing is said about how they ended.
        """
        client, second = self._client, self._second
        client.flying.discard(self)
        if self._reading is not None:
            client.stop(self._reading)
            self._reading = None
            if given_up:
                client.window.given_up(self.began)
        if second is not None and second.reading is not None:
            client.stop(second.reading)
            second.reading = None
            client.window.given_up(second.began)


class _Second:
    """The second request for an object."""

    __slots__ = ("_download", "began", "reading")

    def __init__(self, download: Download, began: float) -> None:
        self._download, self.began = download, began
        self.reading: Reading | None = None

    def came(self, came: bytes | SourceError) -> None:
        self._download.came(came, self)


class PairDownload:
    """Both objects of a pair."""

    __slots__ = ("_client", "_on_end", "_open", "image", "label")

    def __init__(self, client: StoreClient, pair: Pair, on_end: OnFetched) -> None:
        self._client, self._on_end = client, on_end
        self._open = 2
        self.image = Download(client, pair.image, self._one_ended)
        self.label = Download(client, pair.label, self._one_ended)

    def __repr__(self) -> str:
        return f"PairDownload({self.image!r}, {self.label!r})"

    def refuse(self, most: int) -> None:
        """End it soon, since an object has more than `most` bytes."""
        one = self.image if self.image.info.size > most else self.label
        info = one.info
        one.refuse(f"{info.name} has {info.size:,} bytes; more than {most:,} are not fetched.", "too_large")

    def cancel(self) -> None:
        """End what is under way, without a callback."""
        self.image.cancel()
        self.label.cancel()

    def _one_ended(self, one: Download) -> None:
        if one.data is None:
            self.cancel()
            self._on_end(self._bad_pair(one))
            return
        self._open -= 1
        if self._open:
            return
        image, label = self.image.data, self.label.data
        assert image is not None
        assert label is not None
        if image.startswith(GZIP_MAGIC) or label.startswith(GZIP_MAGIC):
            try:
                most = self._client.policy.max_object_bytes
                image = content_of(image, self.image.info.name, most)
                label = content_of(label, self.label.info.name, most)
            except SourceError as error:
                one.error = error
                self._on_end(self._bad_pair(one))
                return
        if self.image.retries is self.label.retries:  # both None
            self._on_end(Fetched(image, label))
        else:
            self._on_end(Fetched(image, label, self._attempts, self.retries()))

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
        bad = BadPairError(f"{times}{error}", cause=error.cause, attempts=max(1, attempts), retries=self.retries())
        bad.__cause__ = error
        return bad

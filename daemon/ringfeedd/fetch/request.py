"""One request for an object: how it gets on, what came of it, and what its end says about the store."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeAlias

from ringfeedd.fetch.verify import content_of
from ringfeedd.storage.base import ObjectInfo, Reading, SourceError

if TYPE_CHECKING:
    from ringfeedd.fetch.client import StoreClient

SLOW_S: Final = 10.0
"""Over which the bytes of a request are counted."""

BYTES_PER_S: Final = 1 << 20
"""For each of them a request may take a second longer."""

OnRequestEnd: TypeAlias = "Callable[[Request, bytes | SourceError, float], object]"
"""Called once with what came of it, and when."""


class Request:
    """One request, under way from the beginning.

    Attributes:
        info: the object.
        began: when it was sent, by the client's clock.
        until: when it is cut.
    """

    def __init__(
        self, client: StoreClient, info: ObjectInfo, on_end: OnRequestEnd, now: float, until: float = math.inf
    ) -> None:
        """Send it."""
        self._client, self.info, self._on_end, self.until = client, info, on_end, until
        self.began = self._moved_at = self._marked_at = now
        self._received = self._marked_bytes = 0
        self._reading: Reading | None = None
        if not client.requests:
            client.heard_at = now  # nothing could come while nothing was asked for
        client.requests[self] = None
        if info.size > client.policy.max_object_bytes:
            sentence = (
                f"{info.size:,} bytes are more than {client.policy.max_object_bytes:,}, which is all that is fetched."
            )
            self._fail_soon(sentence, "too_large")
            return
        try:
            self._reading = client.source.begin_read(info.name, info.generation, info.size, self.came)
        except Exception as error:  # noqa: BLE001  # a defect of ours must cost one object, and be told
            self._fail_soon(f"{type(error).__name__}: {error}", "internal")
            return
        client.sent += 1
        client.window.sent(now)

    def __repr__(self) -> str:
        return f"Request({self.info.name!r})"

    def came(self, came: bytes | SourceError) -> None:
        """Take what came of it."""
        client = self._client
        if self not in client.requests:
            return
        del client.requests[self]
        client.heard_at = now = client.now()
        try:
            if type(came) is not bytes:
                assert isinstance(came, SourceError)
                raise came
            came = content_of(came, self.info, client.policy.max_object_bytes)
            client.window.answered(now, self.began)
        except SourceError as error:
            client.note(error, self.began, now)
            came = error
        self._on_end(self, came, now)

    def cancel(self) -> None:
        """End it, unless it has ended, without a callback."""
        if self._withdraw():
            self._client.window.given_up(self.began)

    def look(self, now: float, longest_s: float) -> None:
        """Cut it if it takes longer than `longest_s`, or than the policy allows, or brings too little."""
        client, policy, name = self._client, self._client.policy, self.info.name
        took_s = now - self.began
        received = None if self._reading is None else self._reading.received
        if received is not None and received != self._received:
            self._received, self._moved_at = received, now
            client.heard_at = now
        if now > self.until:
            self.cut(now, f"{name} was not there within {policy.deadline_s:g} s.", "deadline")
        elif took_s > min(longest_s, policy.attempt_s + self.info.size / BYTES_PER_S):
            self.cut(now, f"{name} was not there after {took_s:.0f} s, and the attempt was cut.", "timeout")
        elif received is None:  # its progress is not known
            return
        elif now - self._moved_at > policy.read_timeout_s:
            self.cut(now, f"{name}: nothing came for {now - self._moved_at:.0f} s.", "timeout")
        elif received and now - self._marked_at >= SLOW_S:
            rate = (received - self._marked_bytes) / (now - self._marked_at)
            self._marked_at, self._marked_bytes = now, received
            if rate < policy.min_bytes_per_s:
                self.cut(now, f"{name} came with {rate:,.0f} bytes a second, and the attempt was cut.", "slow")

    def cut(self, now: float, sentence: str, cause: str) -> None:
        """End it with an error, unless it has ended."""
        if self._withdraw():
            error = SourceError(sentence, cause=cause, retryable=cause != "deadline")
            self._client.note(error, self.began, now)
            self._on_end(self, error, now)

    def _fail_soon(self, sentence: str, cause: str) -> None:
        error = SourceError(f"{self.info.name}: {sentence}", cause=cause)
        self._client.later(0.0, lambda: self.came(error))

    def _withdraw(self) -> bool:
        if self not in self._client.requests:
            return False
        del self._client.requests[self]
        if self._reading is not None:
            self._reading.cancel()
        return True

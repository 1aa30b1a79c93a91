"""Trying again: truncated exponential backoff with full jitter, which honours what the server asks for."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

from ringfeedd.storage.base import SourceError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")


class Clock(Protocol):
    """Time as the retries see it; tests hand in one that they turn themselves."""

    def monotonic(self) -> float:
        """Seconds since some moment, never going back."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Come back after `seconds`."""
        ...


class SystemClock:
    """The machine's own clock."""

    monotonic = staticmethod(time.monotonic)

    async def sleep(self, seconds: float) -> None:
        """`asyncio.sleep`."""
        await asyncio.sleep(seconds)


SYSTEM_CLOCK = SystemClock()


@dataclass(frozen=True, slots=True)
class Backoff:
    """How often, and after which waits.

    Attributes:
        max_attempts: attempts in all, the first included.
        base_s: the widest possible wait before the second attempt, seconds; it doubles with each further one.
        max_s: the cap of that doubling, seconds. A server's Retry-After may ask for more.
    """

    max_attempts: int = 5
    base_s: float = 0.1
    max_s: float = 8.0

    def wait_s(self, attempt: int, retry_after_s: float | None, rng: random.Random) -> float:
        """Seconds to wait after attempt number `attempt` (from 1) failed.

        Full jitter keeps many clients that failed together from coming back together; so a Retry-After, which all of
        them were told alike, gets jitter on top.
        """
        # 2**1000 would overflow a float long before the cap is applied
        ceiling = min(self.max_s, self.base_s * 2 ** min(attempt - 1, 60))
        if retry_after_s is None:
            return rng.uniform(0.0, ceiling)
        return retry_after_s + rng.uniform(0.0, self.base_s)


async def with_retries(
    attempt: Callable[[], Awaitable[T]],
    backoff: Backoff,
    *,
    hopeless: Callable[[SourceError], bool] = lambda _: False,
    deadline: float = float("inf"),
) -> T:
    """Return the first result of `attempt` other than a retryable `SourceError`.

    No wait is begun that would end after `deadline`, a moment of `SYSTEM_CLOCK`; no attempt is cut short by it.
    `hopeless` says which failures are not worth another attempt now.

    Raises:
        SourceError: the last one, when it is final, when the attempts are used up or the deadline is too near.
    """
    rng = random.Random()
    number = 1
    while True:
        try:
            return await attempt()
        except SourceError as error:
            wait_s = backoff.wait_s(number, error.retry_after_s, rng)
            used_up = number >= backoff.max_attempts or SYSTEM_CLOCK.monotonic() + wait_s > deadline
            if not error.retryable or used_up or hopeless(error):
                raise
        await SYSTEM_CLOCK.sleep(wait_s)
        number += 1

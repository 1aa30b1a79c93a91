"""A start that meets a store which does not answer waits for it: for how long, with which pauses, and what it says."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from ringfeedd.errors import StoreDownError
from ringfeedd.fetch.health import StoreHealth
from ringfeedd.storage.retry import SYSTEM_CLOCK, Backoff, Clock

T = TypeVar("T")

PAUSES: Final = Backoff(base_s=1.0, max_s=30.0)
"""Between two attempts, of which a listing makes some of its own each time."""

NOTICE_S: Final = 30.0
"""What the service manager is asked for, twice as often, while the store is waited for."""

SILENCE_S: Final = 5.0
"""Seconds without any answer to requests and their retries, after which it is an outage."""

_NOTHING_S: Final = 0.01
"""So little of the time left is none: a sleep may end early, by the clock's grain."""


class Patience:
    """How long one start waits in all. Pure; moments come in as seconds of one monotonic clock."""

    def __init__(self, wait_s: float, rng: random.Random | None = None) -> None:
        """Begin with a store that is expected to answer.

        Args:
            wait_s: seconds without an answer, over all of the start's outages.
        """
        self.wait_s = wait_s
        self._rng = rng or random.Random()
        self._down_since: float | None = None
        self._waited_s = 0.0
        self._failures = 0

    def __repr__(self) -> str:
        return f"Patience({'waits' if self.waiting else 'goes on'}, {self._failures} pauses, {self.wait_s:g} s at most)"

    @property
    def waiting(self) -> bool:
        """Whether the store's last answer was a failure."""
        return self._down_since is not None

    def waited_s(self, now: float) -> float:
        """Seconds without an answer until now, outages that are over included."""
        return self._waited_s + (0.0 if self._down_since is None else now - self._down_since)

    def failed(self, now: float, retry_after_s: float | None = None) -> float | None:
        """The store did not answer: seconds until the next attempt, None where there shall be none.

        The last attempt is made when the time is up, however long the store asks for.
        """
        if self._down_since is None:
            self._down_since = now
        left_s = self.wait_s - self.waited_s(now)
        if left_s <= _NOTHING_S:
            return None
        self._failures += 1
        pause_s = PAUSES.wait_s(self._failures, None, self._rng)
        if retry_after_s is not None:  # at least what it asks for, which may be nothing
            pause_s = max(pause_s, PAUSES.wait_s(self._failures, retry_after_s, self._rng))
        return min(pause_s, left_s)

    def answered(self, now: float) -> float | None:
        """The store answers: the seconds for which it had not, None where it had."""
        if self._down_since is None:
            return None
        down_s, self._down_since = now - self._down_since, None
        self._waited_s += down_s
        return down_s


class StoreWait:
    """What a start needs of the store, tried until it is there; the thin shell round `Patience`."""

    def __init__(
        self,
        wait_s: float,
        *,
        say: Callable[[str], None],
        tell: Callable[[float, str], object],
        has_answered: Callable[[], bool] = lambda: True,
        clock: Clock = SYSTEM_CLOCK,
        rng: random.Random | None = None,
    ) -> None:
        """Prepare; inside the event loop that will wait.

        Args:
            wait_s: see `Patience`; 0: whatever fails has failed.
            say: told when it begins to wait, and when the store answers again.
            has_answered: whether the store has ever answered. Until it has, a host that does not resolve or refuses the
                connection is not waited for: its address is wrong more often than the store is down.
            tell: told (seconds, status) again and again that the start goes on, see `Notifier.extend_timeout`.
        """
        self._patience = Patience(wait_s, rng)
        self._say, self._tell, self._clock = say, tell, clock
        self._telling: asyncio.Task[None] | None = None
        self._has_answered, self._answered = has_answered, False

    def __repr__(self) -> str:
        return f"StoreWait({self._patience!r})"

    @property
    def has_answered(self) -> bool:
        """Whether the store has answered anything, now or before this start."""
        return self._answered or self._has_answered()

    async def has(self, attempt: Callable[[], Awaitable[T]], *, is_answer: bool = True) -> T:
        """The first result of `attempt` that comes of a store which answers.

        Args:
            is_answer: a result tells that the store has answered; else only that nothing failed.

        Raises:
            StoreDownError: the store did not answer for too long. What else `attempt` raises is raised at once.
        """
        try:
            while True:
                try:
                    result = await attempt()
                except StoreDownError as error:
                    await self._pause(error)
                else:
                    self._answered |= is_answer
                    self._goes_on()
                    return result
        finally:
            self._tell_no_more()

    def answered(self) -> None:
        """The store has answered something."""
        self._answered = True
        self._goes_on()

    def _goes_on(self) -> None:
        if (down_s := self._patience.answered(self._clock.monotonic())) is not None:
            self._tell_no_more()
            self._say(f"the store answers again, after {down_s:.0f} s: the start goes on")

    def first_pairs(self, health: StoreHealth, *, there: bool) -> None:
        """Until the first pairs are there, workers wait by themselves for a store that went down meanwhile.

        Args:
            health: what the workers make of the store.
            there: whether the first pairs are; then there is no hurry any more.

        Raises:
            StoreDownError: for too long.
        """
        wait_s = self._patience.wait_s
        if there or health.failing_since is None:
            return
        down_s = self._clock.monotonic() - health.failing_since
        if down_s > max(wait_s, SILENCE_S):
            raise StoreDownError(
                f"the first pairs failed to load: the store has not answered for {down_s:.0f} s ({health.cause}), "
                f"and store_wait_s = {wait_s:g}; start again when it answers"
            )
        self._tell(NOTICE_S, f"waits for the store ({health.cause}) with the first pairs, up to {wait_s:g} s")

    async def _pause(self, error: StoreDownError) -> None:
        if error.unreachable and not self.has_answered:
            raise StoreDownError(
                f"{error} It has never answered, so it is not waited for; correct the address, or have the start wait "
                f"for it with --store-wait-s"
            ) from error
        patience, now = self._patience, self._clock.monotonic()
        begins = not patience.waiting
        pause_s = patience.failed(now, error.retry_after_s)
        if pause_s is None and not patience.wait_s:
            raise error
        if pause_s is None:
            raise StoreDownError(
                f"the store has not answered for {patience.waited_s(now):.0f} s, and the start gives up "
                f"(store_wait_s); start again when it answers. The last attempt: {error}"
            ) from error
        if begins:
            self._say(
                f"the store does not answer, and the start waits for it: {error} It goes on by itself when the store "
                f"answers, and gives up after {patience.wait_s - patience.waited_s(now):.0f} s (--store-wait-s); "
                f"Ctrl-C ends it"
            )
            self._telling = asyncio.create_task(self._go_on_telling(error))
        await self._clock.sleep(pause_s)

    async def _go_on_telling(self, error: StoreDownError) -> None:
        """Tell the service manager that it waits and does not hang, also while an attempt takes long."""
        while True:
            self._tell(NOTICE_S, f"waits for the store: {error}")
            await asyncio.sleep(NOTICE_S / 2)

    def _tell_no_more(self) -> None:
        if self._telling is not None:
            self._telling.cancel()
            self._telling = None

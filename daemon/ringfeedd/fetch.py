"""Fetching one pair: both objects at once, verified against the listing, tried again where that can help."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import TypeAlias, TypeVar

from ringfeedd.catalog import Pair
from ringfeedd.errors import BadPairError
from ringfeedd.integrity import GZIP_MAGIC, unpacked
from ringfeedd.ramp import START_REQUESTS_PER_S
from ringfeedd.sources.backoff import Backoff, Clock, with_retries
from ringfeedd.sources.base import MAX_OBJECT_BYTES, ObjectInfo, SourceError
from ringfeedd.sources.plane import DEFAULT_PLANE, PlaneName
from ringfeedd.traffic import Traffic

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class FetchPolicy:
    """How hard pairs are tried for, and how the store is treated.

    Attributes:
        max_attempts: for each of the two objects, the first included.
        base_delay_s: the widest wait before the second attempt, seconds; doubled with each further one.
        max_delay_s: the cap of that, seconds.
        deadline_s: for each of the two objects, all attempts together, seconds. Waits for a free connection count;
            waits for a store that is down, for the budget and for the ramp do not.
        max_object_bytes: larger objects are not downloaded; also the bound for what a gzipped object may unpack to.
        read_timeout_s: silence of the store, seconds, after which a download is cut.
        retry_budget: retries that each successful read earns, see `RetryBudget`.
        hedge: whether a read that takes unusually long is sent a second time.
        start_requests_per_s: at which the ramp of one process begins, see `Ramp`; 0 for no limit.
        data_plane: what objects of a bucket are downloaded with, see `ringfeedd.sources.plane`.
        user_project: the project that downloads are billed to; None: the bucket's own.
    """

    max_attempts: int = 8
    base_delay_s: float = 0.1
    max_delay_s: float = 8.0
    deadline_s: float = 120.0
    max_object_bytes: int = MAX_OBJECT_BYTES
    read_timeout_s: float = 20.0
    retry_budget: float = 0.5
    hedge: bool = False
    start_requests_per_s: float = START_REQUESTS_PER_S
    data_plane: PlaneName = DEFAULT_PLANE
    user_project: str | None = None


@dataclass(frozen=True, slots=True)
class Fetched:
    """The compressed bytes of a pair, as they were listed.

    Attributes:
        image: the image file.
        label: the label file.
        attempts: how many the object that took more of them took; 1 when nothing went wrong.
        retries: cause -> how many failures of either object were followed by another attempt.
    """

    image: bytes
    label: bytes
    attempts: int = 1
    retries: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FirstFailure:
    """An object's first attempt, made by `FirstReads`, that came to nothing.

    Attributes:
        began: when, by the traffic's clock, seconds.
        openings: the traffic's, then.
    """

    error: SourceError
    began: float
    openings: int


Begun: TypeAlias = bytes | FirstFailure | None
"""What came of an object's first attempt, its bytes verified; None where there was none."""


async def fetch_pair(
    traffic: Traffic, pair: Pair, policy: FetchPolicy, begun: tuple[Begun, Begun] = (None, None)
) -> Fetched:
    """Both objects of a pair, verified by size and crc32c.

    While the store is down it waits, for as long as that takes, and begins anew afterwards. Cancelling it ends both
    reads before it returns, and leaves nothing running. The deadline cuts reads in flight by the event loop's time; the
    traffic's clock and rng decide about the waits between attempts.

    Args:
        begun: what came of the image's and the label's first attempt where that was made already.

    Raises:
        BadPairError: the pair cannot be had; its cause is that of the `SourceError`, or ``"size"``, ``"html"``,
            ``"crc32c"``, ``"too_large"``, ``"gzip"``, ``"deadline"``.
    """
    for one in begun:
        if isinstance(one, FirstFailure) and one.error.final:  # and the other is not asked for in vain
            raise BadPairError(str(one.error), cause=one.error.cause, attempts=1) from one.error
    image, label = (
        _ObjectFetch(traffic, info, policy, one) for info, one in zip((pair.image, pair.label), begun, strict=True)
    )
    tasks = [asyncio.create_task(one.run()) for one in (image, label)]
    try:
        image_bytes, label_bytes = await asyncio.gather(*tasks)
    except SourceError as error:
        attempts, retries = max(image.attempts, label.attempts), dict(image.retries + label.retries)
        sentence = f"{_times(attempts)}{error}"
        raise BadPairError(sentence, cause=error.cause, attempts=attempts, retries=retries) from error
    finally:
        if not (tasks[0].done() and tasks[1].done()):
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    retries = dict(image.retries + label.retries) if image.retries or label.retries else {}
    return Fetched(image_bytes, label_bytes, max(image.attempts, label.attempts), retries)


class _OwnTime:
    """A clock that stands still while it is held: what a pair waits for others does not use up its deadline."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._held_s = 0.0

    def monotonic(self) -> float:
        return self._clock.monotonic() - self._held_s

    async def sleep(self, seconds: float) -> None:
        await self._clock.sleep(seconds)

    async def held(self, wait: Awaitable[T]) -> T:
        """Wait without growing older."""
        began = self._clock.monotonic()
        try:
            return await wait
        finally:
            self._held_s += self._clock.monotonic() - began


class _ObjectFetch:
    """One object's attempts."""

    def __init__(self, traffic: Traffic, info: ObjectInfo, policy: FetchPolicy, begun: Begun) -> None:
        self._traffic, self._info, self._policy = traffic, info, policy
        self._first = begun
        self._time = _OwnTime(traffic.clock)
        self._deadline = 0.0
        self._failing_since = 0.0
        self._last_failure: SourceError | None = None
        self.attempts = 0
        self.retries: Counter[str] = Counter()

    async def run(self) -> bytes:
        """The verified bytes, unpacked where the object is stored gzipped. Raises: `SourceError`."""
        info, policy = self._info, self._policy
        if info.size > policy.max_object_bytes:
            sentence = f"{info.name} has {info.size:,} bytes; more than {policy.max_object_bytes:,} are not fetched."
            raise SourceError(sentence, cause="too_large")
        if isinstance(self._first, bytes):
            data, self.attempts = self._first, 1
        else:
            data = await self._read()
        return unpacked(data, info.name, policy.max_object_bytes) if data.startswith(GZIP_MAGIC) else data

    async def _read(self) -> bytes:
        while True:
            first = self._first if isinstance(self._first, FirstFailure) else None
            openings = self._traffic.openings if first is None else first.openings
            try:
                return await self._try(self._time.monotonic() if first is None else first.began)
            except SourceError as error:
                if not error.of_store or await self._traffic.stands(self._failing_since, openings):
                    raise
            # The store was down: that says nothing about this object, and it has all of its attempts again.
            self.attempts = 0

    async def _try(self, began: float) -> bytes:
        policy = self._policy
        self._last_failure = None
        self._deadline = began + policy.deadline_s
        return await with_retries(
            self._attempt,
            Backoff(policy.max_attempts, policy.base_delay_s, policy.max_delay_s),
            on_retry=self._before_retry,
            deadline=self._deadline,
            clock=self._time,
            rng=self._traffic.rng,
        )

    async def _attempt(self) -> bytes:
        traffic = self._traffic
        if isinstance(self._first, FirstFailure):
            error, self._first = self._first.error, None
            self.attempts += 1
            self._note(error)
            raise error
        await self._time.held(traffic.turn())
        began = traffic.clock.monotonic()
        self.attempts += 1
        try:
            async with asyncio.timeout(self._deadline - self._time.monotonic()):
                return await traffic.read(self._info)
        except TimeoutError:
            error = late(self._info, self._policy, self._last_failure)
            traffic.failed(error, began)
            self._note(error)
            raise error from None
        except SourceError as error:
            self._note(error)
            raise
        finally:
            traffic.done()

    def _note(self, error: SourceError) -> None:
        if self._last_failure is None:
            self._failing_since = self._traffic.clock.monotonic()
        self._last_failure = error

    async def _before_retry(self, error: SourceError) -> None:
        self.retries[error.cause] += 1
        await self._time.held(self._traffic.may_retry())


def late(info: ObjectInfo, policy: FetchPolicy, before: SourceError | None = None) -> SourceError:
    """What a read fails with that its deadline has cut.

    Args:
        before: the latest failure of the same object.
    """
    since = f"; before that: {before}" if before else "."
    return SourceError(f"{info.name} was not there within {policy.deadline_s:g} s{since}", cause="deadline")


def _times(attempts: int) -> str:
    return f"After {attempts} attempts: " if attempts > 1 else ""

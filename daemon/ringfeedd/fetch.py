"""Fetching one pair: both objects at once, verified against the listing, tried again where that can help."""

from __future__ import annotations

import asyncio
import zlib
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import google_crc32c

from .errors import BadPairError
from .sources.backoff import SYSTEM_CLOCK, Backoff, Clock, with_retries
from .sources.base import ObjectInfo, Source, SourceError

if TYPE_CHECKING:
    import random

    from .catalog import Pair

_GZIP_MAGIC = b"\x1f\x8b"
_GZIP_WINDOW = 16 + zlib.MAX_WBITS
_SHOWN_BYTES = 24


@dataclass(frozen=True, slots=True)
class FetchPolicy:
    """How hard a pair is tried for.

    Attributes:
        max_attempts: for each of the two objects, the first included.
        base_delay_s: the widest wait before the second attempt, seconds; doubled with each further one.
        max_delay_s: the cap of that, seconds.
        deadline_s: for the whole pair, seconds, waits for a free connection included.
        max_object_bytes: larger objects are not downloaded; also the bound for what a gzipped object may unpack to.
    """

    max_attempts: int = 5
    base_delay_s: float = 0.1
    max_delay_s: float = 8.0
    deadline_s: float = 120.0
    max_object_bytes: int = 256 << 20


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


async def fetch_pair(
    source: Source,
    pair: Pair,
    policy: FetchPolicy,
    *,
    clock: Clock = SYSTEM_CLOCK,
    rng: random.Random | None = None,
) -> Fetched:
    """Both objects of a pair, verified by size and crc32c.

    Cancelling it ends both reads before it returns, and leaves nothing running. The deadline cuts reads in flight by
    the event loop's time; `clock` and `rng` decide about the waits between attempts.

    Raises:
        BadPairError: the pair cannot be had; its cause is that of the `SourceError`, or ``"size"``, ``"crc32c"``,
            ``"too_large"``, ``"gzip"``, ``"deadline"``.
    """
    deadline = clock.monotonic() + policy.deadline_s
    image, label = (_ObjectFetch(source, info, policy) for info in (pair.image, pair.label))
    tasks = [asyncio.create_task(one.run(deadline, clock, rng)) for one in (image, label)]
    try:
        async with asyncio.timeout(policy.deadline_s):
            image_bytes, label_bytes = await asyncio.gather(*tasks)
    except SourceError as error:
        attempts = max(image.attempts, label.attempts)
        raise BadPairError(f"{_times(attempts)}{error}", cause=error.cause, attempts=attempts) from error
    except TimeoutError as error:
        attempts = max(image.attempts, label.attempts)
        last = image.last_failure or label.last_failure
        sentence = (
            f"Pair {pair.id!r} was not there within {policy.deadline_s:g} s{f'; before that: {last}' if last else '.'}"
        )
        raise BadPairError(sentence, cause="deadline", attempts=attempts) from error
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    retries = dict(image.retries + label.retries)
    return Fetched(image_bytes, label_bytes, max(image.attempts, label.attempts), retries)


class _ObjectFetch:
    """One object's attempts."""

    def __init__(self, source: Source, info: ObjectInfo, policy: FetchPolicy) -> None:
        self._source, self._info, self._policy = source, info, policy
        self.attempts = 0
        self.retries: Counter[str] = Counter()
        self.last_failure: SourceError | None = None

    async def run(self, deadline: float, clock: Clock, rng: random.Random | None) -> bytes:
        """The verified bytes. Raises: `SourceError`."""
        info, policy = self._info, self._policy
        if info.size > policy.max_object_bytes:
            sentence = f"{info.name} has {info.size:,} bytes; more than {policy.max_object_bytes:,} are not fetched."
            raise SourceError(sentence, cause="too_large")
        backoff = Backoff(policy.max_attempts, policy.base_delay_s, policy.max_delay_s)
        data = await with_retries(self._attempt, backoff, on_retry=self._count, deadline=deadline, clock=clock, rng=rng)
        return _unpacked(data, info.name, policy.max_object_bytes) if data.startswith(_GZIP_MAGIC) else data

    async def _attempt(self) -> bytes:
        self.attempts += 1
        data = await self._source.read(self._info.name, self._info.generation)
        verify(data, self._info)
        return data

    def _count(self, error: SourceError) -> None:
        self.retries[error.cause] += 1
        self.last_failure = error


def verify(data: bytes, info: ObjectInfo) -> None:
    """Compare what was read with what was listed.

    Most JPEGs with a flipped bit decode without an error, into other pixels: only the checksum sees it.

    Raises:
        SourceError: retryable, because it is mostly the way and not the object that is broken.
    """
    if len(data) != info.size:
        sentence = (
            f"{info.name} came with {len(data):,} bytes instead of {info.size:,}; it begins {data[:_SHOWN_BYTES]!r}."
        )
        raise SourceError(sentence, cause="size", retryable=True)
    if info.crc32c is not None and (found := google_crc32c.value(data)) != info.crc32c:
        sentence = f"{info.name} came with crc32c {found:08x} instead of {info.crc32c:08x}."
        raise SourceError(sentence, cause="crc32c", retryable=True)


def _unpacked(data: bytes, name: str, max_bytes: int) -> bytes:
    """The content of an object stored with ``Content-Encoding: gzip``; no image format begins with gzip's magic."""
    unpacker = zlib.decompressobj(_GZIP_WINDOW)
    try:
        content = unpacker.decompress(data, max_bytes)
    except zlib.error as error:
        raise SourceError(f"{name} is stored gzipped, and does not unpack: {error}.", cause="gzip") from error
    if unpacker.unconsumed_tail:
        raise SourceError(f"{name} is stored gzipped, and unpacks to over {max_bytes:,} bytes.", cause="too_large")
    if not unpacker.eof:
        raise SourceError(f"{name} is stored gzipped, and ends too early.", cause="gzip")
    return content


def _times(attempts: int) -> str:
    return f"After {attempts} attempts: " if attempts > 1 else ""

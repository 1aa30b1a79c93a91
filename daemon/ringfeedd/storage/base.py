"""What every source of objects offers: names, metadata, bytes; and the one way in which it fails."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import msgspec

from ringfeedd.errors import StartError, StoreDownError, encodable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ringfeedd.storage.skipped import Skipped

READ_TIMEOUT_S = 20.0
"""Seconds without data after which a request is cut."""

SILENT_LOOKS = 4
"""Looks without data after which a request is silent: one may follow a time in which the loop was held up."""

PAGE_OBJECTS = 1000
"""Objects in one page of a listing: the most that the GCS JSON API gives at once."""


MAX_OBJECT_BYTES = 256 << 20
"""Larger objects are not downloaded; also the bound for what a gzipped object may unpack to."""


class ObjectInfo(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One object as it was listed.

    Attributes:
        name: its name relative to the source's root, with ``/`` between folders.
        size: bytes.
        generation: a number that changes with the content; 0 where it is unknown.
        crc32c: CRC-32C of the stored bytes; None where the store keeps none.
    """

    name: str
    size: int
    generation: int = 0
    crc32c: int | None = None


OBJECT_CAUSES = frozenset({"size", "crc32c", "headers"})
"""Worth another attempt, yet they tell of one object and not of the store: it did answer."""


OUTAGE_CAUSES = frozenset({"connect", "timeout", "reset", "truncated", "deadline"})
"""Causes of failures without an answer; statuses with which a store asks to wait are ``http_...``."""


class SourceError(Exception):
    """A listing or a read failed; the message is a sentence that names the object.

    Attributes:
        cause: a short word for counting: ``"missing"``, ``"forbidden"``, ``"unauthorized"``, ``"changed"``,
            ``"timeout"``, ``"connect"``, ``"reset"``, ``"truncated"``, ``"redirect"``, ``"html"``, ``"http_503"``,
            ``"io"``, ``"deadline"``, ...
        retryable: the same request may succeed a little later.
        retry_after_s: how long the server asked us to wait, in seconds; None where it said nothing.
        unreachable: the host does not resolve, or refuses the connection.
    """

    def __init__(
        self,
        sentence: str,
        *,
        cause: str,
        retryable: bool = False,
        retry_after_s: float | None = None,
        unreachable: bool = False,
    ) -> None:
        super().__init__(encodable(sentence))
        self.cause = cause
        self.retryable = retryable
        self.retry_after_s = retry_after_s
        self.unreachable = unreachable

    @property
    def of_store(self) -> bool:
        """Return True if the failure concerns the store or the network: during an outage every object fails so."""
        return (self.retryable or self.cause == "deadline") and self.cause not in OBJECT_CAUSES

    @property
    def final(self) -> bool:
        """Whether no further attempt is worth while, whatever the store does."""
        return not self.retryable and not self.of_store

    @property
    def of_outage(self) -> bool:
        """Return True if there was no answer, or the store said that it cannot now: a start may wait for it.

        False for a wrong answer (a redirect, a login page, a refused token): a setting has to be corrected, so the
        start ends at once.
        """
        return self.of_store and (self.cause in OUTAGE_CAUSES or self.cause.startswith("http_"))

    def start_error(self, sentence: str = "") -> StartError:
        """What a start ends with that cannot do without this; `sentence` instead of this one's own."""
        if self.of_outage:
            return StoreDownError(sentence or str(self), retry_after_s=self.retry_after_s, unreachable=self.unreachable)
        return StartError(sentence or str(self))


OnEnd: TypeAlias = Callable[[bytes | SourceError], None]
"""What is called, once, with what came of a read: its bytes, or why there are none."""


class Reading(Protocol):
    """A read under way."""

    @property
    def received(self) -> int | None:
        """Bytes of the body that came so far; None where that is not known."""
        ...

    def cancel(self) -> None:
        """End it, unless it has ended; no callback is called."""
        ...


class Source(Protocol):
    """A root under which objects are listed and read; one for each event loop.

    Implementations: `ringfeedd.storage.gcs.GcsSource`, `ringfeedd.storage.local.LocalSource`. A source retries listings
    (a lost page would cost the whole start) and never reads: how often a pair is tried is the fetcher's decision.

    Another kind of store is a module next to these. `ringfeedd.storage.open_source` opens it by the root's scheme,
    `modules_for` there names what it imports, and `ringfeedd.storage.roots` says how its roots are written.
    """

    @property
    def root(self) -> str:
        """What the operator called it, e.g. ``gs://bucket/prefix``; for messages."""
        ...

    def list_pages(self, prefix: str, skipped: Skipped | None = None) -> AsyncIterator[list[ObjectInfo]]:
        """Yield every object whose name begins with `prefix`, page after page, in the store's own order.

        Args:
            skipped: decides what is left out, and counts it; by default hidden names are left out, and nothing is told.

        Raises:
            SourceError: the listing failed, or broke off; what was yielded so far is not the whole.
        """
        ...

    def begin_read(self, name: str, generation: int, max_bytes: int, on_end: OnEnd) -> Reading:
        """Ask for the stored bytes of one object, in the generation that was listed (0: whichever is there).

        The bytes are not verified here: compare size and crc32c with the listing. Where more than `max_bytes` come,
        what is given is some bytes longer than that: a body without an end must not fill the memory. Nothing here waits
        for a free connection: the caller counts.

        Args:
            on_end: called once with what came of it, never from in here.
        """
        ...

    async def close(self) -> None:
        """Close connections and threads; reads in flight fail."""
        ...


class TaskReading:
    """A read that a task does."""

    def __init__(self, work: Coroutine[Any, Any, bytes], on_end: OnEnd) -> None:
        """Begin it."""
        self.received: int | None = None
        self._on_end: OnEnd | None = on_end
        self._task = asyncio.ensure_future(work)
        self._task.add_done_callback(self._ended)

    def cancel(self) -> None:
        """See `Reading.cancel`."""
        self._on_end = None
        self._task.cancel()

    def _ended(self, task: asyncio.Future[bytes]) -> None:
        on_end, self._on_end = self._on_end, None
        if task.cancelled():
            if on_end is not None:
                on_end(SourceError("The read was cancelled.", cause="reset", retryable=True))
            return
        error = task.exception()
        if on_end is None:
            return
        if error is None:
            on_end(task.result())
        elif isinstance(error, SourceError):
            on_end(error)
        else:
            on_end(SourceError(f"{type(error).__name__}: {error}", cause="internal"))


async def read(
    source: Source, name: str, generation: int, max_bytes: int = MAX_OBJECT_BYTES, silent_s: float = READ_TIMEOUT_S
) -> bytes:
    """Read one object; see `Source.begin_read` and `ended`. Raises: SourceError."""
    what = f"{source.root}/{name} cannot be read"
    return await ended(lambda on_end: source.begin_read(name, generation, max_bytes, on_end), what, silent_s)


async def ended(begin: Callable[[OnEnd], Reading], what: str, silent_s: float) -> bytes:
    """Begin a read, wait for its end, and return its bytes. Cancelling this ends the read.

    Args:
        what: begins the sentence of an error.
        silent_s: seconds without data after which it is cut; not where its progress is not known.

    Raises:
        SourceError: it failed, or was cut.
    """
    loop = asyncio.get_running_loop()
    came: asyncio.Future[bytes | SourceError] = loop.create_future()
    reading, received, looks = begin(came.set_result), 0, 0
    timer: asyncio.TimerHandle

    def look() -> None:
        nonlocal received, looks, timer
        now_received = reading.received
        looks = looks + 1 if now_received == received else 0
        received = now_received or 0
        if looks < SILENT_LOOKS:
            timer = loop.call_later(silent_s / SILENT_LOOKS, look)
        elif not came.done():
            reading.cancel()
            came.set_result(SourceError(f"{what}: the server fell silent.", cause="timeout", retryable=True))

    timer = loop.call_later(silent_s / SILENT_LOOKS, look)
    try:
        result = await came
    finally:
        timer.cancel()
        reading.cancel()
    if isinstance(result, SourceError):
        raise result
    return result

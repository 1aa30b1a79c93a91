"""The first attempt at a pair, without a task: two reads by callbacks, which is all that nearly every pair needs.

What asyncio's tasks, retries, deadlines and locks cost for one small object is more than its bytes do. So nothing of
them is there as long as all goes well; whatever does not is told to `fetch_pair`, which goes on from it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from ringfeedd.catalog import Pair
from ringfeedd.fetch import Begun, Fetched, FetchPolicy, FirstFailure, late
from ringfeedd.integrity import GZIP_MAGIC, verify
from ringfeedd.sources.base import BeginRead, ObjectInfo, OnEnd, SourceError
from ringfeedd.traffic import Traffic

REFUSED = "unauthorized"

OnCame: TypeAlias = Callable[[Fetched | tuple[Begun, Begun]], None]
"""Called, once, with the pair's bytes; or with what came of image and label, for `fetch_pair` to go on from."""


class FirstReads:
    """Makes the first attempts of one process; used on its event loop only."""

    def __init__(self, traffic: Traffic, begin_read: BeginRead, policy: FetchPolicy) -> None:
        self._traffic, self._begin_read, self._policy = traffic, begin_read, policy
        self._under_way: set[PairReads] = set()

    def __repr__(self) -> str:
        return f"FirstReads({len(self._under_way)} pairs)"

    def begin(self, pair: Pair, on_came: OnCame) -> PairReads | None:
        """Begin to read both objects.

        Returns:
            None where there is something to wait for, which `fetch_pair` does.
        """
        if max(pair.image.size, pair.label.size) > self._policy.max_object_bytes:
            return None
        reads = PairReads(pair, self._traffic, on_came, self._under_way.discard)
        if not reads.begin(self._begin_read):
            return None
        self._under_way.add(reads)
        return reads

    def cut_late(self) -> None:
        """End the reads that are over their deadline; to be called now and then."""
        oldest = self._traffic.clock.monotonic() - self._policy.deadline_s
        for reads in [one for one in self._under_way if one.began < oldest]:
            reads.cut_late(self._policy)


class PairReads:
    """One pair's first attempt, under way. Refers to nothing any more that refers to it once it has ended.

    Attributes:
        began: when, by the traffic's clock, seconds.
    """

    __slots__ = (
        "_cancel_image",
        "_cancel_label",
        "_image",
        "_label",
        "_on_came",
        "_on_end",
        "_open",
        "_openings",
        "_pair",
        "_traffic",
        "began",
    )

    def __init__(self, pair: Pair, traffic: Traffic, on_came: OnCame, on_end: Callable[[PairReads], None]) -> None:
        self.began = traffic.clock.monotonic()
        self._pair, self._traffic, self._openings = pair, traffic, traffic.openings
        self._on_came, self._on_end = on_came, on_end
        self._image: Begun = None
        self._label: Begun = None
        self._cancel_image: Callable[[], None] | None = None
        self._cancel_label: Callable[[], None] | None = None
        self._open = 2

    def begin(self, begin_read: BeginRead) -> bool:
        """Ask for both; False where not even the first can be asked for."""
        self._cancel_image = self._begin(begin_read, self._pair.image, self._image_ended)
        if self._cancel_image is None:
            return False
        try:
            self._cancel_label = self._begin(begin_read, self._pair.label, self._label_ended)
        except BaseException:
            self.cancel()
            raise
        if self._cancel_label is None:
            self._open -= 1  # `fetch_pair` asks for it, once the image is there
        return True

    def cancel(self) -> None:
        """End what is under way; nobody is told."""
        for cancel in (self._cancel_image, self._cancel_label):
            if cancel is not None:
                cancel()
                self._traffic.done()
        self._cancel_image = self._cancel_label = None
        self._on_end(self)

    def cut_late(self, policy: FetchPolicy) -> None:
        """End what is under way as too late."""
        if self._cancel_image is not None:
            self._cancel_image()
            self._image_ended(late(self._pair.image, policy))
        if self._cancel_label is not None:
            self._cancel_label()
            self._label_ended(late(self._pair.label, policy))

    def _begin(self, begin_read: BeginRead, info: ObjectInfo, on_end: OnEnd) -> Callable[[], None] | None:
        traffic = self._traffic
        if not traffic.turn_now():
            return None
        cancel = None
        try:
            cancel = begin_read(info.name, info.generation, info.size, on_end)
        finally:
            if cancel is None:
                traffic.done()
        if cancel is not None:
            traffic.sent()
        return cancel

    def _image_ended(self, came: bytes | SourceError) -> None:
        self._cancel_image = None
        self._image = self._judged(came, self._pair.image)
        self._one_ended(self._image)

    def _label_ended(self, came: bytes | SourceError) -> None:
        self._cancel_label = None
        self._label = self._judged(came, self._pair.label)
        self._one_ended(self._label)

    def _judged(self, came: bytes | SourceError, info: ObjectInfo) -> Begun:
        """What came of one, and what that says about the store."""
        traffic = self._traffic
        try:
            if isinstance(came, SourceError):
                raise came
            verify(came, info)
        except SourceError as error:
            if error.cause == REFUSED:
                return None  # with a fresh token it is asked for anew, as if nothing had been
            traffic.failed(error, self.began)
            return FirstFailure(error, self.began, self._openings)
        else:
            traffic.came(info)
            return came
        finally:
            traffic.done()

    def _one_ended(self, one: Begun) -> None:
        self._open -= 1
        if self._open and not (isinstance(one, FirstFailure) and one.error.final):
            return
        self.cancel()
        image, label = self._image, self._label
        if type(image) is type(label) is bytes and not (image.startswith(GZIP_MAGIC) or label.startswith(GZIP_MAGIC)):
            self._on_came(Fetched(image, label))
        else:
            self._on_came((image, label))

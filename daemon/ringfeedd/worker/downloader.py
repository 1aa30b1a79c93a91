"""The worker's downloads: begins those of the backlog as the store's window allows, and sizes that window."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Final

from ringfeedd.errors import BadPairError
from ringfeedd.fetch.client import StoreClient
from ringfeedd.fetch.health import StoreReport
from ringfeedd.fetch.policy import Fetched
from ringfeedd.fetch.starvation import StarvationTimer
from ringfeedd.storage import Source
from ringfeedd.system.histogram import FETCH_BOUNDS_S, Histogram
from ringfeedd.worker.backlog import Backlog, PendingPair
from ringfeedd.worker.heartbeat import CREDIT_WORD, FETCH_WORDS, UNDER_WAY_WORD, VITAL_WORDS, WINDOW_WORD
from ringfeedd.worker.protocol import Hello, PairJob, Tuning

SURPLUS: Final = 2
"""A worker that has so many times the pairs that it can soon ask for gives the rest back."""

HURRY_PAIRS: Final = 32
"""The pair that a ring waits for, and those that it will wait for next."""


class Downloader:
    """Brings the pairs of a backlog to hand."""

    def __init__(
        self,
        hello: Hello,
        source: Source,
        vitals: memoryview,
        backlog: Backlog,
        *,
        on_arrived: Callable[[PendingPair], None],
        on_failed: Callable[[PendingPair, BadPairError], None],
        make_client: Callable[..., StoreClient] = StoreClient,
    ) -> None:
        """Prepare; `pump` begins.

        Args:
            on_arrived: called with a pair whose bytes are there.
            on_failed: called with a pair that fails to load, and why.
            make_client: makes what requests are sent with.
        """
        self._rings = len(hello.rings)
        self._has_cache = hello.memory is not None or hello.disk is not None
        self._vitals, self._backlog = vitals, backlog
        self._on_arrived, self._on_failed = on_arrived, on_failed
        self._client = make_client(
            source,
            hello.tuning.policy,
            first=hello.tuning.concurrency,
            most=hello.tuning.most_concurrency,
            witness=hello.witness,
            feed=self._begin_next,
            fetched=Histogram(FETCH_BOUNDS_S, vitals, FETCH_WORDS),
        )
        self._starvation = StarvationTimer()
        self._arrived = 0
        self.pump = self._client.pump

    def report(self) -> StoreReport:
        """Return what is told of the store."""
        return self._client.report()

    def retune(self, tuning: Tuning) -> None:
        """Go on with other settings."""
        self._client.retune(tuning.policy, tuning.concurrency, tuning.most_concurrency)

    def cancel(self, pairs: Iterable[PendingPair]) -> None:
        """End the downloads of pairs that are no longer wanted; others begin in their place."""
        for pair in pairs:
            if pair.download is not None:
                pair.download.cancel()
                pair.download = None
        self.pump()

    def decoder_is_idle(self, now: float) -> None:
        """Take note that no pair is left to be decoded; `now` in monotonic seconds."""
        if self._backlog.waits_for_store:
            self._starvation.begin(now)

    def decoder_is_busy(self, now: float) -> None:
        """Take note that there is a pair to be decoded again; `now` in monotonic seconds."""
        self._starvation.end(now)

    def look(self, now: float) -> None:
        """Decide on the size of the window; to be called every half second or so."""
        self._client.window.look(now, pairs=self._arrived, starved_s=self._starvation.look(now))
        self._arrived = 0
        self.pump()

    def hurry(self) -> None:
        """Send second requests for the pairs that the rings wait for, if they are late; write how much is under way."""
        client, vitals = self._client, self._vitals
        for ring in range(self._rings):
            first = vitals[VITAL_WORDS + ring]
            for seq in range(first, first + HURRY_PAIRS):
                pair = self._backlog.get(ring, seq)
                if pair is not None and pair.download is not None:
                    client.hurry(pair.download, soon=seq > first)
        vitals[UNDER_WAY_WORD] = client.under_way
        vitals[WINDOW_WORD] = int(client.window.size)

    def limit_backlog(self) -> list[PendingPair]:
        """Write how many more pairs it takes, and return those that others are to have; they are to be cancelled.

        Where the store limits the rate, chance makes one worker slower than others: it is not to sit on pairs that the
        ring waits for while the others have nothing to do. What comes out of a cache does not count; but the pool does
        not know yet which pairs these are, so where all do for a while there is no limit.
        """
        most, backlog = self._client.pairs_ahead(), self._backlog
        if most is None or (self._has_cache and not backlog.missing and not self._client.is_refused):
            self._vitals[CREDIT_WORD] = 0
            return []
        back = backlog.give_back(most) if backlog.missing > SURPLUS * most else []
        self._vitals[CREDIT_WORD] = backlog.taken + max(0, most - backlog.missing)
        return back

    def _begin_next(self) -> bool:
        """Begin one more, if there is one."""
        pair = self._backlog.next_download()
        if pair is None:
            return False
        assert isinstance(pair.job, PairJob)
        pair.download = self._client.fetch(pair.job.pair, partial(self._ended, pair))
        return True

    def _ended(self, pair: PendingPair, came: Fetched | BadPairError) -> None:
        pair.download = None
        if isinstance(came, BadPairError):
            self._on_failed(pair, came)
            return
        self._arrived += 1
        pair.fetched = came
        self._on_arrived(pair)

"""One process's requests for objects: when each may go, whether it came whole, and what that says about the store.

The thin shell round `Circuit`, `RetryBudget`, `Ramp` and `Hedging`, which decide.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from typing import Any, Final

import msgspec

from ringfeedd.budget import RetryBudget
from ringfeedd.circuit import Circuit, CircuitState
from ringfeedd.hedging import Hedging
from ringfeedd.integrity import verify
from ringfeedd.race import race
from ringfeedd.ramp import Ramp
from ringfeedd.sources.backoff import SYSTEM_CLOCK, Clock
from ringfeedd.sources.base import ObjectInfo, Source, SourceError

PROBE_TIMEOUT_S: Final = 20.0
KNOWN_OBJECTS: Final = 8
"""Objects that were read lately, by which the store is probed in turn: one of them may be gone by then."""

DOUBT_AFTER_S: Final = 1.0
"""Without an answer to anybody, a worker whose retries are used up asks whether there is a store at all."""

RATE_LIMITED: Final = "http_429"


class TrafficReport(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What a worker tells of its requests; counts are since its start, times CLOCK_MONOTONIC seconds.

    Attributes:
        circuit: what it thinks of the store.
        failing_since: since when the store does not answer; None while it does.
        next_probe_at: when it is asked next; None while nobody asks.
        answered_at: when it last answered; None before that.
        cause: of the latest failure that looked like the store's; empty where there was none.
        requests: sent for objects, those of the next three included.
        probes: sent while the store was down or in doubt.
        hedges: second requests for an object that took unusually long.
        hedges_won: of these, the ones that came first.
    """

    circuit: CircuitState = CircuitState.CLOSED
    failing_since: float | None = None
    next_probe_at: float | None = None
    answered_at: float | None = None
    cause: str = ""
    outages: int = 0
    requests: int = 0
    probes: int = 0
    hedges: int = 0
    hedges_won: int = 0


class Traffic:
    """Reads objects from a source, within what the store can take.

    One for each source and process. `turn` waits for leave to send one request, `read` uses it, `done` gives it back.
    `FirstReads` asks the source itself as long as it is well: `turn_now`, `sent`, then `came` or `failed`, then `done`.
    """

    def __init__(
        self,
        source: Source,
        *,
        concurrency: int = 64,
        retry_budget: float = 0.5,
        requests_per_s: float = 0.0,
        hedge: bool = False,
        known: Iterable[ObjectInfo] = (),
        on_change: Callable[[], None] = lambda: None,
        clock: Clock = SYSTEM_CLOCK,
        rng: random.Random | None = None,
    ) -> None:
        """Begin with a store that is believed to answer.

        Args:
            concurrency: connections of the source.
            retry_budget: see `RetryBudget`.
            requests_per_s: at which the ramp begins, see `Ramp`; 0 for no limit.
            hedge: whether a read that takes unusually long is sent a second time.
            known: objects that somebody else could read; the store is only found to be down by a probe of one.
            on_change: called when the circuit changes.
        """
        self.clock, self.rng = clock, rng or random.Random()
        self._source, self._concurrency = source, concurrency
        self._circuit = Circuit(self.rng)
        self._budget = RetryBudget(retry_budget)
        self._ramp = Ramp(requests_per_s)
        self._hedging = Hedging() if hedge else None
        self._known: deque[ObjectInfo] = deque(known, maxlen=KNOWN_OBJECTS)
        self._on_change = on_change
        self._turns: deque[asyncio.Future[None]] = deque()
        self._in_flight = 0
        self._settled = asyncio.Event()
        self._retry_queue = asyncio.Lock()
        self._prober: asyncio.Task[None] | None = None
        self._cause = ""
        self._requests = self._probes = self._hedges = self._hedges_won = 0

    def __repr__(self) -> str:
        return f"Traffic({self._circuit!r}, {self._budget!r}, {self._in_flight} in flight, {len(self._turns)} wait)"

    def statistics(self) -> TrafficReport:
        """The numbers that status, metrics and tests read."""
        circuit = self._circuit.statistics()
        return TrafficReport(
            circuit.state,
            circuit.failing_since,
            circuit.next_probe_at,
            self._circuit.answered_at,
            self._cause,
            circuit.outages,
            self._requests,
            self._probes,
            self._hedges,
            self._hedges_won,
        )

    @property
    def openings(self) -> int:
        """How often the store went down so far; what failed while this number moved says nothing of an object."""
        return self._circuit.openings

    async def turn(self) -> None:
        """Wait for leave to send one request: the store is not down, and the ramp allows it. In the order of asking."""
        if self._turns or not self._circuit.may_begin(self._in_flight):
            turn = asyncio.get_running_loop().create_future()
            self._turns.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self.done()  # leave was given in the same moment
                raise
        else:
            self._in_flight += 1
        try:
            if wait_s := self._ramp.take(self.clock.monotonic()):
                await self.clock.sleep(wait_s)
        except BaseException:
            self.done()
            raise

    def turn_now(self) -> bool:
        """Take leave for a request as it is without trouble; False where there is something to wait for."""
        if self._hedging is not None or self._turns or self._circuit.state is not CircuitState.CLOSED:
            return False
        now = self.clock.monotonic()
        if not self._ramp.is_free(now):
            return False
        self._ramp.take(now)
        self._in_flight += 1
        return True

    def sent(self) -> None:
        """Take note of a request that somebody else has sent."""
        self._requests += 1

    def done(self) -> None:
        """The request that a turn gave leave to has ended, whatever came of it."""
        self._in_flight -= 1
        self._pump()

    async def read(self, info: ObjectInfo) -> bytes:
        """The verified bytes of one object, in one attempt. Raises: `SourceError`."""
        began = self.clock.monotonic()
        try:
            data = await (self._read(info) if self._hedging is None else self._read_hedged(info, self._hedging))
        except SourceError as error:
            self.failed(error, began)
            raise
        if self._hedging is not None:
            self._hedging.read(self.clock.monotonic() - began)
        self.came(info)
        return data

    def came(self, info: ObjectInfo) -> None:
        """Take note of an object that came whole."""
        self._budget.earn()
        self._known.append(info)
        self._answered(self.clock.monotonic())

    def failed(self, error: SourceError, began: float) -> None:
        """Take note of a request that failed."""
        now = self.clock.monotonic()
        if self._hedging is not None and error.cause == RATE_LIMITED:
            self._hedging.rate_limited(now)
        if not error.of_store:
            self._answered(now)
            return
        self._cause = error.cause
        if self._known:
            self._follow(lambda: self._circuit.failed(now, began=began, retry_after_s=error.retry_after_s))

    async def may_retry(self) -> None:
        """Wait until the budget has a retry left, or until it turns out that the store is down.

        Then it is the circuit that keeps requests back, and what failed because of the outage owes nothing afterwards.
        """
        openings = self._circuit.openings
        async with self._retry_queue:
            while not self._circuit.down and self._circuit.openings == openings:
                if self._circuit.state is CircuitState.DOUBTED:
                    await self._settled.wait()
                elif self._budget.spend(self.clock.monotonic()):
                    return
                elif self._circuit.answered_since(self.clock.monotonic() - DOUBT_AFTER_S) or not self._known:
                    await self.clock.sleep(self._budget.wait_s())
                else:
                    self._doubt()  # so many failures may well mean that nothing answers at all

    async def stands(self, since: float, openings: int) -> bool:
        """Whether a failure like the store's is the object's own: the store has answered somebody since.

        Where nobody knows, the store is asked, and this waits for what comes of it.

        Args:
            since: when it began to fail.
            openings: how often the store had gone down when the first attempt began.
        """
        circuit = self._circuit
        if circuit.openings == openings and not circuit.answered_since(since) and self._known:
            if circuit.down:
                return False
            self._doubt()
            while circuit.state is CircuitState.DOUBTED:
                await self._settled.wait()
        return circuit.openings == openings

    async def close(self) -> None:
        """Stop asking the store; the source is closed by its owner."""
        if self._prober is not None:
            self._prober.cancel()
            await asyncio.gather(self._prober, return_exceptions=True)

    # Requests.

    async def _read(self, info: ObjectInfo) -> bytes:
        self._requests += 1
        data = await self._source.read(info.name, info.generation, info.size)
        verify(data, info)
        return data

    async def _read_hedged(self, info: ObjectInfo, hedging: Hedging) -> bytes:
        if hedging.delay_s is None:
            return await self._read(info)
        hedged = False

        def hedge() -> Coroutine[Any, Any, bytes] | None:
            nonlocal hedged
            if not self._may_hedge(hedging):
                return None
            hedged = True
            self._hedges += 1
            self._in_flight += 1
            return self._read(info)

        try:
            data, hedge_won = await race(self._read(info), hedging.delay_s, hedge)
        finally:
            if hedged:
                self.done()
        self._hedges_won += hedge_won
        return data

    def _may_hedge(self, hedging: Hedging) -> bool:
        now = self.clock.monotonic()
        if self._circuit.state is not CircuitState.CLOSED:
            return False
        return hedging.allow(now, self._concurrency - self._in_flight) and not self._ramp.take(now)

    async def _probe(self) -> None:
        """Ask the store until it answers."""
        while (wait_s := self._circuit.probe_wait_s(self.clock.monotonic())) is not None:
            if wait_s:
                await self.clock.sleep(wait_s)
                continue  # it may have been put off meanwhile, or answered by a request that hung
            self._probes += 1
            self._known.rotate(1)
            cause, retry_after_s = None, None
            try:
                async with asyncio.timeout(PROBE_TIMEOUT_S):
                    await self._read(self._known[0])
            except TimeoutError:
                cause = "timeout"
            except SourceError as error:
                if error.of_store:
                    cause, retry_after_s = error.cause, error.retry_after_s
            except Exception:  # noqa: BLE001, S110  # a defect of ours must not pass for an outage; a pair will meet it
                pass
            now = self.clock.monotonic()
            if cause is None:
                self._answered(now)
            else:
                self._cause = cause
                self._follow(partial(self._circuit.probe_failed, now, retry_after_s))

    # The circuit.

    def _answered(self, now: float) -> None:
        if self._circuit.state is CircuitState.CLOSED:  # nearly always: keep it cheap
            self._circuit.answered(now)
        else:
            self._follow(lambda: self._circuit.answered(now))

    def _doubt(self) -> None:
        if self._known:
            self._follow(lambda: self._circuit.doubt(self.clock.monotonic()))

    def _follow(self, change: Callable[[], None]) -> None:
        """Make a change to the circuit, and do what follows from it."""
        before = self._circuit.statistics()
        change()
        after = self._circuit.statistics()
        if after == before:
            return
        if after.next_probe_at is not None and (self._prober is None or self._prober.done()):
            self._prober = asyncio.create_task(self._probe())
        self._settled.set()
        self._settled = asyncio.Event()
        self._on_change()
        self._pump()

    def _pump(self) -> None:
        """Give leave to as many as may go now."""
        while self._turns and self._circuit.may_begin(self._in_flight):
            turn = self._turns.popleft()
            if not turn.done():  # else its reader was cancelled
                self._in_flight += 1
                turn.set_result(None)
        if not self._turns and not self._in_flight and self._circuit.state is CircuitState.HALF_OPEN:
            self._follow(self._circuit.settle)

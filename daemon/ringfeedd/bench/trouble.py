"""Stores in trouble: answers that are late, a limit of the rate, faults, an outage. For `latency` and `faults`.

Each daemon has a store of its own: the package's fault server. Except for the eleven faults, what is measured waits for
the store and leaves the cores idle, so stragglers are measured side by side, and so are limits.
"""

from __future__ import annotations

import contextlib
import json
import math
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ringfeed.cli.status import ring_status
from ringfeedd.bench.contender import Task
from ringfeedd.bench.contenders import Ringfeed
from ringfeedd.bench.errors import BenchError
from ringfeedd.bench.results import FigureRow, Result, Spread
from ringfeedd.bench.session import Session
from ringfeedd.bench.store import HOST, free_port
from ringfeedd.bench.workload import Workload
from ringfeedd.demo.children import Child

START_TIMEOUT_S: Final = 30.0
ASK_TIMEOUT_S: Final = 30.0
LOOK_S: Final = 0.05
FOREVER_S: Final = 1e9
"""A trainer of these rows is never done: what it reads is measured from outside."""

BATCH_SIZE: Final = 32

LOGNORMAL_SIGMA: Final = 1.0
"""The fault server's. That is not imported: aiohttp, which it needs, would read SSL_CERT_FILE before `tls` sets it."""

LATE_S: Final = 0.3
UNDER_WAY: Final = 64
STRAGGLER_PART: Final = 0.01
STRAGGLER_TIMES: Final = 20
STRAGGLERS: Final[dict[str, tuple[tuple[str, ...], float]]] = {
    f"{1000 * LATE_S:.0f} ms, 1 % take {STRAGGLER_TIMES} times as long": (
        (f"latency+{LATE_S}", f"latency+{LATE_S * (STRAGGLER_TIMES - 1):g}:{STRAGGLER_PART}"),
        LATE_S,
    ),
    f"lognormal with a median of {1000 * LATE_S:.0f} ms": (
        (f"lognormal+{LATE_S}",),
        LATE_S * math.exp(LOGNORMAL_SIGMA**2 / 2),
    ),
}
"""What is shown -> the store's faults, and the mean time of an answer, in seconds; stragglers are not part of it."""

SLOTS: Final = (96, 512)
STRAGGLER_WARM_S: Final = 15.0
STRAGGLER_S: Final = 30.0

LIMITS_PER_S: Final = (50, 500)
LIMIT_LATENCY_MS: Final = 50
CONVERGED_S: Final = 60.0
LIMIT_S: Final = 30.0

ELEVEN: Final = (
    *("429", "500", "502", "503", "504", "408"),
    *("reset", "reset_body", "truncate", "chunked", "redirect"),
)
FAULT_PART: Final = 0.05
IN_A_ROW: Final = 3
FAULTS_WARM_S: Final = 5.0

OUTAGE_S: Final = 120.0
LAST_S: Final = 60.0
BACK_S: Final = 15.0
HEALTHY_S: Final = 20.0
OUTAGE_CONCURRENCY: Final = 16
OUTAGE_LATENCY_MS: Final = 100
"""About 80 pairs/s, which leave the cores idle: what is measured is the store's part."""


class TroubledStore:
    """The fault server as a process over one workload, on the same port whenever it is started.

    Attributes:
        url: where it answers, without a trailing slash.
    """

    def __init__(self, workload: Workload, log: Path, *arguments: str) -> None:
        """Start it, and wait until it answers.

        Raises:
            DemoError: it did not start.
        """
        folder = Path(workload.folder)
        port = free_port()
        self.url = f"http://{HOST}:{port}"
        self._log = log / "store.log"
        self._command = [sys.executable, "-m", "ringfeedd.fakegcs", str(folder.parent), "--port", str(port), *arguments]
        self.start()

    def start(self) -> None:
        """Start it on its port."""
        self._child = Child("the store (fakegcs)", self._command, log=self._log)
        try:
            self._child.wait_for_line("^fake GCS on", timeout_s=START_TIMEOUT_S)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End it: connections are refused."""
        self._child.stop()

    def limit(self) -> tuple[int, int]:
        """Return how many requests its limit has let through, and how many it has refused."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"{self.url}/_limit", timeout=ASK_TIMEOUT_S) as answer:
            found = json.loads(answer.read())
        return found["passed"], found["refused"]


@dataclass(frozen=True)
class Moment:
    """What was counted by a moment, since the daemon's start.

    Attributes:
        at: seconds, monotonic.
        pairs: that the trainer may have read.
        decoded: pairs.
        requests: that were sent for objects.
        failed: pairs that were given up.
    """

    at: float
    pairs: int
    decoded: int
    requests: int
    failed: int

    def rate_since(self, before: Moment) -> float:
        """Pairs a second."""
        return (self.pairs - before.pairs) / (self.at - before.at)


class Watched:
    """A daemon over a store in trouble, and the trainer that reads it."""

    def __init__(self, store: TroubledStore, ring: str, log: Path) -> None:
        self.store, self._ring, self._log = store, ring, log
        self._began = time.monotonic()

    def wait_for_reader(self) -> None:
        """Return when pairs are read. Raises: BenchError: that takes too long."""
        while not ring_status(self._ring).delivered_pairs:
            if time.monotonic() - self._began > START_TIMEOUT_S:
                raise BenchError(f"the trainer has read nothing from {self._ring} for {START_TIMEOUT_S:.0f} s")
            time.sleep(LOOK_S)

    def moment(self) -> Moment:
        """Return what it has counted by now."""
        status = ring_status(self._ring)
        return Moment(
            at=time.monotonic(),
            pairs=status.published,
            decoded=status.decoded_pairs,
            requests=status.store.requests,
            failed=status.failed_pairs,
        )

    def warnings_a_minute(self) -> float:
        """Return how many warnings it has logged, a minute."""
        lines = self._log.read_text().splitlines()
        return sum(line.startswith("WARNING") for line in lines) / (time.monotonic() - self._began) * 60


@contextlib.contextmanager
def watched(session: Session, workload: Workload, store: tuple[str, ...], serve: tuple[str, ...]) -> Iterator[Watched]:
    """Start a store with its arguments, a daemon with more flags, and a trainer that reads until the end."""
    log = Path(tempfile.mkdtemp(dir=session.log))
    contender = Ringfeed(serve=serve)
    with contextlib.ExitStack() as started:
        troubled = TroubledStore(workload, log, *store)
        started.callback(troubled.stop)
        task = Task(
            url=troubled.url,
            bucket=Path(workload.folder).name,
            folder=workload.folder,
            height=workload.height,
            width=workload.width,
            batch_size=min(BATCH_SIZE, len(workload.pairs)),
            seconds=FOREVER_S,
        )
        daemon = started.enter_context(contender.daemon(task, log, started))
        started.enter_context(contender.start_trainer(task, daemon, log))
        ring = Watched(troubled, f"{daemon.name}-train", log / "daemon.log")
        ring.wait_for_reader()
        yield ring


class Figures:
    """Rows whose values come round by round."""

    def __init__(self) -> None:
        self._values: dict[tuple[str, str, str], list[float]] = {}

    def add(self, name: str, unit: str, target: str, value: float) -> None:
        """Add a round's value to a row."""
        self._values.setdefault((name, unit, target), []).append(value)

    def rows(self) -> list[FigureRow]:
        """Return the rows, in the order in which they first came."""
        return [
            FigureRow(name, unit, Spread.of(values), target) for (name, unit, target), values in self._values.items()
        ]


def late_rows(session: Session, workload: Workload) -> list[FigureRow]:
    """Measure stores of which some answers take very long; then stores that limit the rate."""
    figures = Figures()
    for number in range(session.rounds):
        session.say(f"latency {number + 1}/{session.rounds}  stragglers, for {STRAGGLER_WARM_S + STRAGGLER_S:.0f} s")
        _add_stragglers(figures, session, workload)
        session.say(f"latency {number + 1}/{session.rounds}  limits, for {CONVERGED_S + LIMIT_S:.0f} s")
        _add_limits(figures, session, workload)
    return figures.rows()


def faults(session: Session) -> Result:
    """A store that fails in eleven ways at a time, and one that is down for two minutes."""
    workload = session.workload()
    figures = Figures()
    for number in range(session.rounds):
        for slots in SLOTS:
            session.say(f"faults {number + 1}/{session.rounds}  eleven faults, {slots} slots")
            _add_faults(figures, session, workload, slots)
        session.say(f"faults {number + 1}/{session.rounds}  an outage of {OUTAGE_S:.0f} s")
        _add_outage(figures, session, workload)
    what = (
        f"One trainer over the package's fault server, which shares the cores. Each of {', '.join(ELEVEN)} for "
        f"{100 * FAULT_PART:.0f} % of the requests, at most {IN_A_ROW} in a row for an object. For the outage the "
        f"server is ended, and started again; its answers take {OUTAGE_LATENCY_MS} ms, {OUTAGE_CONCURRENCY} at a time. "
        f"{workload}."
    )
    return Result("faults", what, figures=figures.rows())


def _add_stragglers(figures: Figures, session: Session, workload: Workload) -> None:
    """Compare with what Little's law allows; all side by side."""
    with contextlib.ExitStack() as started:
        rings = []
        for what, (store_faults, mean_s) in STRAGGLERS.items():
            for slots in SLOTS:
                store = tuple(word for fault in store_faults for word in ("--fault", fault))
                serve = ("--concurrency", str(UNDER_WAY), "--slots", str(slots))
                ring = started.enter_context(watched(session, workload, store, serve))
                rings.append((f"{what}, {slots} slots", ring, UNDER_WAY / mean_s / 2))
        time.sleep(STRAGGLER_WARM_S)
        before = [ring.moment() for _, ring, _ in rings]
        time.sleep(STRAGGLER_S)
        for then, (name, ring, allowed_per_s) in zip(before, rings, strict=True):
            part = ring.moment().rate_since(then) / allowed_per_s
            figures.add(f"{name}: pairs/s / what {UNDER_WAY} requests at a time can bring", "x", ">= 0.7", part)


def _add_limits(figures: Figures, session: Session, workload: Workload) -> None:
    """See how many answers are good, how much of a limit is used, and what is said; all side by side."""
    with contextlib.ExitStack() as started:
        rings = {}
        for per_s in LIMITS_PER_S:
            store = ("--reads-per-s", str(per_s), "--latency-ms", str(LIMIT_LATENCY_MS))
            rings[per_s] = started.enter_context(watched(session, workload, store, ()))
        time.sleep(CONVERGED_S)
        before = {per_s: (ring.moment(), *ring.store.limit()) for per_s, ring in rings.items()}
        time.sleep(LIMIT_S)
        for per_s, ring in rings.items():
            then, good, refused = before[per_s]
            good_now, refused_now = ring.store.limit()
            good, refused = good_now - good, refused_now - refused
            name = f"a limit of {per_s} requests/s"
            figures.add(f"{name}: part of the answers that are 200", "x", ">= 0.9", good / max(1, good + refused))
            figures.add(f"{name}: objects/s / limit", "x", ">= 0.9", 2 * ring.moment().rate_since(then) / per_s)
            figures.add(f"{name}: warnings", "a minute", "<= 2", ring.warnings_a_minute())


def _add_faults(figures: Figures, session: Session, workload: Workload, slots: int) -> None:
    """Compare with the same store without faults."""
    kinds = tuple(word for kind in ELEVEN for word in ("--fault", f"{kind}:{FAULT_PART}"))
    found = []
    for store in ((), (*kinds, "--faults-in-a-row", str(IN_A_ROW))):
        with watched(session, workload, store, ("--slots", str(slots))) as ring:
            time.sleep(FAULTS_WARM_S)
            before = ring.moment()
            time.sleep(session.seconds)
            found.append((before, ring.moment()))
    (well_before, well), (before, sick) = found
    name = f"eleven faults, {slots} slots"
    figures.add(
        f"{name}: pairs/s / without faults", "x", ">= 0.5", sick.rate_since(before) / well.rate_since(well_before)
    )
    objects = 2 * (sick.decoded - before.decoded)
    figures.add(f"{name}: requests / objects", "x", "<= 2", (sick.requests - before.requests) / objects)
    figures.add(f"{name}: lost", "pairs", "0", sick.failed)


def _add_outage(figures: Figures, session: Session, workload: Workload) -> None:
    """Compare an outage's last minute, and what comes soon after it, with what was before."""
    store = ("--latency-ms", str(OUTAGE_LATENCY_MS))
    with watched(session, workload, store, ("--concurrency", str(OUTAGE_CONCURRENCY))) as ring:
        time.sleep(HEALTHY_S / 2)
        before = ring.moment()
        time.sleep(HEALTHY_S)
        healthy = ring.moment()
        ring.store.stop()
        time.sleep(OUTAGE_S - LAST_S)
        asking = ring.moment()
        time.sleep(LAST_S)
        asked = ring.moment().requests - asking.requests
        ring.store.start()
        time.sleep(BACK_S)
        back = ring.moment()
        time.sleep(HEALTHY_S)
        now = ring.moment()
    usual = (healthy.requests - before.requests) / (healthy.at - before.at) * LAST_S
    name = f"an outage of {OUTAGE_S:.0f} s"
    figures.add(f"{name}: requests in its last {LAST_S:.0f} s / in as long before it", "%", "<= 5", 100 * asked / usual)
    recovered = now.rate_since(back) / healthy.rate_since(before)
    figures.add(f"{name}: pairs/s from {BACK_S:.0f} s after it / before it", "x", ">= 0.95", recovered)
    figures.add(f"{name}: lost", "pairs", "0", now.failed)

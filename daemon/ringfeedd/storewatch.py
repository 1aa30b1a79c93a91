"""What the workers together make of the store: whether it answers, since when not, and what was asked of it. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from ringfeedd.circuit import CircuitState
from ringfeedd.traffic import TrafficReport

_DOWN = (CircuitState.OPEN, CircuitState.HALF_OPEN)


@dataclass(frozen=True, slots=True)
class StoreHealth:
    """The store at one moment, as all workers see it; counts are since the start, times CLOCK_MONOTONIC seconds.

    Attributes:
        workers: that have reported.
        waiting_workers: of these, the ones that keep their pairs back because the store does not answer.
        failing_since: since when; None while all is well.
        next_probe_at: when the first of them asks again; None while nobody does.
        cause: of the latest failure among those that wait.
        outages: times that a worker found the store down.
        requests, probes, hedges, hedges_won: see `TrafficReport`.
    """

    workers: int = 0
    waiting_workers: int = 0
    failing_since: float | None = None
    next_probe_at: float | None = None
    cause: str = ""
    outages: int = 0
    requests: int = 0
    probes: int = 0
    hedges: int = 0
    hedges_won: int = 0


class StoreWatch:
    """Adds up what workers report, over their deaths."""

    def __init__(self) -> None:
        self._reports: dict[int, TrafficReport] = {}
        self._of_the_dead = TrafficReport()
        self._down_since: float | None = None

    def __repr__(self) -> str:
        health = self.statistics()
        return f"StoreWatch({health.waiting_workers}/{health.workers} workers wait, {health.requests} requests)"

    def hear(self, worker: int, report: TrafficReport) -> None:
        """A worker tells how it fares."""
        self._reports[worker] = report

    def forget(self, worker: int) -> None:
        """The worker of this number has ended; what it has counted stays."""
        if (last := self._reports.pop(worker, None)) is not None:
            self._of_the_dead = _sum(self._of_the_dead, last)

    def statistics(self) -> StoreHealth:
        """The numbers that status, metrics, the log and tests read."""
        total = self._of_the_dead
        for report in self._reports.values():
            total = _sum(total, report)
        waiting = [report for report in self._reports.values() if report.circuit in _DOWN]
        probes_at = [report.next_probe_at for report in waiting if report.next_probe_at is not None]
        since = [report.failing_since for report in waiting if report.failing_since is not None]
        return StoreHealth(
            workers=len(self._reports),
            waiting_workers=len(waiting),
            failing_since=min(since, default=None),
            next_probe_at=min(probes_at, default=None),
            cause=waiting[-1].cause if waiting else "",
            outages=total.outages,
            requests=total.requests,
            probes=total.probes,
            hedges=total.hedges,
            hedges_won=total.hedges_won,
        )

    def news(self, now: float) -> str | None:
        """A sentence for the log: once when the store stops answering, once when it answers again."""
        health = self.statistics()
        if health.waiting_workers and self._down_since is None:
            self._down_since = now if health.failing_since is None else health.failing_since
            return (
                f"the store has not answered for {now - self._down_since:.0f} s ({health.cause}); "
                f"{health.waiting_workers} of {health.workers} workers wait, next try "
                f"{_in(health.next_probe_at, now)}. No pair is lost: all go on by themselves when it is back"
            )
        if not health.waiting_workers and self._down_since is not None:
            # a worker that died, or is new, does not wait either: only an answer tells that the store is back
            answers = [report.answered_at for report in self._reports.values() if report.answered_at is not None]
            if (answered_at := max(answers, default=0.0)) > self._down_since:
                down_s = answered_at - self._down_since
                self._down_since = None
                return f"the store answers again, after {down_s:.0f} s"
        return None


def _in(moment: float | None, now: float) -> str:
    return "now" if moment is None or moment <= now else f"in {moment - now:.1f} s"


def _sum(total: TrafficReport, one: TrafficReport) -> TrafficReport:
    """The counts of both; what tells of a moment is left out."""
    return TrafficReport(
        outages=total.outages + one.outages,
        requests=total.requests + one.requests,
        probes=total.probes + one.probes,
        hedges=total.hedges + one.hedges,
        hedges_won=total.hedges_won + one.hedges_won,
    )

"""What the supervisor costs alone: the daemon with workers that answer at once, without a download or a decode."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ringfeedd.bench.contenders import Ringfeed
from ringfeedd.bench.results import FigureRow, Result, Spread, combine
from ringfeedd.bench.session import Session
from ringfeedd.bench.store import Store

WARM_PAIRS = 20_000
"""Pairs that cost nothing: more than a second of them."""


def supervisor(session: Session) -> Result:
    """As many pairs as it can dispatch and publish, to one trainer."""
    workload = session.workload()
    contender = Ringfeed("no-op workers", module="ringfeedd.bench.idle_daemon")
    rates, costs = [], []
    with Store(Path(workload.folder)) as store:
        task = replace(session.task(store, workload), warm_pairs=WARM_PAIRS)
        for number in range(session.rounds):
            rate = combine(contender.run(task, session.log))
            rates.append(rate.pairs_per_s)
            costs.append(1000 * rate.parts_ms["daemon"])
            said = f"{costs[-1]:.1f} us of CPU a pair at {rates[-1]:,.0f} pairs/s"
            session.say(f"supervisor {number + 1}/{session.rounds}  {said}")
    rows = [
        FigureRow("supervisor, for each pair", "us of CPU", Spread.of(costs), "<= 25 us"),
        FigureRow("pairs that it dispatched and published", "pairs/s", Spread.of(rates)),
    ]
    what = "Workers that answer every job at once, without download and decode; one trainer, batches of 32."
    return Result("supervisor", what, figures=rows)

"""How long until the first batch: the daemon's start, a trainer's start, and what an import costs."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Final

from ringfeedd.bench.contender import Task
from ringfeedd.bench.contenders import SLOTS, Ringfeed
from ringfeedd.bench.errors import BenchError
from ringfeedd.bench.handoff import wait_until_full
from ringfeedd.bench.results import FigureRow, Result, Spread
from ringfeedd.bench.session import Session
from ringfeedd.bench.store import Store
from ringfeedd.demo.children import Child

IMPORTS: Final = 5
TIMEOUT_S: Final = 60.0

_IMPORT: Final = """
import time, numpy
before = time.perf_counter()
import ringfeed
print(1000 * (time.perf_counter() - before))
"""


def start(session: Session) -> Result:
    """Start daemons and trainers, a few times each."""
    workload = session.workload()
    ready_s, attach_ms = [], []
    listed_s = []
    with (
        Store(Path(workload.folder)) as store,
        tempfile.TemporaryDirectory(prefix="ringfeed-bench-") as cache,
    ):
        task = session.task(store, workload)
        again = Ringfeed(serve=("--catalog", "cached", "--catalog-cache", cache))
        _ready_s(again, task, session.log)  # lists, and keeps the listing
        for number in range(session.rounds):
            listed_s.append(_ready_s(Ringfeed(), task, session.log))
            with contextlib.ExitStack() as started:
                began = time.monotonic()
                daemon = started.enter_context(again.daemon(task, session.log, started))
                ready_s.append(time.monotonic() - began)
                ring = f"{daemon.name}-train"
                wait_until_full(ring, SLOTS)
                mine = replace(task, settings={"ring": ring})
                command = [sys.executable, "-m", "ringfeedd.bench.first_batch", mine.as_argument()]
                trainer = started.enter_context(Child("the trainer", command, log=session.log / "start.log"))
                attach_ms.append(float(trainer.wait_for_line(r"^\d", timeout_s=TIMEOUT_S)))
            session.say(
                f"start {number + 1}/{session.rounds}  ready after {ready_s[-1]:.2f} s, with a listing "
                f"{listed_s[-1]:.2f} s; first batch after {attach_ms[-1]:.1f} ms"
            )
    _import_ms()  # compiles it
    import_ms = [_import_ms() for _ in range(IMPORTS)]
    rows = [
        FigureRow(
            f"daemon, from its start to the first published slots, {len(workload.pairs)} pairs, listing cached",
            "s",
            Spread.of(ready_s),
            "<= 1.5 s",
        ),
        FigureRow("the same with a listing", "s", Spread.of(listed_s), ""),
        FigureRow("trainer, from attach to its first batch on a full ring", "ms", Spread.of(attach_ms), "<= 20 ms"),
        FigureRow("import ringfeed, in addition to numpy", "ms", Spread.of(import_ms), "<= 60 ms"),
    ]
    return Result("start", "Wall-clock time.", figures=rows)


def _ready_s(daemon: Ringfeed, task: Task, log: Path) -> float:
    with contextlib.ExitStack() as started:
        began = time.monotonic()
        started.enter_context(daemon.daemon(task, log, started))
        return time.monotonic() - began


def _import_ms() -> float:
    ended = subprocess.run([sys.executable, "-c", _IMPORT], capture_output=True, text=True, check=False)
    if ended.returncode:
        raise BenchError(f"importing ringfeed failed: {ended.stderr.strip()}")
    return float(ended.stdout)

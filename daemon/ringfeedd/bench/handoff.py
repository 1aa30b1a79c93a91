"""What a trainer pays for a batch of a ring that is full: CPU by its own clock, and how often it is woken."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any, Final

import msgspec

from ringfeed.cli.status import ring_status
from ringfeed.shm.descriptor import read_descriptor
from ringfeedd.bench.contender import Task
from ringfeedd.bench.contenders import Ringfeed
from ringfeedd.bench.results import FigureRow, Result, Spread
from ringfeedd.bench.session import Session
from ringfeedd.bench.store import Store
from ringfeedd.demo.children import Child

SLOTS: Final = 1024
"""32 batches of 32 that lie there before the trainer comes."""

SMALL: Final = (64, 64)
FULL_TIMEOUT_S: Final = 60.0


class HandedOver(msgspec.Struct, frozen=True):
    """What `ringfeedd.bench.handoff_trainer` prints.

    Attributes:
        batch_bytes: image and label of one batch.
        ready_us: CPU of the trainer's thread for each batch that lay there, from asking for it to a tensor.
        waited_us: the same for each batch that it had to wait for.
        switches: voluntary context switches for each batch that it had to wait for.
    """

    batch_bytes: int
    ready_us: list[float]
    waited_us: list[float]
    switches: float


def handoff(session: Session) -> Result:
    """Large slots and small ones, through the plain reader and through the torch dataset."""
    workload = session.workload()
    rows: list[FigureRow] = []
    with Store(Path(workload.folder)) as store:
        ordinary = session.task(store, workload)
        small = replace(ordinary, height=SMALL[0], width=SMALL[1])
        for through, name in (("reader", "ringfeed.attach"), ("dataset", "RingDataset")):
            for task in (ordinary, small):
                runs = [_hand_over(session, task, through) for _ in range(session.rounds)]
                rows += _rows(f"{name}, {runs[0].batch_bytes / 1e6:.1f} MB a batch", runs)
                session.say(f"handoff  {rows[-3].name}: {rows[-3].value.median:.0f} us")
    what = (
        "CPU of the trainer's thread for one batch, from asking for it to a tensor over the ring (median of a run's "
        "batches; the spread is that of the runs). Of batches that are waited for it is the mean: many of them come "
        "together with the one before, and cost a tenth. Switches are voluntary context switches: how often the "
        "trainer slept and was woken."
    )
    return Result("handoff", what, figures=rows)


def _rows(what: str, runs: list[HandedOver]) -> list[FigureRow]:
    ready = Spread.of(Spread.of(run.ready_us).median for run in runs)
    waited = Spread.of(fmean(run.waited_us) for run in runs)
    switches = Spread.of(run.switches for run in runs)
    return [
        FigureRow(f"{what}: a batch that lies there", "us of CPU", ready, "<= 50 us, whatever its bytes"),
        FigureRow(f"{what}: a batch waited for", "us of CPU", waited),
        FigureRow(f"{what}: switches for a batch waited for", "", switches, "<= 2"),
    ]


def _hand_over(session: Session, task: Task, through: str) -> HandedOver:
    settings = {"through": through, "slots": SLOTS}
    line = on_a_full_ring(session, task, "ringfeedd.bench.handoff_trainer", settings, slots=SLOTS)
    return msgspec.json.decode(line, type=HandedOver)


def on_a_full_ring(
    session: Session,
    task: Task,
    module: str,
    settings: Mapping[str, Any],
    *,
    slots: int,
    timeout_s: float = FULL_TIMEOUT_S,
) -> str:
    """Start a daemon, let its ring become full, and run one trainer that prints what it found as a line of JSON.

    Args:
        module: the trainer's.
        settings: for it, besides the ring's name.
        timeout_s: for the trainer.

    Returns:
        The line.

    Raises:
        DemoError: the daemon or the trainer failed, or was too late.
        TimeoutError: the ring was not full within a minute.
    """
    contender = Ringfeed(serve=("--slots", str(slots)))
    with contextlib.ExitStack() as started:
        daemon = started.enter_context(contender.daemon(task, session.log, started))
        ring = f"{daemon.name}-train"
        wait_until_full(ring, slots)
        command = [sys.executable, "-m", module, replace(task, settings={**settings, "ring": ring}).as_argument()]
        log = session.log / f"{module.rpartition('.')[2]}.log"
        trainer = started.enter_context(Child("the trainer", command, log=log))
        return trainer.wait_for_line(r"^\{", timeout_s=timeout_s)


def wait_until_full(ring: str, slots: int) -> None:
    """Wait until every slot is published, or a whole epoch is: no more is fetched for a ring without readers.

    Raises:
        TimeoutError: it was not within a minute.
    """
    deadline = time.monotonic() + FULL_TIMEOUT_S
    full = min(slots, read_descriptor(ring).newest.epoch_length)
    while ring_status(ring).published < full:
        if time.monotonic() > deadline:
            raise TimeoutError(f"the ring {ring} was not full after {FULL_TIMEOUT_S:.0f} s")
        time.sleep(0.05)

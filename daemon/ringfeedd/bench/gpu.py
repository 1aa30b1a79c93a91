"""Batches into a GPU: what the way there costs a trainer, whether the ring keeps it fed, how long it waits."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec

from ringfeedd.bench.claims import Claim, Measure
from ringfeedd.bench.contender import Task
from ringfeedd.bench.contenders import RESULT_TIMEOUT_S, SLOTS, Contender, Ringfeed, Script
from ringfeedd.bench.gpu_figures import Copied, Waits
from ringfeedd.bench.handoff import on_a_full_ring
from ringfeedd.bench.results import FigureRow, Result, Spread
from ringfeedd.bench.session import Session
from ringfeedd.bench.store import Store
from ringfeedd.bench.throughput import NO_PEERS
from ringfeedd.demo.children import Child
from ringfeedd.demo.errors import DemoError

TRAINER: Final = "ringfeedd.bench.gpu_trainer"

COPIED_BATCHES: Final = 16
"""Held at the same time: 384 MB of 500x375, more than the caches of most processors."""

COPIED_SLOTS: Final = 2 * 32 * COPIED_BATCHES
PASSES: Final = 8

STEP_S: Final = 0.1
"""The length of a training step, where waits are measured: 320 pairs/s, which every loader delivers on cores enough."""

EPOCHS: Final = 3

MOST_WAIT_S: Final = 0.5
"""For a batch on the mean, where a loader cannot keep up with the steps: what takes longer is given up."""

COPY_ROWS: Final[dict[str, str]] = {
    "straight": "from the ring, `.to(device)`",
    "buffers": "from the ring by the trainer's own pinned buffer",
    "pinned": "from memory that is pinned already (the bound)",
}


@dataclass(frozen=True)
class Loaders:
    """What feeds the device.

    Attributes:
        left: Ringfeed without a device, for comparison.
        straight, buffers: Ringfeed, by each way.
        peers: PyTorch's DataLoader; none, or one.
    """

    left: Ringfeed
    straight: Ringfeed
    buffers: Ringfeed
    peers: Sequence[Script]

    @classmethod
    def of(cls, session: Session, device: str) -> Loaders:
        """Those that this session has."""
        settings = {"measure": "feeding", "device": device}
        return cls(
            Ringfeed("Ringfeed, batches left in the ring"),
            Ringfeed("Ringfeed, `.to(device)`", trainer=TRAINER, settings={**settings, "way": "straight"}),
            Ringfeed("Ringfeed, by a pinned buffer", trainer=TRAINER, settings={**settings, "way": "buffers"}),
            [] if session.peers is None else [data_loader(session.peers.folder, settings)],
        )

    def all(self) -> list[Contender]:
        """In the order of the rows."""
        return [self.left, self.straight, self.buffers, *self.peers]

    def claims(self) -> list[Claim]:
        """What is compared."""
        peers = [peer.name for peer in self.peers]
        return [
            Claim(self.straight.name, (self.left.name,), ">= 0.95"),
            Claim(self.buffers.name, (self.left.name,), ">= 0.95"),
            Claim(self.buffers.name, (self.straight.name,), "", Measure.CPU),
            Claim(self.straight.name, peers, ""),
            Claim(self.straight.name, peers, "", Measure.CPU),
        ]


def data_loader(folder: Path, settings: Mapping[str, Any]) -> Script:
    """PyTorch's DataLoader that feeds a device.

    It runs in our own environment: the torch of the other loaders' need not have CUDA, and the same one is fairer.
    """
    command = (sys.executable, str(folder / "torch_loader.py"))
    return Script("PyTorch DataLoader, pin_memory", command, {"codec": "pillow", **settings})


def gpu(session: Session) -> Result:
    """Measure where there is a GPU, else say what it takes."""
    if has_cuda():
        return measure(session, "cuda")
    note = (
        "Not measured: it needs an NVIDIA GPU and a torch that is built for CUDA, and here torch finds none. Where "
        "there is one, it shows what each way of a batch into the GPU's memory costs the trainer, whether the ring "
        "keeps the GPU fed, and how long the GPU waits at an epoch's beginning."
    )
    return Result("gpu", "Batches of the ring into a GPU's memory.", notes=[note])


def has_cuda() -> bool:
    """Whether this environment's torch can use a GPU."""
    try:
        import torch  # noqa: PLC0415  # takes seconds, and no other command of the benchmark needs it in this process
    except ImportError:
        return False
    return torch.cuda.is_available()


def measure(session: Session, device: str, *, step_s: float = STEP_S) -> Result:
    """All of it.

    Args:
        device: of `ringfeedd.bench.device.DEVICES`.
        step_s: how long the training steps last between which waits are measured.
    """
    workload = session.workload()
    loaders = Loaders.of(session, device)
    with Store(Path(workload.folder)) as store:
        task = session.task(store, workload)
        copied = [_copied(session, task, device, number) for number in range(session.rounds)]
        entrants = [(contender, task) for contender in loaders.all()]
        fed = session.rates("gpu", "", entrants, claims=loaders.claims(), check=True)
        waits, notes = _waits(session, task, device, step_s)
    what = (
        f"Batches of {task.batch_size} ({copied[0].batch_bytes / 1e6:.1f} MB) into the memory of {copied[0].device}. "
        "Rates are of trainers that reduce each batch there and wait for it one batch later. Waits are those between "
        f"steps of {1000 * step_s:.0f} ms: from the end of one until the next batch is in that memory. {workload}."
    )
    notes = [*fed.notes, *notes, *([] if session.peers else [NO_PEERS])]
    return Result("gpu", what, fed.rates, [*copy_rows(copied), *fed.figures, *waits], notes)


def _copied(session: Session, task: Task, device: str, number: int) -> Copied:
    settings = {"measure": "copies", "device": device, "batches": COPIED_BATCHES, "passes": PASSES}
    line = on_a_full_ring(session, task, TRAINER, settings, slots=COPIED_SLOTS, timeout_s=RESULT_TIMEOUT_S)
    copied = msgspec.json.decode(line, type=Copied)
    said = (f"{way} {Spread.of(values).median:.2f} ms" for way, values in copied.wall_ms.items())
    session.say(f"gpu {number + 1}/{session.rounds}  a batch's copy: {', '.join(said)}")
    return copied


def copy_rows(runs: Sequence[Copied]) -> list[FigureRow]:
    """Three rows for each way; their values are the medians of the runs."""
    rows = []
    for way, name in COPY_ROWS.items():
        wall_ms = [Spread.of(run.wall_ms[way]).median for run in runs]
        rates = [run.batch_bytes / 1e6 / ms for run, ms in zip(runs, wall_ms, strict=True)]
        cpu_us = [Spread.of(run.cpu_us[way]).median for run in runs]
        rows += [
            FigureRow(f"one batch {name}", "ms", Spread.of(wall_ms)),
            FigureRow(f"one batch {name}: its rate", "GB/s", Spread.of(rates)),
            FigureRow(f"one batch {name}: CPU of the trainer's thread", "us", Spread.of(cpu_us)),
        ]
    return rows


def _waits(session: Session, task: Task, device: str, step_s: float) -> tuple[list[FigureRow], list[str]]:
    """The rows, and notes about loaders that did not run."""
    settings = {"measure": "waits", "device": device, "way": "straight", "epochs": EPOCHS, "step_s": step_s}
    batches = (1 + EPOCHS) * len(task.entries()) / task.batch_size
    timeout_s = RESULT_TIMEOUT_S + batches * (step_s + MOST_WAIT_S)
    loaders: dict[str, Callable[[], str]] = {
        "Ringfeed": lambda: on_a_full_ring(session, task, TRAINER, settings, slots=SLOTS, timeout_s=timeout_s)
    }
    if session.peers is not None:
        for persistent in (False, True):
            script = data_loader(session.peers.folder, {**settings, "persistent": persistent})
            name = f"PyTorch DataLoader, persistent_workers={persistent}"
            loaders[name] = partial(_line_of, script, task, session.log, timeout_s)
    runs: dict[str, list[Waits]] = {name: [] for name in loaders}
    notes: dict[str, str] = {}
    for number in range(session.rounds):
        for name, run in loaders.items():
            if name in notes:
                continue
            try:
                waits = msgspec.json.decode(run(), type=Waits)
            except DemoError as error:
                notes[name] = f"{name} did not show its waits: {str(error).splitlines()[0]}"
                session.say(f"{name} did not show its waits: {error}")
                continue
            runs[name].append(waits)
            first_ms = Spread.of(waits.first_ms).median
            session.say(f"gpu {number + 1}/{session.rounds}  {name}: {first_ms:.1f} ms for an epoch's first batch")
    return wait_rows(runs), list(notes.values())


def _line_of(script: Script, task: Task, log: Path, timeout_s: float) -> str:
    """What a script reports that does not deliver to be counted."""
    command = [*script.command, replace(task, settings=dict(script.settings)).as_argument()]
    with Child(script.name, command, log=log / "data-loader.log") as child:
        return child.wait_for_line(r"^\{", timeout_s=timeout_s)


def wait_rows(runs: Mapping[str, Sequence[Waits]]) -> list[FigureRow]:
    """Two rows for each loader that ran; their values are the medians of the runs."""
    rows = []
    for name, found in runs.items():
        for which, values in (
            ("an epoch's first batch", [one.first_ms for one in found]),
            ("any other batch", [one.other_ms for one in found]),
        ):
            medians = [Spread.of(of_run).median for of_run in values if of_run]  # an epoch may be one batch
            if medians:
                rows.append(FigureRow(f"the GPU waits for {which}: {name}", "ms", Spread.of(medians)))
    return rows

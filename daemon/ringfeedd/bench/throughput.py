"""The commands that end in pairs a second: solo, floor, fanout, ranks, workers, latency, large."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import msgspec

from ringfeedd.bench.claims import Claim, Measure
from ringfeedd.bench.contenders import BEST_PEERS, CACHED_PEERS, PEERS, Contender, Ringfeed, counted, floor
from ringfeedd.bench.results import Result
from ringfeedd.bench.session import Entrant, Session
from ringfeedd.bench.store import Store
from ringfeedd.bench.trouble import late_rows
from ringfeedd.bench.workload import LARGE, make_workload

NO_PEERS: Final = "The other loaders were not run: scripts/bench makes their environment, `ringfeed bench` does not."

DELAYS_MS: Final = (0.0, 25.0, 100.0, 250.0)
LATENCY_WARM_PAIRS: Final = 1536
"""Some seconds: by then a worker has found out how many downloads at a time the store's distance wants."""

LARGE_PAIRS: Final = 96
LARGE_SIZE: Final = 224
LARGE_WARM_PAIRS: Final = 320
"""A ring and what is read ahead; less than for the others, since these pairs are slow."""

WORKERS: Final = (1, 2, 4, 8, 12, 14)
"""And as many as there are cores: with 16 of them 7 numbers, 14 contenders, less than 10 minutes for three rounds."""

WORKERS_SLOTS: Final = 512
"""As many as a daemon takes by itself where memory is plenty: what is measured is its workers, not a ring's end."""

WORKERS_WARM_PAIRS: Final = 1536
"""A ring, and the most that is read ahead beyond it."""

OURS: Final = Ringfeed()
OURS_PILLOW: Final = Ringfeed("Ringfeed, Pillow only", without_fast=True)


def solo(session: Session) -> Result:
    """One trainer, and all processes that feed it."""
    least_work = floor(session.python)
    contenders: list[Contender] = [OURS, OURS_PILLOW, least_work]
    if session.peers:
        contenders += [session.peers.get(name) for name in PEERS if name not in CACHED_PEERS]
    claims = [
        Claim(OURS.name, BEST_PEERS, ">= 1.7"),
        Claim(OURS.name, BEST_PEERS, "<= 1/1.7", Measure.CPU),
        Claim(OURS.name, (least_work.name,), ">= 0.8"),
        Claim(OURS.name, (least_work.name,), "<= 1/0.8", Measure.CPU),
        Claim(OURS_PILLOW.name, ("SPDL, Pillow",), ">= 1.5"),
        Claim(OURS_PILLOW.name, ("SPDL, Pillow",), "<= 1/1.5", Measure.CPU),
    ]
    result = _alike(session, "solo", contenders, "One trainer, batches of 32.", claims, check=True)
    return result if session.peers else _with_notes(result, NO_PEERS)


def least(session: Session) -> Result:
    """The floor and Ringfeed alone."""
    least_work = floor(session.python)
    claims = [
        Claim(OURS.name, (least_work.name,), ">= 0.8"),
        Claim(OURS.name, (least_work.name,), "<= 1/0.8", Measure.CPU),
    ]
    return _alike(session, "floor", [OURS, least_work], "One trainer, batches of 32.", claims, check=True)


def fanout(session: Session) -> Result:
    """Several trainers that each want every pair."""
    one, *more = (Ringfeed(f"Ringfeed, {counted(groups, 'group')}", groups=groups) for groups in (1, 2, 4))
    four = more[-1]
    least_work = floor(session.python, consumers=4)
    copies = []
    if session.peers:
        peers = session.peers
        copies = [replace(peers.get(name, copies=4), name=f"{name}, 4 copies") for name in BEST_PEERS]
    claims = [Claim(some.name, (one.name,), ">= 0.95", share=some.groups) for some in more]
    claims += [
        Claim(four.name, (one.name,), "<= 0.3", Measure.CPU),
        Claim(four.name, (least_work.name,), ""),
        Claim(four.name, [copy.name for copy in copies], ""),
    ]
    what = "Trainers that each want every pair; pairs/s are delivered to all together."
    return _alike(session, "fanout", [one, *more, least_work, *copies], what, claims)


def ranks(session: Session) -> Result:
    """Two ranks that share a pass."""
    one, two = Ringfeed("Ringfeed, 1 rank"), Ringfeed("Ringfeed, 2 ranks", ranks=2)
    claims = [Claim(two.name, (one.name,), ">= 0.95")]
    return _alike(session, "ranks", [one, two], "The ranks of one group; pairs/s of all together.", claims)


def workers(session: Session) -> Result:
    """From one worker process to one for each core, compared with the least work in as many processes."""
    cores = len(os.sched_getaffinity(0))
    numbers = worker_numbers(cores)
    serve = ("--slots", str(WORKERS_SLOTS), "--workers")
    ours = [Ringfeed(f"Ringfeed, {counted(number, 'worker')}", serve=(*serve, str(number))) for number in numbers]
    least_work = [floor(session.python, workers=number) for number in numbers]
    claims = [
        Claim(contenders[place].name, (contenders[0].name,), target, share=numbers[place])
        for contenders, target in ((ours, ">= 0.85"), (least_work, ""))
        for place in range(1, len(numbers))
    ]
    what = (
        f"One trainer, worker processes from 1 up; {cores} cores, of which the store's server and the trainer want a "
        "share: what the least work gains is what the machine gives."
    )
    return _alike(session, "workers", [*ours, *least_work], what, claims, warm_pairs=WORKERS_WARM_PAIRS)


def worker_numbers(cores: int) -> list[int]:
    """The numbers of worker processes that are measured: from one to one for each core, and two in any case."""
    return sorted({number for number in (*WORKERS, cores) if number <= max(2, cores)})


def latency(session: Session) -> Result:
    """The store answers late, now and then very late, or limits the rate."""
    workload = session.workload()
    entrants: list[Entrant] = []
    claims = []
    with contextlib.ExitStack() as started:
        for delay_ms in DELAYS_MS:
            store = started.enter_context(Store(Path(workload.folder), delay_ms=delay_ms))
            contender = Ringfeed(f"Ringfeed, {delay_ms:.0f} ms")
            entrants.append((contender, replace(session.task(store, workload), warm_pairs=LATENCY_WARM_PAIRS)))
            if delay_ms:
                claims.append(Claim(contender.name, (entrants[0][0].name,), ">= 0.95"))
        what = f"Time added to every GET by the store; the listing is not delayed. {workload}."
        result = session.rates("latency", what, entrants, claims=claims)
    return msgspec.structs.replace(result, figures=[*result.figures, *late_rows(session, workload)])


def large(session: Session) -> Result:
    """Photographs that have to be scaled down."""
    workload = make_workload(session.data, LARGE, pairs=LARGE_PAIRS)
    with Store(Path(workload.folder)) as store:
        task = replace(session.task(store, workload), height=LARGE_SIZE, width=LARGE_SIZE, warm_pairs=LARGE_WARM_PAIRS)
        entrants: list[Entrant] = [(replace(OURS, serve=("--slots", "128")), task)]
        claims = []
        if session.peers:
            peer = session.peers.get("PyTorch DataLoader")
            full = replace(peer, name=f"{peer.name}, full decode", settings={**peer.settings, "resize": True})
            entrants.append((full, task))
            claims = [
                Claim(OURS.name, (full.name,), ">= 2.5"),
                Claim(OURS.name, (full.name,), "<= 1/2.5", Measure.CPU),
            ]
        what = f"{workload}; delivered as {LARGE_SIZE}x{LARGE_SIZE}. The peer decodes at full size and scales (Pillow)."
        result = session.rates("large", what, entrants, claims=claims)
    return result if session.peers else _with_notes(result, NO_PEERS)


def _alike(
    session: Session,
    command: str,
    contenders: Sequence[Contender],
    what: str,
    claims: Sequence[Claim],
    *,
    check: bool = False,
    warm_pairs: int | None = None,
) -> Result:
    """All contenders with the same task; ``warm_pairs``: other than a task's own."""
    workload = session.workload()
    with Store(Path(workload.folder)) as store:
        task = session.task(store, workload)
        if warm_pairs is not None:
            task = replace(task, warm_pairs=warm_pairs)
        entrants = [(contender, task) for contender in contenders]
        return session.rates(command, f"{what} {workload}.", entrants, claims=claims, check=check)


def _with_notes(result: Result, *notes: str) -> Result:
    return msgspec.structs.replace(result, notes=[*result.notes, *notes])

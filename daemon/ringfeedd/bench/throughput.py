"""The commands that end in pairs a second: solo, floor, latency, fanout, ranks, workers, large."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Final

from ringfeedd.bench.contenders import BEST_PEERS, PEERS, Contender, Ringfeed, floor
from ringfeedd.bench.results import Result
from ringfeedd.bench.session import Session
from ringfeedd.bench.store import Store
from ringfeedd.bench.workload import LARGE, make_workload

NO_PEERS: Final = "The other loaders were not run: scripts/bench makes their environment, `ringfeed bench` does not."

DELAYS_MS: Final = (25.0, 100.0)
WIDE: Final = ("--concurrency", "512")
"""Enough downloads at a time for 100 ms: a rate of 1000 pairs/s has 200 of them under way at any moment."""

LARGE_PAIRS: Final = 96
LARGE_SIZE: Final = 224


def solo(session: Session) -> Result:
    """One trainer, and everybody who feeds it."""
    contenders: list[Contender] = [
        Ringfeed(),
        Ringfeed("Ringfeed, Pillow only", without_fast=True),
        floor(session.python),
    ]
    if session.peers:
        contenders += [session.peers.get(name) for name in PEERS]
    result = _alike(session, "solo", contenders, "One trainer, batches of 32.", check=True)
    return result if session.peers else _with_notes(result, NO_PEERS)


def least(session: Session) -> Result:
    """The floor and Ringfeed alone."""
    return _alike(session, "floor", [Ringfeed(), floor(session.python)], "One trainer, batches of 32.", check=True)


def fanout(session: Session) -> Result:
    """Several trainers that each want every pair."""
    contenders: list[Contender] = [Ringfeed("Ringfeed, 1 group")]
    contenders += [Ringfeed(f"Ringfeed, {groups} groups", groups=groups) for groups in (2, 4)]
    contenders += [floor(session.python, consumers=4)]
    if session.peers:
        peers = session.peers
        contenders += [replace(peers.get(name, copies=4), name=f"{name}, 4 copies") for name in BEST_PEERS]
    return _alike(
        session, "fanout", contenders, "Trainers that each want every pair; pairs/s are delivered to all together."
    )


def ranks(session: Session) -> Result:
    """Two ranks that share a pass."""
    contenders = [Ringfeed("Ringfeed, 1 rank"), Ringfeed("Ringfeed, 2 ranks", ranks=2)]
    return _alike(session, "ranks", contenders, "The ranks of one group; pairs/s of all together.")


def workers(session: Session) -> Result:
    """From one worker process to one for each core."""
    cores = os.cpu_count() or 1
    numbers = [n for n in (1, 2, 4, 6, 8, 10, 12, 14, 16, 24, 32) if n <= max(2, cores)]
    contenders = [Ringfeed(f"Ringfeed, {number} workers", serve=("--workers", str(number))) for number in numbers]
    return _alike(session, "workers", contenders, f"One trainer, worker processes from 1 up; {cores} cores.")


def latency(session: Session) -> Result:
    """The store answers late."""
    workload = session.workload()
    with Store(Path(workload.folder)) as at_once, Store(Path(workload.folder), delay_ms=DELAYS_MS[0]) as late:
        with Store(Path(workload.folder), delay_ms=DELAYS_MS[1]) as later:
            stores = {"0 ms": at_once, f"{DELAYS_MS[0]:.0f} ms": late, f"{DELAYS_MS[1]:.0f} ms": later}
            entrants = [
                (Ringfeed(f"Ringfeed, {delay}{said}", serve=serve), session.task(store, workload))
                for said, serve in (("", ()), (f", {' '.join(WIDE)}", WIDE))
                for delay, store in stores.items()
            ]
            return session.rates("latency", "Added to every GET by the store; the listing is not delayed.", entrants)


def large(session: Session) -> Result:
    """Photographs that have to be scaled down."""
    workload = make_workload(session.data, LARGE, pairs=LARGE_PAIRS)
    with Store(Path(workload.folder)) as store:
        task = replace(session.task(store, workload), height=LARGE_SIZE, width=LARGE_SIZE, warm_pairs=384)
        entrants: list[tuple[Contender, object]] = [(Ringfeed(), task)]
        if session.peers:
            peer = session.peers.get("PyTorch DataLoader")
            full = replace(peer, name="PyTorch DataLoader, full decode", settings={**peer.settings, "resize": True})
            entrants.append((full, task))
        what = f"{workload}; delivered as {LARGE_SIZE}x{LARGE_SIZE}. The peer decodes at full size and scales (Pillow)."
        result = session.rates("large", what, entrants)  # type: ignore[arg-type]
    return result if session.peers else _with_notes(result, NO_PEERS)


def _alike(session: Session, command: str, contenders: list[Contender], what: str, *, check: bool = False) -> Result:
    """All contenders with the same task."""
    workload = session.workload()
    with Store(Path(workload.folder)) as store:
        task = session.task(store, workload)
        return session.rates(command, f"{what} {workload}.", [(one, task) for one in contenders], check=check)


def _with_notes(result: Result, *notes: str) -> Result:
    return Result(result.command, result.what, result.rates, result.figures, [*result.notes, *notes])

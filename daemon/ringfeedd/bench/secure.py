"""The command `tls`: the same store behind TLS, as real buckets are."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Final

import msgspec

from ringfeedd.bench.authority import own_authority
from ringfeedd.bench.claims import Claim, Measure
from ringfeedd.bench.contenders import CACHED_PEERS, PEERS, Contender, Ringfeed, floor
from ringfeedd.bench.results import FigureRow, Result, Spread
from ringfeedd.bench.session import Entrant, Session
from ringfeedd.bench.store import Store
from ringfeedd.bench.transports import HTTP2, WAYS, measure, one_object

OURS: Final = Ringfeed("Ringfeed, TLS")
OURS_AIOHTTP: Final = Ringfeed("Ringfeed with aiohttp, TLS", serve=("--transport", "gcloud"))
OURS_PLAIN: Final = Ringfeed("Ringfeed, without TLS")


def tls(session: Session) -> Result:
    """All loaders over TLS, and what a GET costs by each transport."""
    workload = session.workload()
    least_work = replace(floor(session.python), name="least work, TLS")
    secure: list[Contender] = [OURS, OURS_AIOHTTP, least_work]
    if session.peers:
        downloading = [name for name in PEERS if name not in CACHED_PEERS]
        secure += [replace(session.peers.get(name), name=f"{name}, TLS") for name in downloading]
    peers = [contender.name for contender in secure[3:]]
    claims = [
        Claim(OURS.name, (least_work.name,), ">= 0.8"),
        Claim(OURS.name, (least_work.name,), "<= 1/0.8", Measure.CPU),
        Claim(OURS.name, peers, ">= 1"),
        Claim(OURS.name, (OURS_AIOHTTP.name,), ""),
        Claim(OURS.name, (OURS_PLAIN.name,), ""),
    ]
    with tempfile.TemporaryDirectory(prefix="ringfeed-bench-tls-") as made:
        folder = Path(made)
        folder.chmod(0o755)
        with (
            own_authority(folder),
            Store(Path(workload.folder)) as plain,
            Store(Path(workload.folder), tls=folder) as store,
        ):
            task = session.task(store, workload)
            entrants: list[Entrant] = [(OURS_PLAIN, session.task(plain, workload)), *((one, task) for one in secure)]
            result = session.rates("tls", f"One trainer, batches of 32. {workload}.", entrants, claims=claims)
            gets = _gets(folder, session.rounds)
    return msgspec.structs.replace(result, figures=[*result.figures, *gets])


def _gets(folder: Path, rounds: int) -> list[FigureRow]:
    """CPU for one GET by each transport."""
    with tempfile.TemporaryDirectory(prefix="ringfeed-bench-tls-") as made:
        root = Path(made)
        one_object(root)
        with Store(root) as plain, Store(root, tls=folder, http2=True) as store:
            found = measure({"HTTPS": store.url}, list(WAYS), rounds)
            found |= measure({"HTTP": plain.url}, [way for way in WAYS if way != HTTP2], rounds)
    return [
        FigureRow(f"a GET of 70 kB, {name}", "us of CPU", Spread.of(figures), "") for name, figures in found.items()
    ]

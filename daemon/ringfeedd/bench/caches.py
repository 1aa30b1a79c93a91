"""What pairs cost that are kept from one epoch to the next, decoded in memory or encoded on disk."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Final

import msgspec

from ringfeedd.bench.claims import Claim, Measure
from ringfeedd.bench.contenders import CACHED_PEERS, Contender, Ringfeed, floor
from ringfeedd.bench.results import Result
from ringfeedd.bench.session import Session
from ringfeedd.bench.store import Store

SLOTS: Final = 512
"""Of a ring: what a daemon takes by itself for these pairs, and as many as the least work has."""

SMALL_SLOTS: Final = 256
"""The other benchmarks' rings."""

IN_MEMORY: Final = ("--cache-memory", "auto")

WARM_EPOCHS: Final = 2
"""The first fills the tiers; what is read ahead is left behind by the end of the second."""

SLOT_BYTES: Final = 4
"""For each pixel: an RGB image and class ids."""


def cache(session: Session) -> Result:
    """Full and half tiers, to one trainer and to four, compared with no cache and with the least work."""
    workload = session.workload()
    pairs = len(workload.pairs)
    half = (workload.height * workload.width * SLOT_BYTES + 128) * pairs // 2
    with Store(Path(workload.folder)) as store, tempfile.TemporaryDirectory(prefix="ringfeed-bench-") as folder:
        task = replace(session.task(store, workload), warm_pairs=WARM_EPOCHS * pairs)
        plain, plain_four = _ringfeed("no cache"), _ringfeed("no cache, 4 groups", groups=4)
        full, four = _ringfeed("memory, full", *IN_MEMORY), _ringfeed("memory, full, 4 groups", *IN_MEMORY, groups=4)
        small = Ringfeed(f"memory, full, {SMALL_SLOTS} slots", serve=("--slots", str(SMALL_SLOTS), *IN_MEMORY))
        some = _ringfeed("memory, half of the set", "--cache-memory", f"{half} B")
        disk = _ringfeed("disk, full", "--cache-disk", folder, "--cache-disk-size", "100 GiB")
        least, kept = floor(session.python), floor(session.python, cache=True)
        kept_four = floor(session.python, cache=True, consumers=4)
        contenders: list[Contender] = [plain, full, small, some, disk, least, kept, plain_four, four, kept_four]
        claims = [
            Claim(full.name, (plain.name,), ">= 6"),
            Claim(full.name, (kept.name,), ">= 0.7"),
            Claim(small.name, (kept.name,), ""),
            Claim(four.name, (plain_four.name,), ">= 5"),
            Claim(some.name, (plain.name,), ""),
            Claim(some.name, (full.name, plain.name), "0.85 to 1.15", mixed=True),
            Claim(disk.name, (plain.name,), ""),
            Claim(disk.name, (least.name,), "<= 1.15", Measure.CPU),
        ]
        if session.peers:
            contenders += [session.peers.get(name) for name in CACHED_PEERS]
            claims += [Claim(full.name, CACHED_PEERS, ""), Claim(disk.name, CACHED_PEERS[1:], "")]
        what = f"One trainer or four, batches of 32, from the third epoch on. {workload}."
        result = session.rates("cache", what, [(one, task) for one in contenders], claims=claims)
    if session.peers:
        return result
    note = "The other loaders were not run: scripts/bench makes their environment, `ringfeed bench` does not."
    return msgspec.structs.replace(result, notes=[*result.notes, note])


def _ringfeed(name: str, *serve: str, groups: int = 1) -> Ringfeed:
    return Ringfeed(name, serve=("--slots", str(SLOTS), *serve), groups=groups)

"""A catalog of a million pairs: how long until it is known, and what it takes in memory."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from ringfeedd.bench.contender import Task
from ringfeedd.bench.contenders import Ringfeed
from ringfeedd.bench.listing_pages import Listed, write_listing
from ringfeedd.bench.meter import descendants_of, private_megabytes
from ringfeedd.bench.results import FigureRow, Result, Spread
from ringfeedd.bench.session import Session
from ringfeedd.bench.store import BUCKET, Store
from ringfeedd.bench.workload import Entry, Workload

PAIRS: Final = 1_000_000
LISTING_TIMEOUT_S: Final = 300.0
SETTLE_S: Final = 3.0
"""Seconds of decoding before memory is looked at: what only grows with use shall have grown."""


def catalog(session: Session, pairs: int = PAIRS) -> Result:
    """Start a daemon on it twice: the second start begins with the listing that the first one kept."""
    folder = million_folder(session.data, session.workload(), pairs)
    with Store(folder, one_pair=True) as store, tempfile.TemporaryDirectory(prefix="ringfeed-bench-") as cache:
        ordinary = session.workload()
        task = Task(url=store.url, bucket=BUCKET, folder=str(folder), height=ordinary.height, width=ordinary.width)
        first_s, first_mb = _start(session, task, cache)
        session.say(f"catalog  first start {first_s:.1f} s, {first_mb:.0f} MB")
        second_s, second_mb = _start(session, task, cache)
        session.say(f"catalog  second start {second_s:.1f} s, {second_mb:.0f} MB")
    rows = [
        FigureRow(f"first start to the first published slots, {pairs:,} pairs", "s", Spread.of([first_s]), "<= 60 s"),
        FigureRow("second start", "s", Spread.of([second_s]), "<= 3 s, from the cache"),
        FigureRow(
            "memory of supervisor and workers, without the ring", "MB", Spread.of([first_mb, second_mb]), "<= 400 MB"
        ),
    ]
    return Result("catalog", f"{pairs:,} pairs listed by the local store, 1,000 objects a page.", figures=rows)


def _start(session: Session, task: Task, cache: str) -> tuple[float, float]:
    """Seconds to ready, and MB once it has worked for a while."""
    serve = ("--catalog", "cached", "--catalog-cache", cache)
    patient = replace(Ringfeed(), serve=serve, ready_timeout_s=LISTING_TIMEOUT_S)
    with contextlib.ExitStack() as started:
        began = time.monotonic()
        daemon = started.enter_context(patient.daemon(task, session.log, started))
        ready_s = time.monotonic() - began
        time.sleep(SETTLE_S)
        return ready_s, sum(private_megabytes(pid) for pid in (daemon.pid, *descendants_of(daemon.pid)))


def million_folder(data: Path, workload: Workload, pairs: int) -> Path:
    """Listing pages of so many pairs, which are all the same one; made where they are not there yet."""
    one = workload.pairs[0]
    folder = data / f"{Path(workload.folder).name}-times-{pairs}"
    if folder.is_dir():
        return folder
    draft = folder.with_suffix(".draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        shutil.copy(Path(workload.folder) / "images" / f"{one.id}.jpg", draft / "one.jpg")
        shutil.copy(Path(workload.folder) / "labels" / f"{one.id}.png", draft / "one.png")
        write_listing(draft / "listing", "images/", _names(one, pairs, "images"))
        write_listing(draft / "listing", "labels/", _names(one, pairs, "labels"))
        draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder


def _names(one: Entry, pairs: int, side: str) -> Iterator[Listed]:
    image = side == "images"
    size, crc32c = (one.image_bytes, one.image_crc32c) if image else (one.label_bytes, one.label_crc32c)
    for number in range(pairs):
        yield Listed(f"{side}/{number // 10000:04d}/photograph-{number:08d}.{'jpg' if image else 'png'}", size, crc32c)

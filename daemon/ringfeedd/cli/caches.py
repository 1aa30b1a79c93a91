"""`ringfeed cache`: fill the tiers before training, and look after disk caches."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import ringfeed
from ringfeed.cli.arguments import CommandParser, ring_name
from ringfeed.cli.report import RingStatus
from ringfeed.cli.status import ring_status
from ringfeed.errors import DaemonNotRunningError, RingfeedError
from ringfeed.text import one_line
from ringfeedd.cache.upkeep import DiskCache, clear, disk_caches, wrong_entries
from ringfeedd.cli.clean import rings_with_files
from ringfeedd.errors import EXIT_CLEAN, EXIT_COULD_NOT_START, EXIT_CRASH, StartError

if TYPE_CHECKING:
    from tqdm import tqdm

WARM_GROUP = "cache-warm"
WARM_BATCH = 16

REPORT_S = 5.0
"""A daemon reports four times a second; one that has not by then is busy."""


def _bar(total: int, what: str) -> tqdm[NoReturn]:
    from tqdm import tqdm  # noqa: PLC0415  # no other command needs it

    return tqdm(total=total, desc=what, unit=" pairs", file=sys.stderr)


def add_cache(commands: argparse._SubParsersAction[CommandParser]) -> None:
    """Add `cache` to a parser's commands."""
    parser = commands.add_parser(
        "cache",
        help="fill a daemon's caches, or look after disk caches",
        description="Reads an epoch so that the caches of a running daemon are full, or shows, verifies and clears "
        "what lies in a folder of disk caches.",
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    warm = verbs.add_parser(
        "warm",
        help="read one epoch, so that the caches are full",
        description="Reads one epoch of the rings of a running daemon as a group of its own. What the caches are to "
        "hold is then there before training begins.",
    )
    warm.add_argument("rings", nargs="*", type=ring_name, metavar="RING", help="rings to read (default: all)")
    warm.set_defaults(run=_warm)
    for name, what, run in (
        ("show", "show what lies in a folder", _show),
        ("verify", "read every entry, and count damaged ones", _verify),
        ("clear", "remove what no running daemon uses", _clear),
    ):
        verb = verbs.add_parser(name, help=what, description=f"{what[0].upper()}{what[1:]}.")
        verb.add_argument("folder", type=Path, metavar="DIR", help="the folder that --cache-disk names")
        verb.set_defaults(run=run)


def _warm(arguments: argparse.Namespace) -> int:
    rings = arguments.rings or [ring for ring in rings_with_files() if _is_served(ring)]
    if not rings:
        raise StartError("no ring is served; start the daemon first: `ringfeed serve ROOT --cache-memory auto`")
    for ring in rings:
        _warm_ring(ring)
    return EXIT_CLEAN


def _is_served(ring: str) -> bool:
    try:
        return ring_status(ring).state == "serving"
    except (DaemonNotRunningError, RingfeedError):
        return False


def _warm_ring(ring: str) -> None:
    status = ring_status(ring)
    if not status.cache_rows and not status.cache_disk_chosen:
        raise StartError(
            f"the daemon of ring {ring} keeps no pairs; start it with --cache-memory or --cache-disk, or set them in "
            f"[cache]"
        )
    batch = max(1, min(WARM_BATCH, status.slots // 4))
    with (
        ringfeed.attach(ring, batch_size=batch, group=WARM_GROUP, drop_last=False, copy=False) as reader,
        _bar(status.epoch_length, f"warming {ring}") as bar,
    ):
        for read in reader:
            bar.update(len(read))
    print(f"{ring}: {_reported(ring, time.monotonic()).rows()['cache']}")


def _reported(ring: str, since: float) -> RingStatus:
    """Return the status that the daemon has written after a moment, seconds of the monotonic clock."""
    while (status := ring_status(ring)).heartbeat_age_s > (waited_s := time.monotonic() - since):
        if waited_s > REPORT_S:
            break
        time.sleep(0.05)
    return status


def _caches(folder: Path) -> list[DiskCache]:
    try:
        return disk_caches(folder.expanduser())
    except OSError as error:
        raise StartError(f"{folder} cannot be listed: {error.strerror}") from error


def _show(arguments: argparse.Namespace) -> int:
    for one in _caches(arguments.folder):
        used = ", in use by a daemon" if one.in_use else ""
        print(one_line(f"{one.root}: {one.pairs:,} pairs, {one.bytes / 2**30:.2f} GiB in {one.folder}{used}"))
    return EXIT_CLEAN


def _verify(arguments: argparse.Namespace) -> int:
    found = 0
    for one in _caches(arguments.folder):
        with _bar(one.pairs, "verifying") as bar:
            wrong = wrong_entries(one, bar.update)
        found += wrong
        print(one_line(f"{one.root}: {one.pairs:,} pairs, {wrong:,} damaged; a daemon fetches these again"))
    return EXIT_CRASH if found else EXIT_CLEAN


def _clear(arguments: argparse.Namespace) -> int:
    left = False
    for one in _caches(arguments.folder):
        try:
            cleared = clear(one)
        except OSError as error:
            raise StartError(f"{one.folder} cannot be removed: {error.strerror}") from error
        left |= not cleared
        print(one_line(f"{one.root}: {'removed' if cleared else 'in use by a daemon; left alone'}"))
    return EXIT_COULD_NOT_START if left else EXIT_CLEAN

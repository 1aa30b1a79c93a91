"""The commands that need no daemon code: `ringfeed status`, `refresh`, `errors`, `top`."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Iterable
from datetime import datetime
from typing import Final

from ringfeed.cli.arguments import CommandParser, number, ring_name, whole
from ringfeed.cli.colour import Style, paint, wants_colour
from ringfeed.cli.matching import matching_rings
from ringfeed.cli.report import RingStatus
from ringfeed.cli.status import ring_status
from ringfeed.cli.top import watch
from ringfeed.daemon.process import find_daemon
from ringfeed.errors import RingfeedError
from ringfeed.shm.control import Control, open_control
from ringfeed.shm.descriptor import read_descriptor, ring_names
from ringfeed.shm.failures import FailedPairs, lists_of_stopped, read_failed_pairs, rings_with_lists
from ringfeed.shm.layout import State
from ringfeed.text import count, one_line

EXIT_CLEAN = 0
EXIT_USAGE = 2
EXIT_NOT_RUNNING = 3

_LOOK_S: Final = 0.05
NO_RING: Final = "No ring is served on this machine. Start a daemon with `ringfeed serve gs://bucket/prefix`."


def add_status(commands: argparse._SubParsersAction[CommandParser]) -> None:
    """Add `status` to a parser's commands."""
    parser = commands.add_parser(
        "status",
        help="show the rings of this machine, and who reads them",
        description="Shows what the rings of this machine serve, how full they are, and who reads them.",
        epilog="Exit codes: 0 every ring asked for is served; 3 one is not, there is none, or its daemon hangs.",
    )
    parser.add_argument("rings", nargs="*", type=ring_name, metavar="RING", help="rings to show (default: all)")
    parser.add_argument("--json", action="store_true", help="print one JSON object, rings by name")
    parser.set_defaults(run=run_status)


def _asked_for(words: list[str], rings: Iterable[str] | None = None) -> tuple[list[str], list[str]]:
    """Return the rings that were asked for, all without a word, and a sentence for each word that fits several."""
    rings = sorted(ring_names() if rings is None else rings)
    return matching_rings(words, rings) if words else (rings, [])


def run_status(arguments: argparse.Namespace) -> int:
    """Carry out `ringfeed status`."""
    names, missing = _asked_for(arguments.rings)
    found: list[RingStatus] = []
    for name in names:
        try:
            found.append(ring_status(name))
        except RingfeedError as error:
            missing.append(str(error))
    if not names and not missing:
        missing.extend([listed.why_not_served for listed in lists_of_stopped()] or [NO_RING])
    if arguments.json:
        print(json.dumps({status.ring: status.as_json() for status in found}, indent=2))
    else:
        colour = wants_colour(sys.stdout)
        for status in found:
            headline, *others = status.lines()
            style = Style.GOOD if status.state == "serving" and not status.hangs else Style.BAD
            print("\n".join((paint(headline, style, colour=colour), *others)))
    for sentence in missing:
        print(sentence, file=sys.stderr)
    unserved = any(status.state == "dead" or status.hangs for status in found)
    return EXIT_NOT_RUNNING if missing or unserved else EXIT_CLEAN


def add_refresh(commands: argparse._SubParsersAction[CommandParser]) -> None:
    """Add `refresh` to a parser's commands."""
    parser = commands.add_parser(
        "refresh",
        help="list the source again, and let new pairs come in",
        description="Has the daemon of RING, and of all its other rings, list its root again. New pairs come in with "
        "the next epoch that no trainer has begun; trainers read on. The same as SIGHUP to the daemon, but this waits "
        "and says what came of it.",
        epilog="Exit codes: 0 the listing was taken; 3 it was not, or there is no daemon.",
    )
    parser.add_argument(
        "rings", nargs="*", type=ring_name, metavar="RING", help="rings whose daemon is asked (default: all)"
    )
    parser.add_argument(
        "--timeout-s",
        type=number(0, 86400 * 7),
        default=600.0,
        metavar="S",
        help="how long to wait for the listing (default: 600)",
    )
    parser.set_defaults(run=run_refresh)


def run_refresh(arguments: argparse.Namespace) -> int:
    """Carry out `ringfeed refresh`."""
    names, ambiguous = _asked_for(arguments.rings)
    if not names and not ambiguous:
        print("No ring is served on this machine; there is nothing to refresh.", file=sys.stderr)
        return EXIT_NOT_RUNNING
    for sentence in ambiguous:
        print(sentence, file=sys.stderr)
    controls, well = [], not ambiguous
    for name in names:
        try:
            controls.append(open_control(name))
        except RingfeedError as error:
            print(error, file=sys.stderr)
            well = False
    before = {control.descriptor.ring: control.word(State.REFRESHES_TAKEN) for control in controls}
    ended = {control.descriptor.ring: control.word(State.REFRESHES) for control in controls}
    asked = _ask_for_refresh(controls)
    well = well and len(asked) == len(controls)
    deadline = time.monotonic() + arguments.timeout_s
    for control in asked:
        ring = control.descriptor.ring
        well &= _await_refresh(control, ended[ring], deadline) and control.word(State.REFRESHES_TAKEN) > before[ring]
    return EXIT_CLEAN if well else EXIT_NOT_RUNNING


def _ask_for_refresh(controls: list[Control]) -> list[Control]:
    """Send SIGHUP to each daemon once; the rings whose daemon got it. Says which did not."""
    asked: list[Control] = []
    sent: set[int] = set()
    for control in controls:
        why = "no process that can be seen from here holds the ring"
        process = find_daemon(control)
        if process is not None:
            try:
                if process.pid not in sent:
                    process.send(signal.SIGHUP)
                sent.add(process.pid)
                asked.append(control)
                continue
            except OSError as error:
                why = f"{error.strerror} (pid {process.pid})"
            finally:
                process.close()
        print(
            f"{control.descriptor.ring}: the daemon could not be asked: {why}; run this as the daemon's user or root, "
            f"and in its container if it has one",
            file=sys.stderr,
        )
    return asked


def _await_refresh(control: Control, before: int, deadline: float) -> bool:
    """Print what came of one ring's refresh; whether anything did."""
    ring = control.descriptor.ring
    while control.word(State.REFRESHES) == before:
        if gone := control.gone():
            print(f"{ring}: {gone}", file=sys.stderr)
            return False
        if time.monotonic() > deadline:
            print(f"{ring}: still listing; `ringfeed status {ring}` and the daemon's log will tell", file=sys.stderr)
            return False
        time.sleep(_LOOK_S)
    print(f"{ring}: {control.refresh_outcome()}")
    return True


def add_errors(commands: argparse._SubParsersAction[CommandParser]) -> None:
    """Add `errors` to a parser's commands."""
    parser = commands.add_parser(
        "errors",
        help="list the pairs that failed to load, and why",
        description="Lists the pairs that failed since the daemon's start, at most the latest 1000 of a ring, also of "
        "a ring that was stopped for them. Other pairs took their places in the stream.",
        epilog="Exit codes: 0 every ring asked for is there, whatever failed; 3 one is not, or there is none.",
    )
    parser.add_argument("rings", nargs="*", type=ring_name, metavar="RING", help="rings to ask for (default: all)")
    parser.add_argument("--json", action="store_true", help="print one JSON object, rings by name")
    parser.set_defaults(run=run_errors)


def run_errors(arguments: argparse.Namespace) -> int:
    """Carry out `ringfeed errors`."""
    names, missing = _asked_for(arguments.rings, {*ring_names(), *rings_with_lists()})
    found: list[FailedPairs] = []
    if not names and not missing:
        missing = [NO_RING]
    for name in names:
        try:
            # a ring without a list has had no failures, if there is such a ring
            found.append(read_failed_pairs(name) or FailedPairs.none(name, read_descriptor(name).generation))
        except RingfeedError as error:
            missing.append(str(error))
    if arguments.json:
        print(json.dumps({listed.ring: listed.as_json() for listed in found}, indent=2))
    else:
        for listed in found:
            print("\n".join(error_lines(listed)))
    for sentence in missing:
        print(sentence, file=sys.stderr)
    return EXIT_NOT_RUNNING if missing else EXIT_CLEAN


def add_top(commands: argparse._SubParsersAction[CommandParser]) -> None:
    """Add `top` to a parser's commands."""
    parser = commands.add_parser(
        "top",
        help="watch the rings: rates, readers, who waits for whom",
        description="Shows the rings of this machine again and again, with rates between two looks, until Ctrl-C.",
    )
    parser.add_argument("rings", nargs="*", type=ring_name, metavar="RING", help="rings to show (default: all)")
    parser.add_argument(
        "--interval", type=number(0.05, 3600), default=1.0, metavar="S", help="between two looks (default: 1)"
    )
    parser.add_argument("--count", type=whole(1), metavar="N", help="stop after N looks (default: at Ctrl-C)")
    parser.set_defaults(run=run_top)


def run_top(arguments: argparse.Namespace) -> int:
    """Carry out `ringfeed top`."""
    watch(arguments.rings, interval_s=arguments.interval, count=arguments.count)
    return EXIT_CLEAN


def error_lines(listed: FailedPairs) -> list[str]:
    """The list for people: a line for the ring, then one for each pair, the latest last."""
    if not listed.failed_draws and not listed.stopped:
        return [f"{listed.ring}: no pair has failed"]
    causes = ", ".join(f"{many} {cause}" for cause, many in sorted(listed.causes.items(), key=lambda item: -item[1]))
    failed, pairs = count(listed.failed_draws, "draw"), count(len(listed.pairs), "pair")
    lines = [f"{listed.ring}: {failed} failed ({causes}); {pairs} {'is' if len(listed.pairs) == 1 else 'are'} listed"]
    if listed.stopped:
        lines.append(f"  the ring was stopped: {listed.stopped}")
    for pair in listed.pairs:
        attempts = f", {pair.attempts} attempts" if pair.attempts > 1 else ""
        times = f", {pair.times} times since {_local(pair.first_unix_s)}" if pair.times > 1 else ""
        lines.append(f"  {_local(pair.last_unix_s)}  {pair.pair_id}  {pair.cause}: {pair.reason}{attempts}{times}")
    return [one_line(line) for line in lines]


def _local(unix_s: float) -> str:
    """A moment as the wall clock here shows it."""
    return datetime.fromtimestamp(unix_s).astimezone().strftime("%Y-%m-%d %H:%M:%S")

"""The commands that need no daemon code: `ringfeed status`, `ringfeed refresh`."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from typing import Final

from ringfeed.attachment import Control, open_control
from ringfeed.descriptor import ring_names
from ringfeed.errors import RingfeedError
from ringfeed.layout import State
from ringfeed.status import RingStatus, ring_status

EXIT_CLEAN = 0
EXIT_USAGE = 2
EXIT_NOT_RUNNING = 3

_LOOK_S: Final = 0.05


def add_status(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `status` to a parser's commands."""
    parser = commands.add_parser(
        "status",
        help="show the rings of this machine, and who reads them",
        description="Shows what the rings of this machine serve, how full they are, and who reads them.",
        epilog="Exit codes: 0 every ring asked for is served; 3 one is not, or there is none.",
    )
    parser.add_argument("rings", nargs="*", metavar="RING", help="rings to show (default: all)")
    parser.add_argument("--json", action="store_true", help="print one JSON object, rings by name")
    parser.set_defaults(run=run_status)


def run_status(arguments: argparse.Namespace) -> int:
    """Carry out `ringfeed status`."""
    try:
        names = arguments.rings or ring_names()
    except RingfeedError as error:
        print(error, file=sys.stderr)
        return EXIT_NOT_RUNNING
    found: list[RingStatus] = []
    missing = []
    for name in names:
        try:
            found.append(ring_status(name))
        except (RingfeedError, ValueError) as error:
            missing.append(str(error))
    if not names:
        missing.append("No ring is served on this machine. Start a daemon with `ringfeed serve gs://bucket/prefix`.")
    if arguments.json:
        print(json.dumps({status.ring: status.as_json() for status in found}, indent=2))
    else:
        for status in found:
            print("\n".join(status.lines()))
    for sentence in missing:
        print(sentence, file=sys.stderr)
    return EXIT_NOT_RUNNING if missing or any(status.state == "dead" for status in found) else EXIT_CLEAN


def add_refresh(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `refresh` to a parser's commands."""
    parser = commands.add_parser(
        "refresh",
        help="list the source again, and let new pairs come in",
        description="Has the daemon of RING, and of all its other rings, list its root again. New pairs come in with "
        "the next epoch that no trainer has begun; trainers read on. The same as SIGHUP to the daemon, but this waits "
        "and says what came of it.",
        epilog="Exit codes: 0 the listing was taken; 3 it was not, or there is no daemon.",
    )
    parser.add_argument("rings", nargs="*", metavar="RING", help="rings whose daemon is asked (default: all)")
    parser.add_argument(
        "--timeout-s", type=float, default=600.0, metavar="S", help="how long to wait for the listing (default: 600)"
    )
    parser.set_defaults(run=run_refresh)


def run_refresh(arguments: argparse.Namespace) -> int:
    """Carry out `ringfeed refresh`."""
    names = arguments.rings or ring_names()
    if not names:
        print("No ring is served on this machine; there is nothing to refresh.", file=sys.stderr)
        return EXIT_NOT_RUNNING
    controls, well = [], True
    for name in names:
        try:
            controls.append(open_control(name))
        except (RingfeedError, ValueError) as error:
            print(error, file=sys.stderr)
            well = False
    # The lock says that the daemon lives, so the pid that it wrote is still its own.
    before = {control.descriptor.ring: control.word(State.REFRESHES_TAKEN) for control in controls}
    ended = {control.descriptor.ring: control.word(State.REFRESHES) for control in controls}
    for pid in sorted({control.descriptor.pid for control in controls}):
        try:
            os.kill(pid, signal.SIGHUP)
        except OSError as error:
            whose = [control.descriptor.ring for control in controls if control.descriptor.pid == pid]
            print(
                f"{', '.join(whose)}: the daemon (pid {pid}) could not be asked: {error.strerror}; run this as its "
                f"user or root, and in its container if it has one",
                file=sys.stderr,
            )
            controls = [control for control in controls if control.descriptor.pid != pid]
            well = False
    deadline = time.monotonic() + arguments.timeout_s
    for control in controls:
        ring = control.descriptor.ring
        well &= _await_refresh(control, ended[ring], deadline) and control.word(State.REFRESHES_TAKEN) > before[ring]
    return EXIT_CLEAN if well else EXIT_NOT_RUNNING


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

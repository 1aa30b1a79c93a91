"""The commands that need no daemon code: `ringfeed status`."""

from __future__ import annotations

import argparse
import json
import sys

from ringfeed.descriptor import ring_names
from ringfeed.errors import RingfeedError
from ringfeed.status import RingStatus, ring_status

EXIT_CLEAN = 0
EXIT_USAGE = 2
EXIT_NOT_RUNNING = 3


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
    names = arguments.rings or ring_names()
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

"""The command line of `ringfeed bench`; imports nothing of the benchmark, since `ringfeed serve` reads it too."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Final

from ringfeed.cli.arguments import CommandParser, number, whole
from ringfeedd.errors import EXIT_COULD_NOT_START

MEASURED: Final = (
    *(
        "solo",
        "floor",
        "tls",
        "latency",
        "faults",
        "fanout",
        "ranks",
        "handoff",
        "start",
        "catalog",
        "workers",
        "supervisor",
        "large",
        "cache",
    ),
    "gpu",
)
"""What can be measured, in the order of `all`."""


def add_bench(commands: argparse._SubParsersAction[CommandParser]) -> None:
    """Add `bench` to a parser's commands."""
    parser = commands.add_parser(
        "bench",
        help="measure this machine: rates, CPU, hand-over, start, catalog",
        description="Measures Ringfeed against the least work that its task needs, with nginx on this machine as the "
        "store. Needs nginx and the extras demo and fast. The repository's scripts/bench measures other loaders, too.",
    )
    parser.add_argument("what", choices=[*MEASURED, "all"], help="what is measured")
    parser.add_argument("--rounds", type=whole(1), default=3, metavar="N", help="runs of each contender (default: 3)")
    parser.add_argument(
        "--seconds", type=number(0.1, 3600), default=5.0, metavar="S", help="of each run's window (default: 5)"
    )
    parser.add_argument("--pairs", type=whole(64), default=1200, metavar="N", help="of the workload (default: 1200)")
    parser.add_argument("--data", type=Path, metavar="DIR", help="keeps the pairs (default: ~/.cache/ringfeed-bench)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON; what it holds of other commands stays")
    parser.add_argument("--page", type=Path, metavar="FILE", help="Markdown whose marked tables are rewritten")
    parser.add_argument("--peers", type=Path, metavar="DIR", help="the other loaders' scripts; scripts/bench gives it")
    parser.add_argument(
        "--peers-python", metavar="FILE", help="the Python of their environment; scripts/bench gives it"
    )
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    try:
        from ringfeedd.bench.cli import run_bench  # noqa: PLC0415  # its packages are extras
    except ImportError as error:
        sys.stderr.write(f"ringfeed: the benchmark needs a package more ({error}): pip install 'ringfeed[demo,fast]'\n")
        return EXIT_COULD_NOT_START
    return run_bench(arguments)

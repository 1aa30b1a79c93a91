"""``python -m ringfeedd.demo``: the same as ``ringfeed demo``."""

from __future__ import annotations

import sys
from pathlib import Path

from ringfeed.cli.arguments import CommandParser, whole
from ringfeedd.demo import run_demo


def main() -> int:
    """Reads the command line, and runs the demo."""
    parser = CommandParser(prog="python -m ringfeedd.demo", description="A bucket, through the ring, into ranks.")
    parser.add_argument("--pairs", type=whole(2, 100_000), default=300, help="pairs in the bucket (default: 300)")
    parser.add_argument("--epochs", type=whole(1), default=2, help="passes over them (default: 2)")
    parser.add_argument("--ranks", type=whole(1, 64), default=2, help="training processes (default: 2)")
    parser.add_argument("--out", type=Path, default=Path("demo-out"), help="folder for the picture (default: demo-out)")
    parser.add_argument("--keep", action="store_true", help="keep the working folder with the logs")
    options = parser.parse_args()
    return run_demo(options.pairs, options.epochs, options.ranks, out=options.out, keep=options.keep)


if __name__ == "__main__":
    sys.exit(main())

"""The command line: one function that adds each of its commands."""

from __future__ import annotations

import argparse
import errno
import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Final

import ringfeed
from ringfeed.cli.arguments import CommandParser, ring_name, whole
from ringfeed.cli.colour import Style, paint, wants_colour
from ringfeed.cli.commands import add_errors, add_refresh, add_status, add_top
from ringfeed.errors import RingfeedError
from ringfeed.text import one_line
from ringfeedd.bench.arguments import add_bench
from ringfeedd.cli.caches import add_cache
from ringfeedd.cli.clean import clean, rings_with_files
from ringfeedd.cli.completion import add_completion
from ringfeedd.cli.config import add_config
from ringfeedd.cli.install.command import add_install_service
from ringfeedd.cli.serve import add_serve
from ringfeedd.errors import EXIT_CLEAN, EXIT_COULD_NOT_START, EXIT_CRASH, DaemonError
from ringfeedd.log import complain
from ringfeedd.worker.launcher import ForkServer
from ringfeedd.worker.process import FORKABLE


def main(argv: list[str] | None = None, server: ForkServer | None = None, *, worker_module: str = FORKABLE) -> int:
    """Run one command; returns its exit code.

    Args:
        argv: without the program's name; this process's own by default.
        server: from which a daemon's workers are forked.
        worker_module: what a daemon's workers run.
    """
    arguments = _parser().parse_args(argv)
    arguments.server, arguments.worker_module = server, worker_module
    try:
        code = int(arguments.run(arguments))
        sys.stdout.flush()  # here a reader that is gone, or a full disk, has a sentence
    except DaemonError as error:
        for sentence in error.sentences:
            complain(sentence)
        return error.exit_code
    except RingfeedError as error:
        complain(str(error))
        return EXIT_COULD_NOT_START
    except BrokenPipeError:  # `| head`: it has all that it wants
        _discard_output()
        return EXIT_CLEAN
    except OSError as error:
        if error.errno != errno.ENOSPC or error.filename is not None:
            raise
        _discard_output()
        print(f"ringfeed: the output could not be written: {error.strerror}", file=sys.stderr)
        return EXIT_COULD_NOT_START
    except KeyboardInterrupt:
        return 130
    return code


def _discard_output() -> None:
    """Let what is still to be written go nowhere, or the interpreter would complain at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="ringfeed",
        description="Feeds training processes with (image, label) pairs from a bucket, through shared memory.",
        epilog="`ringfeed COMMAND --help` shows the flags of a command.",
    )
    parser.add_argument("--version", action="version", version=f"ringfeed {ringfeed.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for heading, members in _COMMANDS.items():
        before = list(commands.choices)
        for add in members:
            add(commands)
        parser.groups[heading] = [name for name in commands.choices if name not in before]
    add_completion(commands, parser)
    parser.groups["set up"].append("completion")
    return parser


def _add_clean(commands: argparse._SubParsersAction[CommandParser]) -> None:
    parser = commands.add_parser(
        "clean",
        help="remove what dead daemons left in /dev/shm",
        description="Removes the files of rings whose daemon is dead. A daemon does so for its own rings when it "
        "starts. Files of living daemons and of other users stay.",
        epilog="Exit codes: 0 nothing of a dead daemon is left; 3 something is.",
    )
    parser.add_argument("rings", nargs="*", type=ring_name, metavar="RING", help="rings to look at (default: all)")
    parser.add_argument("--force", action="store_true", help="also where trainers still wait for the next daemon")
    parser.set_defaults(run=_clean)


def _clean(arguments: argparse.Namespace) -> int:
    said, well = clean(arguments.rings or rings_with_files(), force=arguments.force)
    print("\n".join(said) or "nothing of any ring is in /dev/shm")
    return EXIT_CLEAN if well else EXIT_COULD_NOT_START


def _add_doctor(commands: argparse._SubParsersAction[CommandParser]) -> None:
    parser = commands.add_parser(
        "doctor",
        help="check this machine and its rings for common problems",
        description="Checks shared memory, limits, environment, packages, leftovers and every ring, and asks each "
        "bucket that is read for a page of its listing and for one object. Says what to do. Changes nothing.",
        epilog="Exit codes: 0 nothing is bad; 1 something is.",
    )
    parser.add_argument("root", nargs="?", metavar="ROOT", help="a bucket to be asked as well: gs://bucket/prefix")
    parser.add_argument("--emulator", metavar="URL", help="a GCS emulator that has ROOT")
    parser.add_argument("--json", action="store_true", help="print a JSON array of findings")
    parser.set_defaults(run=_doctor)


def _doctor(arguments: argparse.Namespace) -> int:
    from ringfeedd.cli.checks import Level  # noqa: PLC0415
    from ringfeedd.cli.doctor import examine  # noqa: PLC0415  # it looks at packages that nothing else here needs

    found = examine(root=arguments.root, emulator=arguments.emulator)
    if arguments.json:
        print(json.dumps([asdict(check) for check in found], indent=2))
    else:
        colour = wants_colour(sys.stdout)
        styles = {Level.OK: Style.GOOD, Level.WARN: Style.WARNING, Level.BAD: Style.BAD}
        for check in found:
            level, _, rest = one_line(check.line()).partition(" ")
            print(paint(level, styles[check.level], colour=colour) + f" {rest}")
    return EXIT_CRASH if any(check.level is Level.BAD for check in found) else EXIT_CLEAN


def _add_demo(commands: argparse._SubParsersAction[CommandParser]) -> None:
    parser = commands.add_parser(
        "demo",
        help="try everything on this machine: a bucket, the daemon, two training ranks",
        description="Makes a bucket of photographs, serves it by a GCS emulator, starts the daemon, and trains a small "
        "net on it from several ranks. Needs the extra `demo`: pip install 'ringfeed[demo]'.",
    )
    parser.add_argument(
        "--pairs", type=whole(2, 100_000), default=300, metavar="N", help="pairs in the bucket (default: 300)"
    )
    parser.add_argument("--epochs", type=whole(1), default=2, metavar="N", help="epochs to train (default: 2)")
    parser.add_argument("--ranks", type=whole(1, 64), default=2, metavar="N", help="training processes (default: 2)")
    parser.add_argument(
        "--out", type=Path, default=Path("demo-out"), metavar="DIR", help="for the picture (default: demo-out)"
    )
    parser.add_argument("--keep", action="store_true", help="keep the logs and figures")
    parser.set_defaults(run=_demo)


def _demo(arguments: argparse.Namespace) -> int:
    try:
        from ringfeedd.demo import run_demo  # noqa: PLC0415  # its packages are an extra
    except ImportError as error:
        print(f"ringfeed: the demo needs a package more ({error}): pip install 'ringfeed[demo]'", file=sys.stderr)
        return EXIT_COULD_NOT_START
    return run_demo(
        pairs=arguments.pairs, epochs=arguments.epochs, ranks=arguments.ranks, out=arguments.out, keep=arguments.keep
    )


_COMMANDS: Final[dict[str, tuple[Callable[[argparse._SubParsersAction[CommandParser]], None], ...]]] = {
    "run": (add_serve, add_refresh),
    "look": (add_status, add_top, add_errors, _add_doctor),
    "set up": (add_config, add_install_service, add_cache, _add_clean),
    "try": (_add_demo, add_bench),
}
"""The commands by what they are for."""

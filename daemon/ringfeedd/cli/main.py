"""The command line: one function that adds each of its commands."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import json
import os
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn, get_args

import ringfeed
from ringfeed.cli.arguments import CommandParser, any_number, any_whole, ring_name, whole
from ringfeed.cli.commands import add_errors, add_refresh, add_status, add_top
from ringfeed.errors import RingfeedError
from ringfeed.text import one_line
from ringfeedd.bench.arguments import add_bench
from ringfeedd.catalog.listing import Progress
from ringfeedd.cli.clean import clean, rings_with_files
from ringfeedd.cli.install.command import add_install_service
from ringfeedd.config import Config, load_config
from ringfeedd.decode.spec import Fit, LabelMode
from ringfeedd.errors import EXIT_CLEAN, EXIT_COULD_NOT_START, EXIT_CRASH, DaemonError
from ringfeedd.log import log_to_stderr
from ringfeedd.nodes import AUTO
from ringfeedd.order import Mode
from ringfeedd.ring.failures import OnError
from ringfeedd.storage import PlaneName, modules_for
from ringfeedd.supervisor.supervisor import Supervisor
from ringfeedd.system.console import STDERR, STDOUT
from ringfeedd.system.credentials import HTTP_TOKEN, credential
from ringfeedd.system.proxies import spare_local_hosts
from ringfeedd.system.systemd import Notifier
from ringfeedd.worker.launcher import ForkServer
from ringfeedd.worker.process import Spawner

if TYPE_CHECKING:
    from tqdm import tqdm

_EXIT_CODES: Final = (
    "Exit codes: 0 stopped cleanly; 1 crashed or every ring failed; 2 usage; 3 could not start; "
    "75 already running; 78 bad configuration."
)


_NO_SETTINGS: Final = ("run", "config", "stop_on_eof", "server")


def main(argv: list[str] | None = None, server: ForkServer | None = None) -> int:
    """Run one command; returns its exit code.

    Args:
        argv: without the program's name; this process's own by default.
        server: from which a daemon's workers are forked.
    """
    arguments = _parser().parse_args(argv)
    arguments.server = server
    try:
        code = int(arguments.run(arguments))
        sys.stdout.flush()  # here a reader that is gone, or a full disk, has a sentence
    except DaemonError as error:
        print(one_line(f"ringfeed: {error}"), file=sys.stderr)
        return error.exit_code
    except RingfeedError as error:
        print(one_line(f"ringfeed: {error}"), file=sys.stderr)
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
    )
    parser.add_argument("--version", action="version", version=f"ringfeed {ringfeed.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_serve(commands)
    add_status(commands)
    add_refresh(commands)
    add_top(commands)
    add_errors(commands)
    _add_doctor(commands)
    _add_clean(commands)
    add_bench(commands)
    _add_demo(commands)
    add_install_service(commands)
    return parser


def _add_serve(commands: argparse._SubParsersAction[CommandParser]) -> None:
    parser = commands.add_parser(
        "serve",
        help="run the daemon in the foreground",
        description="Fetches the pairs of ROOT, decodes each once, and serves the rings `train` and `test`. Prints "
        "`ready` once the first slots are published; SIGTERM and Ctrl-C stop it.",
        epilog=f"Flags win over --config. {_EXIT_CODES}",
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("root", nargs="?", metavar="ROOT", help="gs://bucket/prefix or a folder")
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="a TOML file of the same settings, with underscores"
    )
    parser.add_argument("--ring", metavar="NAME", help="serve the rings NAME-train and NAME-test instead")
    parser.add_argument(
        "--size", metavar="HxW", help="pixels of a slot, or auto: what a sample of the pairs has (default)"
    )
    parser.add_argument(
        "--slots", type=any_whole, metavar="N", help="slots of each ring (default: by the free memory, at most 512)"
    )
    parser.add_argument(
        "--lanes", type=any_whole, metavar="N", help="consumer processes on one ring at a time (default: 64)"
    )
    parser.add_argument(
        "--workers",
        type=_number_or_auto,
        metavar="N",
        help="processes that fetch and decode (default: auto, one for each core that may be used)",
    )
    parser.add_argument(
        "--concurrency",
        type=_number_or_auto,
        metavar="N",
        help="downloads under way at a time (default: auto, 128 a worker, more for a store that is far away)",
    )
    parser.add_argument("--seed", type=any_whole, metavar="N", help="of the order (default: 0)")
    parser.add_argument("--order", choices=[mode.value for mode in Mode], help="of an epoch (default: shuffle)")
    parser.add_argument(
        "--test-ratio", type=any_number, metavar="R", help="fraction of the pairs in the test ring (default: 0.1)"
    )
    parser.add_argument(
        "--fit", choices=[fit.value for fit in Fit], help="how a picture comes into a slot (default: resize)"
    )
    parser.add_argument(
        "--label-mode", choices=[mode.value for mode in LabelMode], help="what labels hold (default: rgb)"
    )
    parser.add_argument(
        "--image-pad", type=any_whole, metavar="N", help="value around an image with --fit pad, 0 to 255 (default: 0)"
    )
    parser.add_argument(
        "--label-pad", type=any_whole, metavar="N", help="value around a label with --fit pad, e.g. 255 (default: 0)"
    )
    parser.add_argument("--exif-orientation", action="store_true", help="turn pictures as their EXIF data asks")
    parser.add_argument(
        "--max-pixels", type=any_whole, metavar="N", help="refuse pictures with more pixels (default: 64000000)"
    )
    parser.add_argument(
        "--max-failed", type=any_number, metavar="FRACTION", help="of pairs that may fail (default: 0.01)"
    )
    parser.add_argument(
        "--on-error",
        choices=[choice.value for choice in OnError],
        help="replace a pair that cannot be had, or stop at the first (default: replace)",
    )
    _add_serve_store(parser)
    parser.add_argument("--images", metavar="TEMPLATE", help="of the images' names (default: images/{id}.jpg,jpeg)")
    parser.add_argument("--labels", metavar="TEMPLATE", help="of the labels' names (default: labels/{id}.png)")
    parser.add_argument(
        "--max-objects", type=any_whole, metavar="N", help="refuse a listing of more objects (default: 100000000)"
    )
    parser.add_argument(
        "--catalog", choices=["list", "cached"], help="start with a listing, or with the latest one (default: list)"
    )
    parser.add_argument(
        "--catalog-cache", metavar="DIR", help="folder in which listings are kept, auto or off (default: auto)"
    )
    parser.add_argument("--emulator", metavar="URL", help="of a GCS emulator to use instead of Google's service")
    parser.add_argument(
        "--user-project", metavar="PROJECT", help="that pays for listings and downloads of a requester-pays bucket"
    )
    parser.add_argument("--group", metavar="NAME", help="unix group whose members may attach (default: only this user)")
    parser.add_argument(
        "--num-nodes", type=_number_or_auto, metavar="N", help="machines that share every epoch, or auto (default: 1)"
    )
    parser.add_argument(
        "--node-rank", type=_number_or_auto, metavar="R", help="this machine's number from 0 to N-1, or auto"
    )
    parser.add_argument(
        "--worker-timeout-s",
        type=any_number,
        metavar="S",
        help="of one decode; then its worker is killed (default: 60)",
    )
    parser.add_argument(
        "--linger-s", type=any_number, metavar="S", help="how long a lost rank's place is kept (default: 300)"
    )
    parser.add_argument(
        "--linger-blocking-s", type=any_number, metavar="S", help="the same while others wait (default: 5)"
    )
    parser.add_argument(
        "--http", metavar="HOST:PORT", help="serve a status page and metrics, e.g. 127.0.0.1:9753 (default: off)"
    )
    parser.add_argument(
        "--http-token-file", metavar="FILE", help="with the token that its requests must bring, e.g. from elsewhere"
    )
    parser.add_argument(
        "--stop-on-eof",
        action="store_true",
        help="stop once standard input has ended and no process reads: for a parent process",
    )
    parser.set_defaults(run=_serve)


def _add_serve_store(parser: CommandParser) -> None:
    parser.add_argument(
        "--max-attempts",
        type=any_whole,
        metavar="N",
        help="at an object; while the store is down none counts (default: 12)",
    )
    parser.add_argument(
        "--deadline-s", type=any_number, metavar="S", help="of an object, all attempts; the same (default: 120)"
    )
    parser.add_argument(
        "--read-timeout-s", type=any_number, metavar="S", help="silence after which a download is cut (default: 20)"
    )
    parser.add_argument(
        "--attempt-s", type=any_number, metavar="S", help="of one attempt at an object (default: 60, 1 more a MiB)"
    )
    parser.add_argument(
        "--min-bytes-per-s",
        type=any_number,
        metavar="N",
        help="an attempt that brings less for 10 s is tried again (default: 2048)",
    )
    parser.add_argument(
        "--store-wait-s",
        type=any_number,
        metavar="S",
        help="for which a start waits for a store that does not answer; 0: ends at once (default: 600)",
    )
    parser.add_argument(
        "--data-plane",
        choices=get_args(PlaneName),
        help="what downloads: curl takes half the CPU, and comes with 'ringfeed[fast]' (default: auto, curl if there)",
    )


def _number_or_auto(text: str) -> int | str:
    if text == AUTO:
        return text
    try:
        return int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text}: must be a whole number or {AUTO}") from error


def _serve(arguments: argparse.Namespace) -> int:
    flags: dict[str, Any] = {name: value for name, value in vars(arguments).items() if name not in _NO_SETTINGS}
    config = load_config(getattr(arguments, "config", None), flags, defaults=_defaults())
    log_to_stderr()
    spare_local_hosts(os.environ)
    spawner = Spawner(arguments.server)
    spawner.need(modules_for(config.root, emulator=config.emulator, data_plane=config.data_plane))
    notifier = Notifier.from_environ()
    return asyncio.run(_supervise(config, notifier, spawner, stop_on_eof=hasattr(arguments, "stop_on_eof")))


def _defaults() -> dict[str, Any]:
    """Return the settings that hold unless others are given: what systemd loaded for this service."""
    token = credential(HTTP_TOKEN, os.environ)
    return {"http_token_file": str(token)} if token else {}


async def _supervise(config: Config, notifier: Notifier, spawner: Spawner, *, stop_on_eof: bool) -> int:
    bar = _ListingBar()
    supervisor = Supervisor(
        config,
        say=lambda sentence: print(one_line(sentence), file=STDOUT),
        on_progress=bar.show,
        on_listed=bar.close,
        notifier=notifier,
        spawner=spawner,
    )
    if stop_on_eof:
        starter_gone = partial(asyncio.get_running_loop().call_soon_threadsafe, supervisor.starter_gone)
        threading.Thread(target=_await_eof, args=(starter_gone,), daemon=True).start()
    try:
        return await supervisor.run()
    finally:
        bar.close()
        spawner.close()


class _ListingBar:
    """How far the listing is, on a terminal; the library for it is not imported before there is something to show."""

    def __init__(self) -> None:
        self._bar: tqdm[NoReturn] | None = None

    def show(self, progress: Progress) -> None:
        if self._bar is None:
            from tqdm import tqdm  # noqa: PLC0415

            tqdm.monitor_interval = 0  # a thread that is not needed
            # disable=None: no bar where stderr is no terminal, e.g. in a journal
            self._bar = tqdm(desc="listing", unit=" objects", disable=None, leave=False, file=STDERR)
        self._bar.update(progress.images + progress.labels - self._bar.n)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def _await_eof(starter_gone: Callable[[], object]) -> None:
    with contextlib.suppress(OSError):  # standard input is closed
        while os.read(0, 4096):
            pass
    with contextlib.suppress(RuntimeError):  # the loop has ended
        starter_gone()


def _add_clean(commands: argparse._SubParsersAction[CommandParser]) -> None:
    parser = commands.add_parser(
        "clean",
        help="remove what dead daemons left in /dev/shm",
        description="Removes the files of rings whose daemon is dead. A daemon does so by itself for its own rings "
        "when it starts; what is served, or another user's, is left alone.",
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
        help="look for what ails this machine and its rings, and say what to do",
        description="Looks at shared memory, limits, environment, packages, leftovers and every ring. Changes nothing.",
        epilog="Exit codes: 0 nothing is bad; 1 something is.",
    )
    parser.add_argument("--json", action="store_true", help="print a JSON array of findings")
    parser.set_defaults(run=_doctor)


def _doctor(arguments: argparse.Namespace) -> int:
    from ringfeedd.cli.checks import Level  # noqa: PLC0415
    from ringfeedd.cli.doctor import examine  # noqa: PLC0415  # it looks at packages that nothing else here needs

    found = examine()
    if arguments.json:
        print(json.dumps([asdict(check) for check in found], indent=2))
    else:
        print("\n".join(one_line(check.line()) for check in found))
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

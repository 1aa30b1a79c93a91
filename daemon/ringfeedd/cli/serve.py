"""`ringfeed serve`: flags from the table of settings, and the daemon in the foreground."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

from ringfeed.cli.arguments import CommandParser
from ringfeedd.catalog.listing import Progress
from ringfeedd.config import Config, Loaded, Settings, load, resolve
from ringfeedd.config.declaration import Setting
from ringfeedd.config.kinds import Choice, FormError
from ringfeedd.config.load import config_path
from ringfeedd.config.settings import RENAMED, SETTINGS
from ringfeedd.config.shown import by_group, flag_help
from ringfeedd.errors import DaemonError
from ringfeedd.log import Log
from ringfeedd.storage import modules_for
from ringfeedd.supervisor.state import Surroundings
from ringfeedd.supervisor.supervisor import Supervisor
from ringfeedd.system.console import STDERR
from ringfeedd.system.credentials import HTTP_TOKEN, credential
from ringfeedd.system.prctl import return_freed_memory
from ringfeedd.system.proxies import spare_local_hosts
from ringfeedd.system.systemd import Notifier
from ringfeedd.worker.process import Spawner

if TYPE_CHECKING:
    from tqdm import tqdm

_LOG: Final = logging.getLogger("ringfeedd")

_EXIT_CODES: Final = (
    "Exit codes: 0 stopped cleanly; 1 crashed or every ring failed; 2 usage; 3 could not start; "
    "75 already running; 78 bad configuration."
)


def add_serve(commands: argparse._SubParsersAction[CommandParser]) -> None:
    """Add `serve` to a parser's commands."""
    parser = commands.add_parser(
        "serve",
        help="run the daemon in the foreground",
        description="Fetches the pairs of ROOT, decodes each once, and serves the rings `train` and `test`. Prints "
        "`ready` once the first slots are published. SIGTERM and Ctrl-C stop it; SIGHUP reads the configuration "
        "again and lists ROOT again.",
        epilog="A flag wins over the environment variable of the same name (RINGFEED_SLOTS for --slots), that over "
        f"--config. docs/settings.md has all settings. {_EXIT_CODES}",
        usage="ringfeed serve [ROOT] [--config FILE] [SETTINGS]",
        argument_default=argparse.SUPPRESS,
    )
    add_settings(parser)
    parser.add_argument(
        "--stop-on-eof",
        action="store_true",
        help="stop once standard input has ended and no process reads: for a parent process",
    )
    parser.set_defaults(run=_serve)


def add_settings(parser: CommandParser) -> None:
    """Add ROOT, ``--config`` and the flags of all settings to a parser, by group."""
    root = SETTINGS["root"]
    parser.add_argument("root", nargs="?", metavar=root.kind.metavar, help=flag_help(root))
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="TOML file of the same settings (default: RINGFEED_CONFIG)"
    )
    parser.renamed = {f"--{name.replace('_', '-')}": one.flag for name, one in RENAMED.items()}
    for heading, settings in by_group():
        group = parser.add_argument_group(heading)
        for one in settings:
            if not one.required:
                _add_flag(group, one)


def _add_flag(group: argparse._ArgumentGroup, one: Setting) -> None:
    if one.is_switch:
        group.add_argument(one.flag, dest=one.name, action=argparse.BooleanOptionalAction, help=flag_help(one))
        return
    form = partial(_of_its_form, one)
    metavar = None if isinstance(one.kind, Choice) else one.kind.metavar
    choices = one.kind.words if isinstance(one.kind, Choice) else None
    group.add_argument(one.flag, dest=one.name, type=form, metavar=metavar, choices=choices, help=flag_help(one))


def _of_its_form(one: Setting, text: str) -> str:
    """Return a flag's text where it is of the setting's kind; its bounds are checked with all other settings."""
    try:
        one.kind.read(text, from_text=True)
    except FormError as error:
        raise argparse.ArgumentTypeError(f"{text}: {error}") from error
    except (ValueError, DaemonError):
        pass
    return text


def load_settings(arguments: argparse.Namespace) -> Loaded:
    """Read all settings of a command line with `add_settings`. Raises: ConfigError."""
    given = vars(arguments)
    flags: dict[str, Any] = {name: given[name] for name in SETTINGS if given.get(name) is not None}
    return load(given.get("config") or config_path(os.environ), flags, defaults=_defaults())


def _defaults() -> dict[str, Any]:
    """Return the settings that hold unless others are given: what systemd loaded for this service."""
    token = credential(HTTP_TOKEN, os.environ)
    return {"http_token_file": str(token)} if token else {}


def _serve(arguments: argparse.Namespace) -> int:
    return_freed_memory()
    loaded = load_settings(arguments)
    settings = resolve(loaded.config)
    log = Log()
    _begin_log(log, loaded.config)
    for warning in loaded.warnings:
        _LOG.warning("%s", warning)
    spare_local_hosts(os.environ)
    spawner = Spawner(arguments.server, arguments.worker_module)
    config = loaded.config
    spawner.need(modules_for(config.root, emulator=config.emulator, transport=config.transport))
    stop_on_eof = hasattr(arguments, "stop_on_eof")
    try:
        return asyncio.run(
            _supervise(settings, log, spawner, read=partial(load_settings, arguments), stop_on_eof=stop_on_eof)
        )
    except DaemonError as error:
        for sentence in error.sentences:
            log.fatal(sentence)
        return error.exit_code
    finally:
        log.tell_repeats(end=True)


def _begin_log(log: Log, config: Config) -> None:
    log.begin(level=config.log_level, form=config.log_format)


async def _supervise(
    settings: Settings, log: Log, spawner: Spawner, *, read: Callable[[], Loaded], stop_on_eof: bool
) -> int:
    bar = _ListingBar()
    around = Surroundings(
        say=log.say,
        on_progress=bar.show,
        on_listed=bar.close,
        notifier=Notifier.from_environ(),
        spawner=spawner,
        read=read,
        on_config=partial(_begin_log, log),
        on_tick=log.tell_repeats,
        on_stop=partial(log.tell_repeats, end=True),
    )
    supervisor = Supervisor(settings, around)
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
            # disable=None: no bar where stderr is not a terminal, e.g. in a journal
            self._bar = tqdm(desc="listing", unit=" objects", disable=None, leave=False, file=STDERR)
        self._bar.update(progress.images + progress.labels - self._bar.n)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _await_eof(starter_gone: Callable[[], object]) -> None:
    with contextlib.suppress(OSError):  # standard input is closed
        while os.read(0, 4096):
            pass
    with contextlib.suppress(RuntimeError):  # the loop has ended
        starter_gone()

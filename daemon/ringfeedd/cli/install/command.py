"""`ringfeed install-service`: plan, then print or do it. Exit codes: 0 done, 2 usage, 3 refused."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from ringfeed.cli.arguments import CommandParser
from ringfeed.shm.layout import RING_NAME_PATTERN
from ringfeedd.errors import EXIT_CLEAN

from . import files
from .host import USER, Host, absolute, find_executable, read_host
from .plan import plan_install, plan_uninstall
from .steps import InstallError, Step, carry_out
from .trust import closed_to_others, open_to_changes

_SAFE_PLACE: Final = "for example python3 -m venv /opt/ringfeed && /opt/ringfeed/bin/pip install ringfeed"


def add_install_service(commands: argparse._SubParsersAction[CommandParser]) -> None:
    """Add the command to the command line."""
    parser = commands.add_parser(
        "install-service",
        help="install the daemon as a systemd service, or remove it",
        description="Installs `ringfeed serve` as a systemd service of the system user `ringfeed`: ringfeed.service "
        "for /etc/ringfeed/ringfeed.toml, ringfeed@NAME.service for /etc/ringfeed/NAME.toml. An existing config stays "
        "as it is.",
        epilog="Exit codes: 0 done; 2 usage; 3 refused, and nothing more was done.",
    )
    parser.add_argument(
        "--config",
        dest="names",
        type=_config_name,
        nargs="+",
        action="extend",
        metavar="NAME",
        help="configs to install or, with --uninstall, to remove (default: ringfeed; all)",
    )
    parser.add_argument("--exec", type=Path, metavar="PATH", help="the `ringfeed` command to run (default: this one)")
    parser.add_argument(
        "--group",
        type=_group_name,
        default=USER,
        metavar="NAME",
        help="unix group that may attach to the rings (default: ringfeed)",
    )
    parser.add_argument("--now", action="store_true", help="also enable the services at boot, and start them")
    parser.add_argument("--dry-run", action="store_true", help="print every file and command, and change nothing")
    parser.add_argument("--uninstall", action="store_true", help="remove the services; configs and user stay")
    parser.add_argument("--purge", action="store_true", help="with --uninstall: also remove the configs and the user")
    parser.add_argument(
        "--prefix",
        type=Path,
        metavar="DIR",
        default=os.environ.get("DESTDIR") or None,
        help="write below DIR and run no command, for packages and images (default: $DESTDIR)",
    )
    parser.set_defaults(run=_install_service, usage_error=parser.error)


def _config_name(text: str) -> str:
    if not re.fullmatch(RING_NAME_PATTERN, text):
        raise argparse.ArgumentTypeError(
            f"{text}: must be the name of a config without folder and .toml: 1 to 64 letters, digits, '-' and '_'"
        )
    return text


def _group_name(text: str) -> str:
    if not re.fullmatch(r"[a-z_][a-z0-9_-]{0,31}", text):
        raise argparse.ArgumentTypeError(f"{text}: must be the name of a unix group")
    return text


def _install_service(options: argparse.Namespace) -> int:
    usage_error: Callable[[str], None] = options.usage_error
    if options.purge and not options.uninstall:
        usage_error("--purge needs --uninstall")
    if options.uninstall and (options.now or options.exec):
        usage_error("--now and --exec do not go with --uninstall")
    host = read_host(absolute(options.prefix) if options.prefix else None, files.UNITS)
    try:
        steps = decide(options, host)
        for step in steps:
            _say(step.shown() if options.dry_run else str(step))
            if not options.dry_run:
                carry_out(step)
    except OSError as error:
        raise InstallError(f"{error.strerror}: {error.filename}; nothing more was done") from error
    if not steps:
        _say("nothing to do: the service is " + ("not installed" if options.uninstall else "installed as it should be"))
    elif not (options.uninstall or options.dry_run or options.now or host.prefix):
        names = options.names or [files.DEFAULT]
        configs = ", ".join(str(files.config_path(name)) for name in names)
        _say(f"next: set `root` in {configs}, then: systemctl enable --now {' '.join(map(files.service_of, names))}")
    return EXIT_CLEAN


def decide(options: argparse.Namespace, host: Host) -> list[Step]:
    """Refuse what cannot work, and plan the rest; a dry run prints what only a real one is refused for.

    Raises:
        InstallError: see the sentences.
    """
    obstacles = list(_obstacles(host))
    if options.uninstall:
        steps = plan_uninstall(host, options.names or [], purge=options.purge)
    else:
        executable = find_executable(options.exec)
        obstacles += _dangers(executable, host)
        steps = plan_install(host, executable, options.group, options.names or [files.DEFAULT], start=options.now)
    if obstacles and not options.dry_run:
        raise obstacles[0]
    for obstacle in obstacles:
        _say(f"note: {obstacle}")
    return steps


def _obstacles(host: Host) -> Iterator[InstallError]:
    """Yield why nothing can be installed on this machine now."""
    if host.prefix is None and not host.has_systemd:
        yield InstallError(
            "this machine was not booted with systemd (no /run/systemd/system); use --prefix to stage files"
        )
    if host.prefix is None and not host.is_root:
        yield InstallError("this needs root; run it with sudo, or see what it would do with --dry-run")


def _dangers(executable: Path, host: Host) -> Iterator[InstallError]:
    """Yield why the service should not run this command."""
    if host.prefix is None and (closed := closed_to_others(executable)):
        yield InstallError(
            f"the user {USER} could not run {executable}: {closed}; install it in an open place, {_SAFE_PLACE}"
        )
    owners = frozenset({0, int(os.environ.get("SUDO_UID", "0"))}) if host.prefix is None else None
    if changing := open_to_changes(executable, owners):
        yield InstallError(
            f"the service would run what others can change: {changing}; install it where root alone may write, "
            f"{_SAFE_PLACE}"
        )


def _say(text: str) -> None:
    """Print in order with what the commands print."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()

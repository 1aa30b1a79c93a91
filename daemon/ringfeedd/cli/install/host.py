"""What the plan depends on, read once: the machine, its users, its systemd, and the command to run."""

from __future__ import annotations

import grp
import os
import pwd
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .steps import InstallError

USER: Final = "ringfeed"
USER_COMMENT: Final = "Ringfeed prefetch daemon"

NOTIFY_RELOAD: Final = 253
"""The first systemd with ``Type=notify-reload``."""


@dataclass(frozen=True, slots=True)
class Host:
    """Facts of the machine.

    Attributes:
        user_is_ours: an install made the user, so that a purge may remove it.
        systemd: its version; 0 where it is unknown, e.g. below a prefix.
        instances: names of the configs whose services are enabled.
        prefix: the folder below which all files are written; None: this machine's own root.
    """

    is_root: bool
    has_systemd: bool
    has_user: bool
    user_is_ours: bool
    groups: frozenset[str]
    systemd: int = 0
    instances: tuple[str, ...] = ()
    prefix: Path | None = None

    def path(self, installed: Path) -> Path:
        """Return where a file of the service lies now: below the prefix, if there is one."""
        return self.prefix / installed.relative_to("/") if self.prefix else installed


def read_host(prefix: Path | None, units: Path) -> Host:
    """Read the machine's facts; with a prefix only files below it matter.

    Args:
        units: the folder of the unit files.
    """
    try:
        entry = pwd.getpwnam(USER)
    except KeyError:
        entry = None
    wanted = (prefix / units.relative_to("/") if prefix else units).glob("*.wants/ringfeed@*.service")
    return Host(
        is_root=os.geteuid() == 0,
        has_systemd=Path("/run/systemd/system").is_dir(),
        has_user=entry is not None,
        user_is_ours=entry is not None and entry.pw_gecos == USER_COMMENT,
        groups=frozenset(group.gr_name for group in grp.getgrall()),
        systemd=_systemd_version() if prefix is None else 0,
        instances=tuple(sorted({path.stem.partition("@")[2] for path in wanted} - {""})),
        prefix=prefix,
    )


def _systemd_version() -> int:
    try:
        shown = subprocess.run(("systemctl", "--version"), capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    found = re.match(r"systemd (\d+)", shown.stdout)
    return int(found[1]) if found else 0


def absolute(path: Path) -> Path:
    """Return the path without `..`, which systemd refuses; links are kept, as /opt/ringfeed/current may be intended."""
    return Path(os.path.abspath(path))  # noqa: PTH100 - resolve() follows links, absolute() keeps `..`


def find_executable(given: Path | None) -> Path:
    """Return the `ringfeed` command: as given, or that of this installation, or the one on PATH.

    Raises:
        InstallError: there is none, or a unit file cannot name it.
    """
    if given is not None:
        executable = absolute(given)
        if not (executable.is_file() and os.access(executable, os.X_OK)):
            raise InstallError(f"{executable} is not an executable file; pass the path of `ringfeed` with --exec")
    else:
        own = Path(sys.executable).with_name("ringfeed")
        found = str(own) if own.is_file() else shutil.which("ringfeed")
        if found is None:
            raise InstallError("no `ringfeed` command was found; install the package, or pass its path with --exec")
        executable = absolute(Path(found))
    if not re.fullmatch(r"/[\w./+:=, @-]*", str(executable)):
        raise InstallError(
            f"the path {str(executable)!r} has characters that a unit file cannot hold; move or link it to a plainer "
            "one"
        )
    return executable

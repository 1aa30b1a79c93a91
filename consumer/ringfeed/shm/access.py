"""Trust: whose files in /dev/shm are accepted as a daemon's, in a folder where every user may make files."""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

from ringfeed.errors import NoAccessError

USERS_VARIABLE: Final = "RINGFEED_TRUSTED_USERS"
"""Names or uids of users whose rings this process trusts, comma-separated."""

USERS_FILE: Final = Path("/etc/ringfeed/trusted-users")
"""The same for every process of this machine, one on a line; trusted where root alone can write it."""

SERVICE_USER: Final = "ringfeed"
"""Made by scripts/install-systemd for the daemon; trusted where it is a system user, which only root makes."""

_MOST_BYTES: Final = 1 << 16
_FIRST_PERSON_UID: Final = 1000


def distrust(facts: os.stat_result, *, uid: int, gids: Collection[int], trusted: Collection[int] = ()) -> str | None:
    """Return why a file in a folder where every user may write is not trusted; None if it is.

    A user trusts its own files, root's, and those of its groups: no user can give a file to a group without being in
    it. Root, who may open everything, trusts no group's files: every member could plant one.

    Args:
        uid, gids: of the process that asks.
        trusted: users that are trusted besides, see `trusted_uids`.
    """
    if not stat.S_ISREG(facts.st_mode):
        return "it is not a regular file"
    if facts.st_mode & stat.S_IRWXO:
        return "any user may open it, and a daemon lets only its user and its group"
    if facts.st_uid in (uid, 0) or facts.st_uid in trusted:
        return None
    if uid == 0:
        return f"root trusts only its own, and those of users named in {USERS_VARIABLE} or {USERS_FILE}"
    if facts.st_gid in gids:
        return None
    return "it belongs to another user, and to no group that this process is in"


def trusted_uids(environ: Mapping[str, str] = os.environ, file: Path = USERS_FILE) -> frozenset[int]:
    """Return the users that this process, or this machine, is configured to trust.

    Names that this machine does not know are left out.
    """
    words = environ.get(USERS_VARIABLE, "").replace(",", " ").split()
    for line in _lines_of_root(file):
        words += line.partition("#")[0].replace(",", " ").split()
    uids = {uid for word in words if (uid := _uid(word)) is not None}
    service = _uid(SERVICE_USER)
    if service is not None and service < _FIRST_PERSON_UID:
        uids.add(service)
    return frozenset(uids)


def _lines_of_root(file: Path) -> list[str]:
    try:
        fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return []
    with os.fdopen(fd, "rb") as opened:
        facts = os.fstat(fd)
        if not stat.S_ISREG(facts.st_mode) or facts.st_uid != 0 or facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            return []
        return opened.read(_MOST_BYTES).decode(errors="replace").splitlines()


def _uid(word: str) -> int | None:
    if word.isascii() and word.isdigit():
        return int(word)
    try:
        return pwd.getpwnam(word).pw_uid
    except (KeyError, ValueError):
        return None


def remedy(facts: os.stat_result, uid: int) -> str:
    """Return what to do about a file that is not trusted.

    Args:
        uid: of the process that asks.
    """
    if uid == 0 and stat.S_ISREG(facts.st_mode) and not facts.st_mode & stat.S_IRWXO:
        return "run this as its owner, or name the owner there if it is a daemon's"
    return "find out who made it, and remove it"


def describe(path: Path) -> str:
    """Return a path with its mode, owner and group, for a sentence."""
    try:
        facts = path.lstat()
    except FileNotFoundError:
        return f"{path} (it is gone)"
    except OSError as error:
        return f"{path} ({error.strerror})"
    return f"{path} {ownership(facts)}"


def ownership(facts: os.stat_result) -> str:
    """Return a file's mode, owner and group, in parentheses."""
    return f"(mode {stat.S_IMODE(facts.st_mode):04o}, owner {facts.st_uid}, group {facts.st_gid})"


def no_access(path: Path) -> NoAccessError:
    """Return the error for a file that this user may not open."""
    if not os.access(path.parent, os.X_OK, effective_ids=True):
        return NoAccessError(
            f"{describe(path.parent)} is closed to this user (uid {os.geteuid()}); mount it as a tmpfs with mode 1777"
        )
    return NoAccessError(
        f"{describe(path)} is closed to this user (uid {os.geteuid()}); let the daemon run with `group = NAME`, a "
        f"group that both are in, or run this as its user"
    )

"""Leavings: what a dead daemon of a ring left in /dev/shm, removed by its successor or by `ringfeed clean`."""

from __future__ import annotations

import contextlib
import os
import re
import stat

from ringfeed import layout, segment
from ringfeed.errors import NotTrustedError
from ringfeed.layout import DAEMON_LOCK_BYTE, control_name, former_name
from ringfeedd.errors import AlreadyRunningError, StartError


def clear_leavings(ring: str, keep: frozenset[str] = frozenset()) -> list[str]:
    """Unlink what a dead daemon left under this ring's name; only its singleton lock's holder may call this.

    Args:
        keep: generations whose control segment and descriptor stay, since their consumers are still to come.

    Raises:
        AlreadyRunningError: a daemon lives whose lock file somebody removed.
        StartError: something there is another user's, or nothing that a daemon makes; then nothing is removed.
    """
    files = re.compile(re.escape(f"{layout.PREFIX}{ring}.") + r"([0-9a-f]{16})\.(ctl|data|draft|former)")
    bells = re.compile(re.escape(f"sem.{layout.PREFIX}{ring}.") + r"[0-9a-f]{16}\.(space|lane\.\d+)")
    there = segment.names()
    leavings = [name for name in there if files.fullmatch(name) or bells.fullmatch(name)]
    leavings += [name for name in (layout.descriptor_name(ring), layout.errors_name(ring)) if name in there]
    for name in leavings:
        _insist_on_our_own(name, ring)
    for name in leavings:
        if name.endswith(".ctl"):
            with contextlib.suppress(PermissionError, FileNotFoundError, NotTrustedError):
                fd = segment.open_lock(name)
                lives = segment.is_locked(fd, DAEMON_LOCK_BYTE)
                os.close(fd)
                if lives:
                    raise AlreadyRunningError(
                        f"a daemon still serves the ring {ring!r} although its lock file was removed; stop "
                        f"that daemon first"
                    )
    kept = {name for generation in keep for name in (control_name(ring, generation), former_name(ring, generation))}
    leavings = [name for name in leavings if name not in kept]
    for name in leavings:
        segment.shm_path(name).unlink(missing_ok=True)
    return leavings


def _insist_on_our_own(name: str, ring: str) -> None:
    """Raise StartError unless a daemon of this user can have made the file."""
    path = segment.shm_path(name)
    try:
        facts = path.lstat()
    except FileNotFoundError:
        return
    if facts.st_uid != os.geteuid():
        raise StartError(
            f"{path} belongs to another user (uid {facts.st_uid}), whose daemon may have left it; have that user run "
            f"`ringfeed clean {ring}`, or choose another name with --ring"
        )
    if not stat.S_ISREG(facts.st_mode):
        raise StartError(
            f"{path} is no plain file, so no daemon made it, and it is left alone; find out who did and remove it, or "
            f"choose another name with --ring"
        )

"""`ringfeed doctor`: gathers what a person would look at in the middle of the night, and has `checks` judge it."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.metadata
import os
import re
import resource
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import ringfeed
from ringfeed.cli.status import ring_status
from ringfeed.daemon.process import find_daemon
from ringfeed.errors import RingfeedError
from ringfeed.shm import layout, segment
from ringfeed.shm.control import open_control
from ringfeed.shm.descriptor import read_descriptor, ring_names
from ringfeed.shm.failures import lists_of_stopped
from ringfeed.shm.layout import DAEMON_LOCK_BYTE
from ringfeedd.cache.opening import available_bytes
from ringfeedd.cli import checks
from ringfeedd.cli.checks import Check, Level
from ringfeedd.cli.clean import rings_with_files
from ringfeedd.cli.store import ask_store
from ringfeedd.storage.roots import GCS_SCHEME
from ringfeedd.system.control_group import memory_of_group

_TIMEX_BYTES: Final = 256
"""More than the kernel's struct timex, which begins with the modes: all zero, it only asks."""
_TIME_ERROR: Final = 5


def examine(
    environ: Mapping[str, str] = os.environ, root: str | None = None, emulator: str | None = None
) -> list[Check]:
    """Look at this machine, at every ring on it and at the buckets that they read. Changes nothing.

    Args:
        root: a bucket to be asked as well, e.g. before a daemon is started.
        emulator: the address of a GCS emulator that has it.
    """
    release = f"ringfeed {ringfeed.__version__}, Python {sys.version.split()[0]}"
    return [
        Check("release", Level.OK, release),
        _shared_memory(),
        *checks.group_memory(memory_of_group()),
        checks.open_files(*resource.getrlimit(resource.RLIMIT_NOFILE)),
        _clock(),
        *checks.environment(environ, credentials_readable=_readable(environ.get("GOOGLE_APPLICATION_CREDENTIALS"))),
        *checks.packages(fast=_fast_packages(), torch=_version("torch")),
        *_listed(),
        *_stores(root, emulator),
    ]


def _stores(root: str | None, emulator: str | None) -> Iterator[Check]:
    """Ask every bucket once, without a token where an emulator has it."""
    buckets = {} if root is None else {(root, emulator): None}
    with contextlib.suppress(RingfeedError):
        for name in ring_names():
            with contextlib.suppress(RingfeedError):
                identity = read_descriptor(name).identity
                buckets[identity.root, identity.emulator] = None
    for bucket, address in buckets:
        if bucket.startswith(GCS_SCHEME):
            yield ask_store(bucket, address)


def _listed() -> Iterator[Check]:
    """What can be told of rings, where /dev/shm can be listed."""
    try:
        segment.names()
    except RingfeedError as error:
        yield Check("rings", Level.BAD, str(error), f"Run this as a user who may look into {layout.SHM_DIR}")
        return
    yield checks.leftovers(_leftovers())
    yield from _rings()


def _shared_memory() -> Check:
    try:
        facts, mode = os.statvfs(layout.SHM_DIR), Path(layout.SHM_DIR).stat().st_mode
    except OSError as error:
        return checks.no_shared_memory(error.strerror or str(error))
    return checks.shared_memory(
        total=facts.f_blocks * facts.f_frsize,
        free=facts.f_bavail * facts.f_frsize,
        writable=os.access(layout.SHM_DIR, os.W_OK | os.X_OK),
        read_only=bool(facts.f_flag & os.ST_RDONLY),
        mode=mode,
    )


def _clock() -> Check:
    newest = max(path.stat().st_mtime for path in Path(__file__).parent.glob("*.py"))
    return checks.clock(now_unix_s=time.time(), newest_file_unix_s=newest, synchronised=_synchronised())


def _synchronised() -> bool | None:
    """Return the kernel's state of the clock, as time synchronisation sets it; None if it cannot be read."""
    try:
        state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    except (OSError, AttributeError):
        return None
    return None if state < 0 else state != _TIME_ERROR


def _readable(path: str | None) -> bool:
    return path is None or os.access(path, os.R_OK)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _fast_packages() -> dict[str, str | None]:
    """Versions by package of the extra ``fast``, as this installation's metadata names them."""
    wanted = importlib.metadata.requires("ringfeed") if _version("ringfeed") else None
    of_fast = (entry for entry in wanted or () if re.search(r"extra\s*==\s*['\"]fast['\"]", entry))
    names = [match[0] for entry in of_fast if (match := re.match(r"[A-Za-z0-9._-]+", entry))]
    return {name: _version(name) for name in names}


def _leftovers() -> dict[str, int]:
    """Files of rings that no daemon serves, counted; a stopped ring's list of failed pairs alone is none."""
    found = {}
    for ring in rings_with_files():
        names = [name for name in segment.names() if _belongs(name, ring) and _can_be_told(name)]
        if names and not any(_daemon_lives(name) for name in names):
            found[ring] = len(names)
    return found


def _can_be_told(name: str) -> bool:
    """Return whether this user can find out whose a file is: its own, or one that it trusts."""
    try:
        facts = segment.shm_path(name).lstat()
    except OSError:
        return False
    return facts.st_uid == os.geteuid() or segment.distrust(facts) is None


def _belongs(name: str, ring: str) -> bool:
    stem = name.removeprefix("sem.").removeprefix(layout.PREFIX)
    return (stem == ring or stem.startswith(f"{ring}.")) and name != layout.errors_name(ring)


def _daemon_lives(name: str) -> bool:
    """Whether a daemon holds this file's lock; so it is said of a file that this user may not open, too."""
    if not name.endswith((".lock", ".ctl")):
        return False
    try:
        fd = segment.open_existing(name, writable=False)
    except PermissionError:
        return True
    except (OSError, RingfeedError):
        return False
    try:
        return segment.is_locked(fd, DAEMON_LOCK_BYTE)
    finally:
        os.close(fd)


def _rings() -> Iterator[Check]:
    served, statuses = ring_names(), []
    for name in served:
        try:
            status = ring_status(name)
        except RingfeedError as error:
            yield Check(f"ring {name}", Level.BAD, str(error))
        else:
            yield checks.ring(status, _process_of(name))
            if status.state == "serving":
                statuses.append(status)
    yield from checks.caches(statuses, _spare_bytes())
    for listed in lists_of_stopped():
        if (name := listed.ring) not in served:
            cure = f"`ringfeed errors {name}` lists the pairs; fix them, and start the daemon again"
            yield Check(f"ring {name}", Level.BAD, f"was stopped: {listed.stopped}", cure)
    if not served:
        yield Check("rings", Level.WARN, "no ring is served on this machine", "`ringfeed serve gs://bucket/prefix`")


def _spare_bytes() -> int:
    """Return the bytes of shared memory that are free, in /dev/shm and on the machine."""
    facts, group = os.statvfs(layout.SHM_DIR), memory_of_group()
    spare = [facts.f_bavail * facts.f_frsize, available_bytes(), *([] if group is None else [group.left])]
    return min(spare)


def _process_of(ring: str) -> checks.Process | None:
    """The process that serves a ring, where this one can see it."""
    with contextlib.suppress(RingfeedError, OSError):
        control = open_control(ring)
        process = find_daemon(control)
        control.close()
        if process is not None:
            state = process.state()
            process.close()
            return checks.Process(process.pid, state)
    return None

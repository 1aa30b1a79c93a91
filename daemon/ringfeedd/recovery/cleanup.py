"""Leavings: what a dead daemon of a ring left in /dev/shm, removed by its successor or by `ringfeed clean`.

Every user may make files in /dev/shm, also under a ring's names. What no daemon of this user can have made is never
removed: it stops the start where the daemon needs the name itself, and is passed over where it does not.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from ringfeed.errors import NotTrustedError
from ringfeed.shm import access as trust
from ringfeed.shm import layout, segment
from ringfeed.shm.descriptor import named_generation
from ringfeed.shm.failures import MOST_BYTES
from ringfeed.shm.layout import DAEMON_LOCK_BYTE, PAGE_BYTES, Header, control_name, former_name
from ringfeedd.errors import AlreadyRunningError, StartError

_HEADER_BYTES: Final = Header.LANES + 8


def clear_leavings(ring: str, keep: frozenset[str] = frozenset()) -> list[str]:
    """Unlink what a dead daemon left under this ring's name; only its singleton lock's holder may call this.

    Args:
        keep: generations whose control segment and descriptor stay, since their consumers are still to come.

    Returns:
        The names of what was removed.

    Raises:
        AlreadyRunningError: a daemon lives whose lock file was removed.
        StartError: the descriptor, or the list of failed pairs, is not a file that a daemon of this user made; then
            nothing is removed.
    """
    there = segment.names()
    fixed = [name for name in (layout.descriptor_name(ring), layout.errors_name(ring)) if name in there]
    named = {name: _insist_on_our_own(name, ring) for name in fixed}
    generations = by_generation(ring, there)
    ours = _our_generations(ring, generations) | (generations.keys() & {named.get(layout.descriptor_name(ring))})
    for generation in ours:
        _insist_that_it_is_dead(ring, generation)
    kept = {name for generation in keep for name in (control_name(ring, generation), former_name(ring, generation))}
    left = [name for generation in ours for name in generations[generation] if _ours(segment.shm_path(name))]
    # the control segments last: without them, no process can tell whose the other files are
    leavings = fixed + sorted((name for name in left if name not in kept), key=lambda name: name.endswith(".ctl"))
    for name in leavings:
        segment.shm_path(name).unlink(missing_ok=True)
    return leavings


def foreign_files(ring: str) -> str | None:
    """Return a sentence on files that no daemon of this user made under names of generations; None where none are.

    They are in no daemon's way.
    """
    generations = by_generation(ring, segment.names())
    ours = _our_generations(ring, generations)
    foreign = [
        path
        for generation, names in generations.items()
        for path in map(segment.shm_path, names)
        if generation not in ours or not _ours(path)
    ]
    if not foreign:
        return None
    more = f" and {len(foreign) - 1} others" if len(foreign) > 1 else ""
    return (
        f"no daemon of this user made {trust.describe(min(foreign))}{more}, under names of the ring's files; left alone"
    )


def by_generation(ring: str, names: Iterable[str]) -> dict[str, list[str]]:
    """Return those of these names in /dev/shm that are of a generation of a ring, by generation."""
    files = re.compile(re.escape(f"{layout.PREFIX}{ring}.") + r"([0-9a-f]{16})\.(?:ctl|data|draft|former)")
    bells = re.compile(re.escape(f"sem.{layout.PREFIX}{ring}.") + r"([0-9a-f]{16})\.(?:space|lane\.\d+)")
    found: dict[str, list[str]] = {}
    for name in names:
        if match := files.fullmatch(name) or bells.fullmatch(name):
            found.setdefault(match[1], []).append(name)
    return found


def _ours(path: Path) -> bool:
    """Return whether a daemon of this user can have made a file of this owner, kind and mode."""
    with contextlib.suppress(OSError):
        facts = path.lstat()
        return facts.st_uid == os.geteuid() and stat.S_ISREG(facts.st_mode) and not facts.st_mode & stat.S_IRWXO
    return False


def _our_generations(ring: str, generations: Iterable[str]) -> set[str]:
    return {generation for generation in generations if _has_our_control_segment(ring, generation)}


def _has_our_control_segment(ring: str, generation: str) -> bool:
    """Return whether the generation's control segment is there, and has the header that a daemon gave it.

    A daemon names it first and removes it last: what lies there without it, no daemon left.
    """
    name = control_name(ring, generation)
    if not _ours(segment.shm_path(name)):
        return False
    try:
        fd = segment.open_existing(name, writable=False)
    except (OSError, NotTrustedError):
        return False
    try:
        size, head = os.fstat(fd).st_size, os.pread(fd, _HEADER_BYTES, 0)
    finally:
        os.close(fd)
    if len(head) < _HEADER_BYTES or size % PAGE_BYTES:
        return False
    magic, _, of, control_bytes = struct.unpack_from("<4Q", head)
    return (magic, of, control_bytes) == (layout.MAGIC, int(generation, 16), size)


def _insist_that_it_is_dead(ring: str, generation: str) -> None:
    with contextlib.suppress(FileNotFoundError, NotTrustedError):
        fd = segment.open_existing(control_name(ring, generation), writable=False)
        lives = segment.is_locked(fd, DAEMON_LOCK_BYTE)
        os.close(fd)
        if lives:
            raise AlreadyRunningError(
                f"a daemon still serves the ring {ring!r} although its lock file was removed; stop that daemon first"
            )


def _insist_on_our_own(name: str, ring: str) -> str | None:
    """Return the generation of a descriptor or a list of failed pairs, whose name the next daemon needs.

    None where it is gone meanwhile.

    Raises:
        StartError: no daemon of this user can have made it.
    """
    path = segment.shm_path(name)
    try:
        facts = path.lstat()
    except FileNotFoundError:
        return None
    file = f"{path} {trust.ownership(facts)}"
    if facts.st_uid != os.geteuid():
        raise StartError(
            f"{file} belongs to another user, whose daemon may have left it; have that user run `ringfeed clean "
            f"{ring}`, have root remove it, or choose another name with --ring"
        )
    if not stat.S_ISREG(facts.st_mode):
        raise StartError(
            f"{file} is not a regular file, so no daemon made it, and it is left alone; find out who did and remove "
            f"it, or choose another name with --ring"
        )
    try:
        generation = named_generation(ring, segment.read_whole(name, MOST_BYTES, own=True))
    except FileNotFoundError:
        return None
    except (NotTrustedError, OSError):
        generation = None
    if generation is None:
        raise StartError(
            f"{file} is not what a daemon of ring {ring!r} writes there, and it is left alone; find out who made it "
            f"and remove it, or choose another name with --ring"
        )
    return generation

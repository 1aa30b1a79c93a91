"""May the service run this command? Root starts it at every boot, so no other user may change a byte of it."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Final

from .steps import InstallError

MOST_LINKS: Final = 40
"""The kernel gives up after as many."""


def closed_to_others(executable: Path) -> str | None:
    """Return why the service's user could not run the command, or None."""
    needed = [executable]
    if (interpreter := _interpreter(executable)) is not None and interpreter.exists():
        needed.append(interpreter)
    for path in needed:
        for target in (path, path.resolve()):
            for part in (target, *target.parents):
                if not part.stat().st_mode & stat.S_IXOTH:
                    return f"{part} is closed to other users (mode {stat.S_IMODE(part.stat().st_mode):04o})"
    return None


def open_to_changes(executable: Path, owners: frozenset[int] | None) -> str | None:
    """Return why other users could change what the service runs, or None.

    Args:
        owners: users who may own it; None: any.
    """
    files, folders = _code_of(executable)
    looked_at: set[Path] = set()
    for path in chain(files, folders, *(_suspects(folder, owners) for folder in folders)):
        for part in _visited(path):
            if part not in looked_at and part.exists() and (why := _changeable(part, owners)):
                return why
            looked_at.add(part)
    return None


def _interpreter(executable: Path) -> Path | None:
    """Return what the command's ``#!`` line names."""
    with executable.open("rb") as script:
        first = script.readline(4096)
    words = first[2:].split() if first.startswith(b"#!") else []
    return Path(os.fsdecode(words[0])) if words else None


def _code_of(executable: Path) -> tuple[list[Path], list[Path]]:
    """Return the command and its interpreter, and the folders with the packages of its environment."""
    files = [each for each in (executable, _interpreter(executable)) if each is not None]
    folders: list[Path] = []
    environment = executable.parent.parent
    if (environment / "pyvenv.cfg").is_file():
        folders = list(environment.glob("lib*/python*/site-packages"))
        for links in [path for packages in folders for path in packages.glob("*.pth")]:
            lines = links.read_text(encoding="utf-8", errors="replace").splitlines()
            folders += [Path(line) for line in lines if line.startswith("/") and Path(line).is_dir()]
    return files, folders


def _visited(path: Path) -> Iterator[Path]:
    """Yield every folder and file that a lookup of the path goes through, those of its symbolic links included."""
    here, names, links = Path("/"), list(path.parts[1:]), 0
    yield here
    while names:
        name = names.pop(0)
        if name == "..":
            here = here.parent
        elif (here / name).is_symlink():
            links += 1
            if links > MOST_LINKS:
                raise InstallError(f"{path} leads through too many symbolic links")
            target = (here / name).readlink()
            here = Path("/") if target.is_absolute() else here
            names = [*(part for part in target.parts if part != "/"), *names]
        else:
            here /= name
            yield here


def _suspects(folder: Path, owners: frozenset[int] | None) -> Iterator[Path]:
    """Yield what lies below a folder and looks as if other users could change it, and every link."""
    for parent, folders, files in os.walk(folder):  # of tens of thousands of files
        for name in (*folders, *files):
            path = f"{parent}/{name}"
            facts = os.lstat(path)
            if stat.S_ISLNK(facts.st_mode) or facts.st_mode & 0o022 or (owners and facts.st_uid not in owners):
                yield Path(path)


def _changeable(path: Path, owners: frozenset[int] | None) -> str | None:
    """Return why another user could change the file or folder, or None."""
    facts = path.stat()
    mode = f"(mode {stat.S_IMODE(facts.st_mode):04o}, owner {facts.st_uid}, group {facts.st_gid})"
    if owners is not None and facts.st_uid not in owners:
        return f"{path} {mode} belongs to another user"
    if stat.S_ISDIR(facts.st_mode) and facts.st_mode & stat.S_ISVTX:
        return None  # as in /tmp, others cannot replace what is not theirs
    if facts.st_mode & stat.S_IWOTH:
        return f"any user may write {path} {mode}"
    if facts.st_mode & stat.S_IWGRP and facts.st_gid != 0 and not _is_private(facts):
        return f"a group may write {path} {mode}"
    return None


def _is_private(facts: os.stat_result) -> bool:
    """Return whether the file's group is its owner's alone, as many systems make one for each user."""
    try:
        owner, group = pwd.getpwuid(facts.st_uid), grp.getgrgid(facts.st_gid)
    except KeyError:
        return False
    return owner.pw_gid == group.gr_gid and set(group.gr_mem) <= {owner.pw_name} and group.gr_name == owner.pw_name

"""How much memory this process's control groups leave it: beyond that the kernel ends the process, without an error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

MEMBERSHIP: Final = Path("/proc/self/cgroup")
MOUNTS: Final = Path("/proc/self/mountinfo")

_NO_LIMIT: Final = 1 << 60
"""Version 1 writes the largest page-aligned number for none; no machine has so much memory."""


@dataclass(frozen=True, slots=True)
class GroupMemory:
    """The memory of one control group.

    Attributes:
        name: of the group, as the kernel calls it.
        setting: the file that holds the limit, e.g. ``memory.max``.
        limit: bytes; pages of /dev/shm count.
        used: bytes, less what the kernel gives back when it has to.
    """

    name: str
    setting: str
    limit: int
    used: int

    @property
    def left(self) -> int:
        """Bytes that may still be used."""
        return max(0, self.limit - self.used)

    def __str__(self) -> str:
        return (
            f"the control group {self.name} may use {self.limit >> 20} MiB ({self.setting}), of which "
            f"{self.left >> 20} MiB are left"
        )


@dataclass(frozen=True, slots=True)
class _Version:
    """The files of one version of control groups."""

    limit: str
    used: str
    cache: str
    shared: str


_VERSION_1: Final = _Version("memory.limit_in_bytes", "memory.usage_in_bytes", "total_cache", "total_shmem")
_VERSION_2: Final = _Version("memory.max", "memory.current", "file", "shmem")


def memory_of_group(membership: Path = MEMBERSHIP, mounts: Path = MOUNTS, top: Path = Path("/")) -> GroupMemory | None:
    """Return the control group that leaves this process the least memory: its own, or one that holds it.

    Args:
        membership: which groups are this process's, see cgroups(7).
        mounts: where the groups' trees are mounted, see proc(5).
        top: what the mount points are below.

    Returns:
        None where no limit is set, or none can be seen.
    """
    try:
        groups, mounted = membership.read_text(), mounts.read_text()
    except OSError:
        return None
    found = [
        memory
        for version, folder, end in _trees(groups, mounted, top)
        for group in (folder, *folder.parents)
        if group.is_relative_to(end) and (memory := _memory(group, end, version)) is not None
    ]
    return min(found, key=lambda memory: memory.left, default=None)


def _trees(groups: str, mounted: str, top: Path) -> Iterator[tuple[_Version, Path, Path]]:
    """For each mounted tree of groups with a memory controller: this process's group in it, and the tree's folder."""
    paths = {}
    for line in groups.splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:
            paths[_VERSION_2] = path
        elif "memory" in controllers.split(","):
            paths[_VERSION_1] = path
    for line in mounted.splitlines():
        before, _, after = line.partition(" - ")
        fields, (kind, *others) = before.split(), after.split() or [""]
        version = {"cgroup2": _VERSION_2, "cgroup": _VERSION_1}.get(kind)
        if version is None or version not in paths or len(fields) < 5:
            continue
        if version is _VERSION_1 and not (others and "memory" in others[-1].split(",")):
            continue
        end = top / fields[4].lstrip("/")
        yield version, _below(end, paths[version], fields[3]), end


def _below(end: Path, path: str, root: str) -> Path:
    """The group's folder; the tree's own where the group lies elsewhere, as seen from a container."""
    with suppress(ValueError):
        inside = PurePosixPath(path).relative_to(root)
        if ".." not in inside.parts and (end / inside).is_dir():
            return end / inside
    return end


def _memory(group: Path, end: Path, version: _Version) -> GroupMemory | None:
    try:
        limit = int((group / version.limit).read_text())
        used = int((group / version.used).read_text())
        facts = dict(line.split()[:2] for line in (group / "memory.stat").read_text().splitlines() if " " in line)
        # files on disk that are only kept in memory because there is room; what lies in /dev/shm counts as such, too
        given_back = int(facts.get(version.cache, 0)) - int(facts.get(version.shared, 0))
    except (OSError, ValueError):  # "max", or a group that is being removed
        return None
    if limit >= _NO_LIMIT:
        return None
    return GroupMemory(f"/{group.relative_to(end)}", version.limit, limit, max(0, used - max(0, given_back)))

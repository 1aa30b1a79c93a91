"""Rendezvous: ranks that bring a place of their own are collected before their group begins. Pure.

The ranks of one group may stand a round apart (a DataLoader's workers do), and after a daemon's restart several groups
come back at once, each at a place of its own. The ring only moves forward, so it has to begin at the earliest of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from ringfeed.shm.lane import Request

GATHER_S: Final = 1.0
"""How long the first to come waits for the others; trainers that lost their daemon look out for it more often."""

WORKERS_GATHER_S: Final = 15.0
"""How long a loader's worker waits for the loader's other workers, which are certain to come and may stand behind it.

Each of them is a process that starts, in several seconds where it is spawned on a busy machine.
"""

_STALE_S: Final = 60.0


@dataclass(slots=True)
class _Group:
    since: float
    resuming: bool = False
    places: dict[int, tuple[int, int]] = field(default_factory=dict)
    workers: set[int] = field(default_factory=set)  # ranks that are workers of the loaders whose workers have asked

    def complete(self, world_size: int, waited_s: float, gather_s: float) -> bool:
        """Whether no rank is awaited any more."""
        if self.workers <= self.places.keys():
            return len(self.places) == world_size or waited_s >= gather_s
        return waited_s >= max(gather_s, WORKERS_GATHER_S)


class Rendezvous:
    """The places that ranks of groups which have not begun ask for, as (epoch, position)."""

    def __init__(self, gather_s: float = GATHER_S) -> None:
        self._gather_s = gather_s
        self._groups: dict[str, _Group] = {}

    def __repr__(self) -> str:
        return f"Gathering({len(self._groups)} groups, {sum(len(g.places) for g in self._groups.values())} ranks)"

    @property
    def resuming(self) -> bool:
        """Whether groups that lost their daemon are being gathered."""
        return any(group.resuming for group in self._groups.values())

    def place(self, request: Request, now: float) -> tuple[int, int] | None:
        """Where the group of a request begins: the earliest place of its ranks. None: ask again, others may come."""
        self._groups = {
            name: group for name, group in self._groups.items() if now - group.since < _STALE_S + self._gather_s
        }
        group = self._groups.setdefault(request.group, _Group(now))
        group.places[request.rank] = request.at
        group.workers.update(_workers_with(request))
        group.resuming |= request.resuming  # of one job some ranks may have lived on, others start again
        if request.resuming:
            complete = now - min(g.since for g in self._groups.values() if g.resuming) >= self._gather_s
        else:
            complete = group.complete(request.world_size, now - group.since, self._gather_s)
        return min(group.places.values()) if complete else None

    def earliest(self) -> tuple[int, int]:
        """The earliest place of all groups that lost their daemon; there must be one."""
        return min(min(group.places.values()) for group in self._groups.values() if group.resuming)

    def forget(self, group: str) -> None:
        """The group has begun."""
        self._groups.pop(group, None)

    def withdraw(self, request: Request) -> None:
        """The rank was refused, or went before it had an answer: the next request is not held to its place."""
        group = self._groups.get(request.group)
        if group is not None and group.places.pop(request.rank, None) is not None and not group.places:
            del self._groups[request.group]


def _workers_with(request: Request) -> range:
    """Return the ranks of all workers of the loader that a worker asks for; none where it is no worker.

    Workers count before ranks of the job.
    """
    workers = request.kin.workers
    if not workers or request.world_size % workers:
        return range(0)
    ranks = request.world_size // workers
    return range(request.rank % ranks, request.world_size, ranks)

"""As which rank of which group a dataset reads: as it was told to, or as this process is when it begins."""

from __future__ import annotations

import os
from typing import Any

from ringfeed.torch.distributed import (
    Ranks,
    check_agreement,
    default_group,
    given_ranks,
    loader_pid,
    next_serial,
    ranks_to_tell,
    resolve_ranks,
)


class Membership:
    """The ranks and the group of one dataset; resolved when its first iteration begins, and then insisted on."""

    def __init__(self, ring: str, group: str | None, rank: int | None, world_size: int | None) -> None:
        self._ring = ring
        self._given_ranks = given_ranks(rank, world_size)
        self._given_group = group
        self._settled: tuple[int, Ranks] | None = None  # the process that began to read, and as which rank
        self._told: tuple[int, Ranks] | None = None  # the process that sent this here, and its ranks
        self._serial = next_serial(ring, self._given_ranks)

    def __getstate__(self) -> dict[str, Any]:
        """Say which rank it was sent by, for a DataLoader's spawned worker, where torch.distributed does not."""
        return {**self.__dict__, "_told": ranks_to_tell()}

    def __repr__(self) -> str:
        ranks = self._given_ranks or (self._settled and self._settled[1])
        group = f"group={self.group!r}" if ranks or self._given_group else ""
        rank = f"rank {ranks.rank}/{ranks.world_size}" if ranks else ""
        return ", ".join(filter(None, [group, rank]))

    @property
    def ranks(self) -> Ranks:
        """Rank and world size as this process reads, or would if it began now.

        Raises:
            ValueError: the machines of the job have unequal numbers of ranks.
        """
        if self._given_ranks is not None:
            return self._given_ranks
        if self._told is not None and self._told[0] == loader_pid():
            return self._told[1]
        if self._settled is not None and self._settled[0] == os.getpid():
            return self._settled[1]
        return resolve_ranks()

    @property
    def group(self) -> str:
        """The group's name: as given, else one that follows from the ranks."""
        return self._given_group or default_group(self.ranks, self._serial)

    @property
    def named(self) -> bool:
        """Whether others may come to the same group: it was given a name, or has several ranks."""
        return self._given_group is not None or self.ranks.world_size > 1

    def settle(self) -> Ranks:
        """Return the ranks that the iteration which begins now reads as; later ones have to read as the same.

        Raises:
            RingfeedError: an earlier iteration of this process read as others.
        """
        ranks = self.ranks
        if self._given_ranks is None and self._settled is not None and self._settled[0] == os.getpid():
            check_agreement(self._ring, ranks)
        self._settled = (os.getpid(), ranks)
        return ranks

    @property
    def changed(self) -> bool:
        """Whether this process is by now another rank than the one that it began to read as."""
        settled = self._settled is not None and self._settled[0] == os.getpid()
        return settled and self._given_ranks is None and self.ranks != resolve_ranks()

    def unsettle(self) -> None:
        """Let a later iteration read as whatever rank this process is then."""
        self._settled = None

"""Absence: which ranks of a group without a reader. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from ringfeed.log import TELL_AFTER_S
from ringfeed.shm.origin import rank_words


@dataclass(frozen=True, slots=True)
class Absence:
    """Ranks of a group without a reader.

    Attributes:
        count: how many.
        rank: one of them, one that never came if there is one.
        came: whether that one was attached once.
        since_s: seconds since it went, or since the group began without it.
    """

    count: int
    rank: int
    came: bool
    since_s: float

    def sentence(self, group: str, world_size: int, workers: int = 0) -> str:
        """Say who is away.

        Args:
            world_size, workers: of the group, and of the DataLoaders as whose workers its ranks read.
        """
        others = self.count - 1
        more = f" ({others} more {'is' if others == 1 else 'are'} away, too)" if others else ""
        never = "has not attached yet" if self.since_s < TELL_AFTER_S else "has never attached"
        what = f"has been away for {self.since_s:.0f} s" if self.came else never
        return f"{rank_words(self.rank, world_size, workers)} of group {group!r} {what}{more}"

"""Absence: which ranks of a group nobody reads as. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Absence:
    """Ranks of a group that nobody reads as.

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

    def sentence(self, group: str) -> str:
        """Say who is away."""
        more = f" ({self.count - 1} more ranks are away, too)" if self.count > 1 else ""
        what = f"has been away for {self.since_s:.0f} s" if self.came else "has never attached"
        return f"rank {self.rank} of group {group!r} {what}{more}"

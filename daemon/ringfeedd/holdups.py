"""Holdups: who keeps others waiting for slots, and since when. Pure; time is an argument."""

from __future__ import annotations

from typing import Final

from ringfeedd.groups import Groups
from ringfeedd.ring import Ring

NAMED_AFTER_S: Final = 10.0
"""Slots are held for a long step, too; who holds all others up for longer than this is named in the log."""


class Holdups:
    """Remembers which attached ranks hold the ring's floor while others wait for pairs that have no room."""

    def __init__(self) -> None:
        self._since: dict[tuple[str, int, int], tuple[int, float]] = {}
        self._named: set[tuple[str, int, int]] = set()

    def __repr__(self) -> str:
        return f"Holdups({len(self._since)} ranks, {len(self._named)} named)"

    def look(self, groups: Groups, ring: Ring, now: float) -> list[str]:
        """A sentence for each rank that has become one to be named; once for each time that it stands still.

        Args:
            now: seconds, monotonic.
        """
        floor = groups.floor()
        holding = {}
        if ring.full and floor is not None and any(group.starving(ring.published) for group in groups):
            for group in groups:
                for member in group.members:
                    if member.lane is not None and member.released == floor < member.place.seq:
                        holding[group.name, member.plan.rank, member.pid] = floor
        self._since = {
            who: before if (before := self._since.get(who, (-1, now)))[0] == seq else (seq, now)
            for who, seq in holding.items()
        }
        late = {who for who, (_, since) in self._since.items() if now - since >= NAMED_AFTER_S}
        fresh, self._named = late - self._named, late
        return [
            f"rank {rank} of group {name!r} (pid {pid}) has held pair {floor} for {NAMED_AFTER_S:.0f} s while others "
            f"wait for its slots; `ringfeed status {ring.name}` shows all; let it drop its batches, attach with "
            f"copy=True, or give the daemon more slots"
            for name, rank, pid in sorted(fresh)
        ]

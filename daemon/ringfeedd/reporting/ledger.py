"""What readers took and waited, added up over their comings and goings. Pure; lanes' words come in as `Standing`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ringfeed.shm.progress import Standing
from ringfeedd.ring.labels import group_label

MOST_READERS: Final = 256
"""Groups and ranks of which the waiting time is kept; of more, the first ones are forgotten."""

Reader = tuple[int, int]
"""A lane and the nonce of the consumer on it: another consumer on the same lane is another reader."""


@dataclass(slots=True)
class _Entry:
    waited_s: float = 0.0
    delivered: int = 0


class Ledger:
    """The ledger of one ring.

    Attributes:
        delivered_pairs: that readers took, once for each group.
        waited: seconds that readers waited, by their group's label and rank.
    """

    def __init__(self) -> None:
        """No reader has come yet."""
        self.delivered_pairs = 0
        self.waited: dict[tuple[str, int], float] = {}
        self._entries: dict[Reader, _Entry] = {}

    def __repr__(self) -> str:
        return f"Ledger({self.delivered_pairs} pairs delivered, {len(self._entries)} readers)"

    def note(self, reader: Reader, standing: Standing, *, published: int, batches: int, waited_s: float) -> None:
        """Add what a reader did since it was looked at last, as far as it can be true.

        Args:
            published: number of the first pair that is not published: no reader has taken it.
            batches: that it took since it attached.
            waited_s: that it waited since it attached, up to now.
        """
        entry = self._entries.setdefault(reader, _Entry())
        # A batch may be smaller than the others, and a reader may leave pairs out: each number alone says too much.
        taken = min(standing.taken, published)
        passed = -(-max(0, taken - standing.first) // max(1, standing.world_size))
        delivered = min(batches * standing.batch_size, passed)
        self.delivered_pairs += max(0, delivered - entry.delivered)
        entry.delivered = max(delivered, entry.delivered)
        key = (group_label(standing.group), standing.rank)
        if key not in self.waited and len(self.waited) >= MOST_READERS:
            del self.waited[next(iter(self.waited))]
        self.waited[key] = self.waited.get(key, 0.0) + max(0.0, waited_s - entry.waited_s)
        entry.waited_s = max(waited_s, entry.waited_s)

    def gone(self, lane: int) -> None:
        """Forget the consumers of a lane; what they did stays counted."""
        for reader in [reader for reader in self._entries if reader[0] == lane]:
            del self._entries[reader]

"""What stalls a ring: the reader for whose slots the others wait. Pure; a look at one moment is all that it needs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from ringfeed.shm.origin import rank_words
from ringfeed.shm.progress import Standing

AHEAD_ROUNDS: Final = 2
"""Ranks that step together are at most a round apart. One that waits, and is further ahead, has begun an iteration that
the others have not."""

AHEAD_ROUNDS_OF_WORKERS: Final = 4
"""A DataLoader's workers prefetch some rounds."""

IDLE_AFTER_S: Final = 5.0
"""A consumer that has written nothing for this long since it attached, while the ring is full, is named."""

LASTS_S: Final = 3.0
"""A wait for a reader's slots that lasted so long is not only one of two readers that is slower."""

ONE_RANK_ALONE: Final = (
    "What only one rank reads (validation, a sample, an lr finder) needs a dataset of its own with rank=0, world_size=1"
)


@dataclass(frozen=True, slots=True)
class Stall:
    """A full ring in which some wait for others to release slots.

    Attributes:
        holders: those who stand at the ring's floor and are busy with something else; empty where the place is kept of
            a rank that is away.
        waiting: how many wait.
        waited_s: seconds, the longest of them; or, where no reader waits, those for which the holder has read nothing.
        ahead: a rank of the first holder's group that waits and has run ahead of it.
        missing: a reader whose group misses ranks, for which the slots are kept.
        slots: of the ring.
        earlier: the first holder is of an earlier run of a job that waits.
        starter: the holder in the process whose DataLoader's workers wait.
    """

    holders: tuple[Standing, ...]
    waiting: int
    waited_s: float
    ahead: Standing | None = None
    missing: Standing | None = None
    slots: int = 0
    earlier: bool = False
    starter: Standing | None = None

    @property
    def out_of_step(self) -> bool:
        """Whether readers of one job do not read together, which waiting does not fix."""
        return self.ahead is not None or self.missing is not None or self.earlier or self.starter is not None

    @property
    def may_end(self) -> bool:
        """Whether it is a long step, perhaps, and no fault that stays."""
        return self.waiting > 0 and not self.out_of_step

    @property
    def worth_saying(self) -> bool:
        """Whether it lasts: what is over in a moment is no more than the slower of two readers."""
        return self.out_of_step or not self.holders or self.waited_s >= LASTS_S

    def sentence(self) -> str:
        """Which reader stalls how many, for how long, and what to look at."""
        others = (
            f"{self.waiting} {'reader waits' if self.waiting == 1 else 'readers wait'} for {self.waited_s:.0f} s now"
        )
        if self.missing is not None and self.missing.absence is not None:
            reader = self.missing
            away = self.missing.absence.sentence(reader.group, reader.world_size, reader.workers)
            return f"{away}, and {others} for slots that are kept for it. {ONE_RANK_ALONE}"
        if not self.holders:
            return f"{others} for slots that are kept for a rank that is away, until it comes back or is given up"
        if self.starter is not None:
            return (
                f"{self.starter.who} was attached in the process that waits for these DataLoader workers, and keeps "
                f"the ring's slots: {others}. Call close() on the dataset or loader that reads there before the "
                f"workers start"
            )
        return self._of_a_holder(others)

    def _of_a_holder(self, others: str) -> str:
        first, *rest = self.holders
        if self.ahead is not None:
            return self._ran_ahead(self.ahead, first)
        if not self.waiting:
            return self._writes_nothing(first)
        if self.earlier:
            return (
                f"{first.who} is of an earlier run of this job and keeps the ring's slots, and {others}; end that "
                f"process"
            )
        more = f", and {len(rest)} more," if rest else ""
        return (
            f"{first.who}{more} holds up the ring: it has {first.held_pairs} pairs in hand and asks for no others, and "
            f"{others} for its slots (a long step, a stopped process, a debugger?)"
        )

    @staticmethod
    def _ran_ahead(ahead: Standing, behind: Standing) -> str:
        epochs = f" (epoch {ahead.epoch} instead of {behind.epoch})" if ahead.epoch != behind.epoch else ""
        return (
            f"{ahead.who} has run {_rounds(ahead, behind)} batches ahead of "
            f"{rank_words(behind.rank, behind.world_size, behind.workers)} (pid {behind.pid}){epochs}, and waits for "
            f"{ahead.waiting_s:.0f} s now for slots that are kept for that one. All ranks of a group have to begin the "
            f"same iterations. {ONE_RANK_ALONE}"
        )

    def _writes_nothing(self, reader: Standing) -> str:
        word, what = (
            ("TAKEN", "taken no batch") if reader.taken <= reader.first else ("RELEASED", "given no batch back")
        )
        return (
            f"{reader.who} has {what} since it attached {self.waited_s:.0f} s ago (its word {word} has not moved), and "
            f"all {self.slots} slots are kept for it"
        )


def hold_up(standings: Iterable[Standing], *, floor: int, published: int, slots: int) -> Stall | None:
    """The reader that stalls the others at this moment; None where no reader waits, or they wait for the source.

    Args:
        floor: number of the first pair that any group may still read.
        published: number of the first pair that is not published.
        slots: of the ring.
    """
    readers = list(standings)
    if published < floor + slots:
        return None
    waiting = [reader for reader in readers if reader.waiting_s > 0]
    longest_s = max((reader.waiting_s for reader in waiting), default=0.0)
    at_the_floor = [
        reader
        for reader in readers
        if reader.released <= floor and not reader.skips and not (reader.yields and reader.released < floor)
    ]
    holders = sorted((reader for reader in at_the_floor if not reader.waiting_s), key=lambda r: (r.group, r.rank))
    if not waiting or (at_the_floor and not holders):
        return _writes_nothing(at_the_floor, slots)  # or it is a moment between two words
    if holders:
        ahead = [reader for reader in waiting if reader.is_of(holders[0]) and _far_ahead(reader, holders[0])]
        furthest = max(ahead, key=lambda reader: reader.taken, default=None)
        first = holders[0]
        earlier = any(reader.group == first.group and first.run not in (0, reader.run) for reader in waiting)
        earlier &= furthest is None
        starter = next((one for one in holders if any(one.starts(reader) for reader in waiting)), None)
        return Stall(tuple(holders), len(waiting), longest_s, ahead=furthest, earlier=earlier, starter=starter)
    missing = next((r for r in readers if r.absence is not None and not r.skips), None)
    return Stall((), len(waiting), longest_s, missing=missing)


def _writes_nothing(at_the_floor: list[Standing], slots: int) -> Stall | None:
    """A reader that keeps the whole ring, because it never says that it reads, or that it is done with what it read."""
    for reader in at_the_floor:
        never_took = reader.taken <= reader.first and not reader.waiting_s
        never_released = reader.taken > reader.first >= reader.released
        keeps_all = reader.taken + reader.world_size * reader.batch_size > reader.released + slots
        if reader.attached_s >= IDLE_AFTER_S and (never_took or (never_released and keeps_all)):
            return Stall((reader,), 0, reader.attached_s, slots=slots)
    return None


def _rounds(ahead: Standing, behind: Standing) -> int:
    return (ahead.taken - behind.taken) // max(1, behind.world_size * behind.batch_size)


def _far_ahead(ahead: Standing, behind: Standing) -> bool:
    return _rounds(ahead, behind) >= (AHEAD_ROUNDS_OF_WORKERS if ahead.workers else AHEAD_ROUNDS)

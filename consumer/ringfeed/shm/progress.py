"""Where each attached consumer stands at one moment, as its lane's words tell. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from ringfeed.epochs import Epochs
from ringfeed.plan import START, Place
from ringfeed.shm.lane import Accepted, LanePage, Request
from ringfeed.shm.layout import Lane
from ringfeed.shm.missing import Absence
from ringfeed.shm.origin import rank_words


@dataclass(frozen=True, slots=True)
class Standing:
    """One attached consumer at one moment.

    Attributes:
        run: of the job that it belongs to, see `Kin`.
        owner: the training process that it is, or whose worker it is, see `Kin`.
        first: number of the first pair of the first block that it was to read.
        taken: number of the first pair of its next block.
        released: number of the first pair that it may still read; not above ``taken``, up to which its word counts.
        epoch: of its next block.
        waiting_s: seconds that it has been waiting for a batch; 0 while it does not.
        attached_s: seconds since the daemon answered it.
        skips: it never stalls other readers.
        yields: it does not for long.
        workers: of the DataLoader whose worker it is, which may have gone ahead of its loop; 0 where it is none.
        absence: the ranks of its group that are away.
        lane: its lane; -1 where that is not known.
    """

    group: str
    rank: int
    world_size: int
    batch_size: int
    pid: int
    first: int
    taken: int
    released: int
    run: int = 0
    owner: int = 0
    epoch: int = 0
    waiting_s: float = 0.0
    attached_s: float = 0.0
    skips: bool = False
    yields: bool = False
    workers: int = 0
    absence: Absence | None = None
    lane: int = -1

    @classmethod
    def read(  # all that makes a look
        cls,
        page: LanePage,
        request: Request,
        epochs: Epochs,
        now_ns: int,
        published: int,
        lane: int = -1,
        base: Place = START,
    ) -> Standing:
        """Return what an attached consumer's lane says at ``now_ns``, CLOCK_MONOTONIC.

        One whose next block is published does not wait, whatever it wrote: it was stopped in the middle of a wait.

        Args:
            published: number of the first pair that is not published.
            base: a place from which on the lengths of ``epochs`` hold.
        """
        since = page[Lane.WAITING_SINCE_NS] if published < page[Lane.TAKEN] + request.batch_size else 0
        place = Place(page[Lane.SEQ], page[Lane.EPOCH], page[Lane.POSITION])
        taken, first, epoch = page[Lane.TAKEN], page[Lane.SEQ], page[Lane.EPOCH]
        if request.sensible and Accepted(place).sensible(epochs):
            first = request.plan(epochs).block(place).seq
        began = Accepted(place).counted(epochs, base)
        if began is not None and began.seq <= taken:
            epoch = epochs.forward((began.epoch, began.position), taken - began.seq)[0]
        return cls(
            group=request.group,
            rank=request.rank,
            world_size=request.world_size,
            batch_size=request.batch_size,
            pid=request.pid,
            first=first,
            taken=taken,
            released=min(page[Lane.RELEASED], taken),
            run=request.kin.run,
            owner=request.kin.owner,
            epoch=epoch,
            waiting_s=max(0, now_ns - since) / 1e9 if since else 0.0,
            attached_s=max(0, now_ns - page[Lane.ANSWERED_NS]) / 1e9,
            skips=request.skips,
            yields=request.yields,
            workers=request.kin.workers,
            absence=page.read_absence(now_ns),
            lane=lane,
        )

    @property
    def who(self) -> str:
        """The consumer, for a sentence."""
        return f"{rank_words(self.rank, self.world_size, self.workers)} of group {self.group!r} (pid {self.pid})"

    @property
    def held_pairs(self) -> int:
        """Pairs from the first that it may still read to its next block, other ranks' included."""
        return max(0, self.taken - self.released)

    def starts(self, other: Standing) -> bool:
        """Return whether this is a process whose DataLoader has the other one as a worker, and so waits for it."""
        return self.owner == other.owner != 0 and not self.workers and bool(other.workers)

    def is_of(self, other: Standing) -> bool:
        """Return whether both share one pass."""
        return (self.group, self.run) == (other.group, other.run) or (self.group == other.group and not self.run)

"""A ring's pairs as jobs for workers: where each comes from and where it is kept. The ring itself knows of no cache."""

from __future__ import annotations

from itertools import groupby

from ringfeed.shm.counters import RingCounts
from ringfeedd.cache.disk_share import DiskOrder
from ringfeedd.cache.memory import Sizes
from ringfeedd.cache.tiers import RingTiers
from ringfeedd.ring.revisions import Revision, Revisions
from ringfeedd.ring.ring import Job, Ring
from ringfeedd.worker.protocol import CopyJob, Decoded, PairJob, Result


class Dispatch:
    """The dispatch of one ring. What its tiers do not hold comes from the store; so does everything without tiers."""

    def __init__(self, ring: Ring, revisions: Revisions) -> None:
        """Begin without tiers."""
        self._ring, self._revisions = ring, revisions
        self._tiers: RingTiers | None = None

    def __repr__(self) -> str:
        return f"Dispatch({self._ring.name!r}, {self._tiers!r})"

    def use_tiers(self, tiers: RingTiers) -> None:
        """Have pairs kept, and taken from where they are kept."""
        self._tiers = tiers
        for catalog in self._revisions.catalogs:
            tiers.serve(catalog)

    def serve(self, revision: Revision) -> None:
        """Have the pairs of another listing kept as well."""
        if self._tiers is not None:
            self._tiers.serve(revision.catalog)

    def jobs(self, jobs: list[Job]) -> tuple[list[PairJob], list[CopyJob]]:
        """Return what workers are to do: pairs to be fetched, with what is to be kept, and pairs to be copied.

        A pair that is on its way into a tier for an earlier place is in neither: it is queued again when it is there.
        """
        if self._tiers is None:
            pairs = self._revisions.pairs(jobs)
            return [PairJob(job.seq, pair) for job, pair in zip(jobs, pairs, strict=True)], []
        return self._with_tiers(self._tiers, jobs)

    def _with_tiers(self, tiers: RingTiers, jobs: list[Job]) -> tuple[list[PairJob], list[CopyJob]]:
        copies: list[CopyJob] = []
        fetched: list[Job] = []
        orders: list[tuple[int, DiskOrder | None]] = []
        for revision, part in groupby(jobs, lambda job: self._revisions.of(job.seq)):
            some = list(part)
            indices = revision.catalog_indices([job.index for job in some])
            rows = tiers.copies(revision.catalog, [job.seq for job in some], indices)
            for job, index, row in zip(some, indices, rows, strict=True):
                if row is not None:
                    copies.append(CopyJob(job.seq, *row))
                elif not tiers.waits(job.seq, revision.catalog, index):
                    fetched.append(job)
                    orders.append(tiers.order(job.seq, revision.catalog, index))
        pairs = self._revisions.pairs(fetched)
        return [PairJob(job.seq, pair, *order) for job, pair, order in zip(fetched, pairs, orders, strict=True)], copies

    def ended(self, result: Result) -> None:
        """Take note of a worker's answer for a pair that was not to be copied."""
        tiers = self._tiers
        if tiers is None:
            return
        if type(result) is Decoded:
            tiers.decoded(
                result.seq,
                sizes=result.sizes,
                from_disk=result.from_disk,
                wrong=result.wrong,
                stored=result.stored,
                total=result.total,
            )
        else:
            tiers.ended(result.seq)
        self._release(tiers)

    def copied(self, seqs: list[int]) -> dict[int, Sizes]:
        """Take note that pairs were copied; return the sizes of those that were not given up meanwhile."""
        assert self._tiers is not None
        sizes = self._tiers.copied(seqs)
        self._release(self._tiers)
        return sizes

    def not_copied(self, seq: int) -> None:
        """Take note that the row of a pair was not whole; it is queued again, to be fetched."""
        assert self._tiers is not None
        self._tiers.not_copied(seq)
        self._ring.lost(seq)
        self._release(self._tiers)

    def lost(self, seq: int, *, quarantine: bool) -> bool:
        """Take note of a pair that a worker had which died; return True if it was only to be copied.

        Args:
            quarantine: the worker died of this pair; one that was copied is fetched then.
        """
        tiers = self._tiers
        if tiers is None:
            return False
        if quarantine and tiers.is_copying(seq):
            tiers.not_copied(seq)
            was_copied = True
        else:
            was_copied = tiers.ended(seq)
        self._release(tiers)
        return was_copied

    def _release(self, tiers: RingTiers) -> None:
        """Queue again what waited for an earlier pair, which is kept now or came to nothing."""
        for seq in tiers.released:
            self._ring.lost(seq)
        tiers.released.clear()

    def count(self, counts: RingCounts) -> None:
        """Write what the tiers have saved."""
        if self._tiers is not None:
            hits = self._tiers.hits
            counts.memory_hits, counts.disk_hits, counts.cache_saved_bytes = hits.memory, hits.disk, hits.bytes

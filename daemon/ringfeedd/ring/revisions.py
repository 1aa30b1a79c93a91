"""Revisions: one listing of the root after the other, as one ring serves them, and when the next one comes in. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from ringfeed.shm.descriptor import ServedCatalog
from ringfeedd.catalog.catalog import Catalog, Pair, Split
from ringfeedd.order import Order
from ringfeedd.ring.groups import Groups
from ringfeedd.ring.ring import Job, Ring
from ringfeedd.ring.timeline import Timeline


@dataclass(frozen=True, slots=True)
class Revision:
    """What stands at each place of an epoch.

    Attributes:
        order: gives indices of the split, for this machine's epochs.
        catalog: of the whole root.
        split: the part of it that the ring serves, on all machines.
    """

    order: Order
    catalog: Catalog
    split: Split

    def catalog_index(self, index: int) -> int:
        """Return the catalog's index of the pair with this index of the split."""
        return self.split.indices.item(index)

    def catalog_indices(self, indices: list[int]) -> list[int]:
        """`catalog_index` of each of these."""
        found: list[int] = self.split.indices[indices].tolist()
        return found

    def pair_id(self, index: int) -> str:
        """The id of the pair with this index of the split."""
        return self.catalog.id(self.catalog_index(index))

    def pair(self, index: int) -> Pair:
        """The pair with this index of the split, and its objects."""
        return self.catalog.pair(self.catalog_index(index))

    def pairs(self, indices: list[int]) -> list[Pair]:
        """`pair` of each of these."""
        return self.catalog.pairs(self.catalog_indices(indices))

    def served(self, since_epoch: int) -> ServedCatalog:
        """What consumers are told of it."""
        return ServedCatalog(since_epoch, self.order.length, self.split.fingerprint)


class Revisions:
    """The revisions of one ring: those of its timeline, and the one that waits to begin."""

    def __init__(self, ring: Ring) -> None:
        """Start with those of the ring's timeline."""
        self._ring = ring
        self._timeline: Timeline[Revision] = ring.timeline
        self._waiting: Revision | None = None

    def __repr__(self) -> str:
        waiting = ", one waits" if self._waiting else ""
        return f"Revisions({', then '.join(f'{len(one.split)} pairs' for one in self._timeline)}{waiting})"

    @property
    def newest(self) -> Revision:
        """The one that is served from some epoch on for good."""
        return self._timeline.newest

    @property
    def catalogs(self) -> list[Catalog]:
        """Those of the revisions that are read, the earliest first."""
        return [revision.catalog for revision in self._timeline]

    @property
    def changing(self) -> bool:
        """Whether pairs of an earlier one can still be given."""
        return len(self._timeline) > 1

    def of(self, seq: int) -> Revision:
        """The one whose pair has this number."""
        timeline = self._timeline
        return timeline.newest if len(timeline) == 1 else timeline.of(self._ring.place(seq).epoch)

    def pairs(self, jobs: list[Job]) -> list[Pair]:
        """The pair of each job."""
        if len(self._timeline) == 1:
            return self.newest.pairs([job.index for job in jobs])
        return [self.of(job.seq).pair(job.index) for job in jobs]

    def offer(self, revision: Revision, groups: Groups) -> str:
        """Take a new listing, which begins as soon as it can, see `due`; returns a sentence on what comes of it.

        Where the ids are the same, so is the order, and it only tells of objects that were replaced.

        Raises:
            ValueError: some group would read nothing of it.
        """
        old, new = len(self.newest.split), len(revision.split)
        if revision.split.fingerprint == self.newest.split.fingerprint:
            self._timeline.renew(revision)
            self._waiting = None
            return f"the ids are the same {old:,} as before; objects that were replaced are read as they are now"
        if group := groups.left_empty(revision.order.length):
            plan = group.members[0].plan
            raise ValueError(
                f"not taken: an epoch would have {revision.order.length:,} pairs, fewer than one round of group "
                f"{group.name!r}, which reads {plan.round_pairs} at a time and drops what is left"
            )
        self._waiting = revision
        return f"{new:,} pairs instead of {old:,} wait until all readers have passed the last change"

    def due(self, groups: Groups) -> int | None:
        """The epoch with which the revision that waits can begin now; None while there is none, or it cannot.

        It cannot while some reader may still want pairs from before the last change, or may not know of it yet: what
        consumers are told of holds one change at a time. Nor while there is a group to which its epochs would give no
        batch, which came after it was offered.
        """
        if groups.passed(self._timeline.last_change):
            self._ring.forget_former_orders()
        if self._waiting is None or len(self._timeline) > 1 or groups.left_empty(self._waiting.order.length):
            return None
        return groups.earliest_change(self._ring, self._waiting.order.length)

    def after(self, epoch: int) -> tuple[ServedCatalog, ...]:
        """What consumers are to be told before `begin`."""
        assert self._waiting is not None
        following = self._waiting.served(epoch)
        return (self.newest.served(0), following) if epoch else (following,)

    def begin(self, epoch: int) -> str:
        """Give the pairs of the revision that waits from ``epoch`` on; returns a sentence."""
        assert self._waiting is not None
        old, revision = self.newest, self._waiting
        self._ring.change(epoch, revision)
        self._waiting = None
        return f"{len(revision.split):,} pairs instead of {len(old.split):,} from epoch {epoch} on"

    def settle(self) -> None:
        """Serve the newest in all epochs; no reader may be attached."""
        self._ring.settle()

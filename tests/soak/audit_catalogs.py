"""The audit of a bucket that grows: which catalog each epoch was read from, as the jobs' own logs tell. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from audit import Run, Undisturbed

from ringfeedd.catalog.ids import IdTable


def fingerprint(ids: Sequence[str]) -> str:
    """As a state names the catalog of these ids, in whatever order they are given."""
    return IdTable.of(sorted(ids, key=str.encode)).fingerprint(np.arange(len(ids), dtype=np.int64))


@dataclass(frozen=True, slots=True)
class CatalogsRead:
    """What the logs tell.

    Attributes:
        by_epoch: number of the catalog, for each epoch of which there is evidence.
        wrongs: as sentences.
    """

    catalogs: Sequence[Sequence[str]]
    by_epoch: dict[int, int]
    wrongs: list[str]

    def undisturbed(self) -> Undisturbed:
        """What a job delivers that nothing happens to but this growth.

        An epoch without evidence counts as one of the next epoch that has some, or else of the last one. A wrong guess
        accuses and excuses nothing: `judge` holds each pair against the order over the guessed ids, which is another
        one over any other ids, and wants every place of the guessed length.
        """
        changes: dict[int, Sequence[str]] = {}
        following, last = 0, None
        for epoch, number in sorted(self.by_epoch.items()):
            if number != last:
                changes[following] = self.catalogs[number]
            following, last = epoch + 1, number
        return Undisturbed(changes or {0: self.catalogs[-1]})


def catalogs_read(runs: Iterable[Run], catalogs: Sequence[Sequence[str]]) -> CatalogsRead:
    """Find the catalog of each epoch.

    A state in the midst of an epoch names it. One at an epoch's start does not: the reader has come to the end of the
    epoch before, and may not have looked yet. What a kill made worthless later on was read all the same, and counts.

    Args:
        runs: of all jobs that read the ring in the same term.
        catalogs: the ids that the bucket had, one listing after the other; each has all of the former's.
    """
    named: defaultdict[int, set[str]] = defaultdict(set)
    for run in runs:
        for entries in run.ranks:
            for entry in entries:
                epoch, position = entry.place
                if position > 0:
                    named[epoch].add(entry.state["fingerprint"])
    numbers = {fingerprint(ids): number for number, ids in enumerate(catalogs)}
    by_epoch: dict[int, int] = {}
    wrongs = []
    for epoch, prints in sorted(named.items()):
        wrongs += [
            f"epoch {epoch} is of ids {each} that the bucket never had" for each in sorted(prints - set(numbers))
        ]
        known = sorted(numbers[each] for each in prints & set(numbers))
        if len(prints) > 1:
            wrongs.append(f"epoch {epoch} was read from {len(prints)} catalogs: {', '.join(sorted(prints))}")
        if not known:
            continue
        former = max(by_epoch.values(), default=0)
        if known[0] < former:
            pairs = [len(catalogs[number]) for number in (known[0], former)]
            wrongs.append(f"epoch {epoch} has {pairs[0]} pairs, and one before it had {pairs[1]}")
        by_epoch[epoch] = known[-1]
    return CatalogsRead(catalogs, by_epoch, wrongs)

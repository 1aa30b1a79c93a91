"""The audit: what the ranks of a job logged, held against what an undisturbed job delivers. Pure.

A rank logs a batch after it has taken it, and a kill may fall in between. So a job goes on from the last state that
*every* rank had logged, as from a checkpoint: what some ranks logged beyond it is rolled back and delivered again.
Each run of a job counts up to the place at which the next run began, and there is nothing in between to guess.
"""

from __future__ import annotations

import bisect
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import pairwise
from typing import Any

from audited_trainer import digest
from decode_reference import reference_image, reference_label

from ringfeedd.order import make_order

Place = tuple[int, int]
"""(epoch, position)"""

BEGINNING: Place = (0, 0)


@dataclass(frozen=True, slots=True)
class Row:
    """One pair, as a rank got it.

    Attributes:
        valid: False for another rank's pair that fills a batch, and for a replacement.
        digest: of its pixels, see `audited_trainer.digest`.
    """

    pair_id: str
    epoch: int
    position: int
    valid: bool
    digest: str

    @property
    def place(self) -> Place:
        return (self.epoch, self.position)


@dataclass(frozen=True, slots=True)
class Entry:
    """One batch, and the state of the reader after it."""

    rows: list[Row]
    state: dict[str, Any]

    @classmethod
    def parse(cls, line: str) -> Entry:
        rows, state = json.loads(line)
        return cls([Row(*row) for row in rows], state)

    @property
    def place(self) -> Place:
        return (self.state["epoch"], self.state["position"])


@dataclass(slots=True)
class Run:
    """A job from its start to its end or kill.

    Attributes:
        start: a place, or the state of a former run.
        ranks: what each rank logged.
    """

    world_size: int
    batch_size: int
    start: Place | dict[str, Any]
    ranks: list[list[Entry]] = field(init=False)

    def __post_init__(self) -> None:
        self.ranks = [[] for _ in range(self.world_size)]

    @property
    def begin(self) -> Place:
        return (self.start["epoch"], self.start["position"]) if isinstance(self.start, dict) else self.start

    @property
    def end(self) -> Place:
        """Up to here all ranks have logged what they took."""
        return min(entries[-1].place if entries else self.begin for entries in self.ranks)

    @property
    def resume(self) -> Place | dict[str, Any]:
        """What the next run starts with."""
        if not all(self.ranks):
            return self.start
        return min((entries[-1] for entries in self.ranks), key=lambda entry: entry.place).state

    @property
    def steps(self) -> int:
        """Batches that every rank has logged."""
        return min(map(len, self.ranks))

    def rows(self) -> Iterator[Row]:
        for entries in self.ranks:
            for entry in entries:
                yield from entry.rows


@dataclass(slots=True)
class Verdict:
    """What is wrong, as sentences; and what there was to be judged.

    Attributes:
        delivered: pairs up to the last run's end.
        rolled_back: pairs that a kill made worthless: logged by some ranks only.
    """

    delivered: int = 0
    rolled_back: int = 0
    lost: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)
    wrong_pair: list[str] = field(default_factory=list)
    wrong_pixels: list[str] = field(default_factory=list)
    out_of_order: list[str] = field(default_factory=list)

    @property
    def wrongs(self) -> list[str]:
        return self.lost + self.repeated + self.wrong_pair + self.wrong_pixels + self.out_of_order

    def __add__(self, other: Verdict) -> Verdict:
        """Both together: of a job that was started over, before and after."""
        return Verdict(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))


class Undisturbed:
    """What a job delivers that nothing happens to: computed from the ids and the order alone."""

    def __init__(
        self, ids: Sequence[str] | Mapping[int, Sequence[str]], *, seed: int = 0, order: str = "shuffle"
    ) -> None:
        """Compute nothing yet.

        Args:
            ids: of all epochs, or those of a bucket that grows by the epoch from which on they hold, from 0 upwards.
        """
        catalogs = ids if isinstance(ids, Mapping) else {0: ids}
        assert min(catalogs) == 0, "the first epochs are of some catalog, too"
        self._since = sorted(catalogs)
        self._ids = {epoch: sorted(catalogs[epoch], key=str.encode) for epoch in self._since}
        self._orders = {epoch: make_order(order, length=len(catalogs[epoch]), seed=seed) for epoch in self._since}

    def _edition(self, epoch: int) -> int:
        return self._since[bisect.bisect_right(self._since, epoch) - 1]

    def epoch_length(self, epoch: int) -> int:
        """In pairs."""
        return len(self._ids[self._edition(epoch)])

    def id(self, place: Place) -> str | None:
        """None where the epoch has no such position."""
        if place[1] >= self.epoch_length(place[0]):
            return None
        revision = self._edition(place[0])
        return self._ids[revision][self._orders[revision].index(*place)]

    def places(self, end: Place) -> Iterator[Place]:
        """All before ``end``, which may be the very end of an epoch."""
        for epoch in range(end[0]):
            yield from ((epoch, position) for position in range(self.epoch_length(epoch)))
        yield from ((end[0], position) for position in range(end[1]))


def judge(runs: Sequence[Run], undisturbed: Undisturbed, pixels: dict[str, str]) -> Verdict:
    """Hold a job's runs against the undisturbed job and the pixels of a reference decoder.

    Args:
        pixels: digest by id.
    """
    verdict = Verdict()
    counts: Counter[Place] = Counter()
    for before, after in pairwise(runs):
        assert before.end == after.begin, "a run starts where the former one's log ends"
    for number, run in enumerate(runs):
        for rank, entries in enumerate(run.ranks):
            places = [row.place for entry in entries for row in entry.rows if row.valid]
            if any(first >= second for first, second in pairwise(places)):
                verdict.out_of_order.append(f"run {number}, rank {rank} went back")
        for row in run.rows():
            told = f"run {number}: {row.pair_id!r} at epoch {row.epoch}, position {row.position}"
            if row.digest != pixels.get(row.pair_id):
                verdict.wrong_pixels.append(told)
            if not row.valid:
                continue
            if row.pair_id != undisturbed.id(row.place):
                verdict.wrong_pair.append(f"{told}, not {undisturbed.id(row.place)!r}")
            if row.place < run.end:
                counts[row.place] += 1
            else:
                verdict.rolled_back += 1
    expected = set(undisturbed.places(runs[-1].end))
    verdict.delivered = len(expected)
    verdict.lost = [f"epoch {epoch}, position {position}" for epoch, position in sorted(expected - counts.keys())]
    verdict.repeated = [f"{place}: {n} times" for place, n in sorted(counts.items()) if n > 1 or place not in expected]
    return verdict


def reference_digests(objects: dict[str, bytes], prefix: str, height: int, width: int) -> dict[str, str]:
    """Each id's digest after one decode by Pillow; fit ``resize``, label mode ``index``."""
    digests = {}
    for name, data in objects.items():
        if not name.startswith(f"{prefix}images/"):
            continue
        pair_id = name.removeprefix(f"{prefix}images/").removesuffix(".jpg")
        label = objects[f"{prefix}labels/{pair_id}.png"]
        digests[pair_id] = digest(
            reference_image(data, "resize", height, width),
            reference_label(label, "resize", "index", height, width),
        )
    return digests

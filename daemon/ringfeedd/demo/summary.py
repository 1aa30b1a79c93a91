"""The table at the demo's end: what the ranks got, what it cost, and whether anything was done twice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Sequence

    from ringfeedd.demo.report import RankReport


@dataclass(frozen=True)
class Summary:
    """Everything that the table is made of.

    Attributes:
        pairs: pairs in the bucket.
        epochs: passes over them.
        dropped: pairs at each epoch's end that fill no round of all ranks; decoded, but not delivered.
        slots: of the ring; so many pairs at most are decoded ahead of the ranks.
        seeks: how often the ring was set to another place, as when the last rank has left; it is then filled again.
        decoded: pairs that the daemon decoded, read ahead included.
        failed: pairs it could not have.
        downloads: the server's own count, by key.
        reports: of all ranks, in their order.
    """

    pairs: int
    epochs: int
    dropped: int
    slots: int
    seeks: int
    decoded: int
    failed: int
    downloads: Counter[str]
    reports: Sequence[RankReport]

    @property
    def delivered(self) -> int:
        """Pairs that all ranks together trained on."""
        return sum(report.pairs for report in self.reports)

    @property
    def wanted(self) -> int:
        """Pairs of the epochs that the ranks went through: what has to be decoded, once."""
        return self.pairs * self.epochs

    @property
    def pairs_per_s(self) -> float:
        """The rate of all ranks together, by the slowest one's clock."""
        return self.delivered / max(report.training_s for report in self.reports)

    def faults(self) -> list[str]:
        """What is not as it should be, a sentence each."""
        faults = []
        most = self.wanted + self.slots * (1 + self.seeks)
        if not self.wanted <= self.decoded <= most:
            faults.append(
                f"the daemon decoded {self.decoded} pairs; {self.epochs} epochs of {self.pairs} pairs, each decoded "
                f"once, and {self.slots} slots filled ahead {1 + self.seeks} times are {self.wanted} to {most}"
            )
        if self.failed:
            faults.append(f"{self.failed} pairs failed, of a bucket in which every one is good")
        expected = (self.pairs - self.dropped) * self.epochs
        if self.delivered != expected:
            faults.append(f"the ranks got {self.delivered} pairs instead of {expected} in {self.epochs} epochs")
        if len(self.downloads) != 2 * self.pairs:
            faults.append(f"{len(self.downloads)} objects were downloaded; {self.pairs} pairs are {2 * self.pairs}")
        most = 2 * (self.wanted + self.pairs + self.slots * (1 + self.seeks))
        if (objects := sum(self.downloads.values())) > most:
            faults.append(
                f"{objects} objects were downloaded; {self.epochs} epochs, one more ahead and {self.slots} slots "
                f"filled {1 + self.seeks} times are {most} at most"
            )
        missed = [key for key, count in self.downloads.items() if count < self.epochs]
        if missed:
            faults.append(f"{len(missed)} objects were downloaded less than once an epoch, {missed[0]} among them")
        return faults

    def __str__(self) -> str:
        objects = sum(self.downloads.values())
        ahead = self.decoded - self.wanted
        mean_losses = [
            sum(losses) / len(losses) for losses in zip(*(report.losses for report in self.reports), strict=True)
        ]
        first_loss = sum(report.first_loss for report in self.reports) / len(self.reports)
        lines = [
            f"bucket      {self.pairs} pairs, {self.epochs} epochs, {len(self.reports)} ranks",
            f"trained     {self.delivered} pairs at {self.pairs_per_s:.1f} pairs/s",
            f"decoded     {self.decoded} pairs: {self.wanted} once each, for all ranks, and {ahead} read ahead",
            f"downloaded  {objects} objects by the server's own count, compressed read-ahead included",
            f"loss        {first_loss:.3f} -> {', '.join(f'{loss:.3f}' for loss in mean_losses)} (first batch, epochs)",
            "",
            *_table(self.reports),
        ]
        return "\n".join(lines)


def _table(reports: Sequence[RankReport]) -> list[str]:
    """A line for each rank, the columns aligned to the right."""
    rows = [("rank", "batches", "pairs", "pairs/s", "training s", "waiting s", "waiting %", "longest wait ms")]
    rows += [
        (
            str(report.rank),
            str(report.batches),
            str(report.pairs),
            f"{report.pairs / report.training_s:.1f}",
            f"{report.training_s:.2f}",
            f"{report.waiting_s:.2f}",
            f"{100 * report.waiting_s / report.training_s:.1f}",
            f"{1000 * report.longest_wait_s:.0f}",
        )
        for report in reports
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]

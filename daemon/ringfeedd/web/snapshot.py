"""What the status page, its JSON, its metrics and its health check show of a ring: one look, taken for each answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ringfeed.cli.report import RingStatus
from ringfeed.cli.status import ring_status
from ringfeed.errors import RingfeedError
from ringfeed.shm.descriptor import Descriptor
from ringfeed.shm.failures import FailedPairs
from ringfeedd.ring.ring import Ring
from ringfeedd.web.page.slots import SlotView, look_at_slots


class Watched(Protocol):
    """A ring in service."""

    @property
    def name(self) -> str:
        """The ring's name."""

    @property
    def ring(self) -> Ring:
        """Its stream."""

    @property
    def descriptor(self) -> Descriptor:
        """Where it lies in shared memory."""

    def failed_pairs(self) -> FailedPairs:
        """The pairs that failed to load."""

    @property
    def waited(self) -> Mapping[tuple[str, int], float]:
        """Seconds that readers waited, by their group's label and rank."""


@dataclass(frozen=True, slots=True)
class RingSnapshot:
    """One ring at one moment.

    Attributes:
        status: as `ringfeed status` reads it; None where its files cannot be read.
        problem: why they cannot; empty otherwise.
        slots: what lies in the slots; None where they cannot be read.
        waited: seconds that readers waited since the daemon's start, by their group's label and rank.
    """

    name: str
    status: RingStatus | None
    problem: str
    failed: FailedPairs
    slots: SlotView | None = None
    waited: Mapping[tuple[str, int], float] = field(default_factory=dict)

    @property
    def unhealthy(self) -> str:
        """Why the ring is not served well, without anything of its data; empty if it is."""
        if self.status is None:
            return f"ring {self.name} cannot be read"
        if self.status.state in ("failed", "dead"):
            return f"ring {self.name} is {self.status.state}"
        return f"ring {self.name}: {self.status.hangs}" if self.status.hangs else ""


def look(ring: Watched) -> RingSnapshot:
    """Look at a ring as any other process would, by its words in shared memory."""
    try:
        status = ring_status(ring.name)
        slots = look_at_slots(ring.ring, status.consumers)
        return RingSnapshot(ring.name, status, "", ring.failed_pairs(), slots, dict(ring.waited))
    except (RingfeedError, OSError) as error:
        return RingSnapshot(ring.name, None, str(error), ring.failed_pairs())


def problems(views: Sequence[RingSnapshot]) -> list[str]:
    """The daemon's problems, a sentence for each; none where it serves well."""
    if not views:
        return ["the daemon is starting"]
    return [view.unhealthy for view in views if view.unhealthy]

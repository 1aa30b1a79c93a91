"""What a verdict on a ring is made of, and what it says: plain data."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from ringfeed.shm.counters import DaemonCounts, Lately, RingCounts, StoreCounts
from ringfeed.shm.missing import Absence


class Bound(enum.StrEnum):
    """By what a ring is bound; the values of the label ``by``."""

    NOTHING = "nothing"
    STORE_LATENCY = "store_latency"
    STORE_LIMIT = "store_limit"
    STORE_DOWN = "store_down"
    DECODING = "decoding"
    READER = "reader"
    MISSING_RANK = "missing_rank"
    LATE_OBJECT = "late_object"
    OTHER_RING = "other_ring"
    DAEMON = "daemon"
    IDLE = "idle"
    STARTING = "starting"


WELL: Final = frozenset({Bound.NOTHING, Bound.IDLE, Bound.STARTING})
"""No reader is held back, or it is not known yet."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What bounds a ring.

    Attributes:
        by: for programs.
        sentence: for people, on one line: cause, number, setting, gain.
        waited: part of the latest seconds that the longest waiting reader waited, 0 to 1.
        number: the number behind it, in ``unit``.
        setting: the one that helps; empty where none does.
        suggested: its value; None where it is not a number.
        gain: how many times as many pairs it would bring, at most; None where that is not known.
    """

    by: Bound
    sentence: str
    waited: float = 0.0
    number: float = 0.0
    unit: str = ""
    setting: str = ""
    suggested: int | None = None
    gain: float | None = None

    @property
    def well(self) -> bool:
        """Return whether no reader is held back."""
        return self.by in WELL


UNMEASURED: Final = Verdict(Bound.STARTING, "")


class Attached(Protocol):
    """What is used of a reader."""

    @property
    def lane(self) -> int:
        """Its lane."""

    @property
    def group(self) -> str:
        """Its group."""

    @property
    def rank(self) -> int:
        """Its rank."""

    @property
    def world_size(self) -> int:
        """Ranks of its group."""

    @property
    def pid(self) -> int:
        """Its process."""

    @property
    def held_pairs(self) -> int:
        """Pairs that it keeps."""

    @property
    def waiting_s(self) -> float:
        """Seconds that it has been waiting now."""

    @property
    def absence(self) -> Absence | None:
        """The ranks of its group that are away."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that a verdict is made of.

    Attributes:
        gone: why the daemon does nothing for the ring, as a clause with a verb; empty where it works.
        slots, filled: of the ring.
        failing_s: since when the store answers no worker; 0 while it answers.
        store: how the store fares, as a clause with a verb.
        late_s, late_id: of the pair that the later ones wait for; 0 and empty where none is late.
        other: the daemon's other ring.
        held_up: the reader that stalls the ring at this moment, as a sentence; empty where none does.
        silent: whether that is a reader which has written nothing for long, though no reader waits for it.
        readers: those that are attached.
    """

    gone: str = ""
    slots: int = 0
    filled: int = 0
    published: int = 0
    failing_s: float = 0.0
    store: str = ""
    late_s: float = 0.0
    late_id: str = ""
    other: str = ""
    held_up: str = ""
    silent: bool = False
    readers: Sequence[Attached] = ()
    ring_counts: RingCounts = field(default_factory=RingCounts)
    daemon_counts: DaemonCounts = field(default_factory=DaemonCounts)
    store_counts: StoreCounts = field(default_factory=StoreCounts)
    lately: Lately = field(default_factory=Lately)

"""What the worker processes have done, and do now: plain numbers that the pool adds up."""

from __future__ import annotations

from dataclasses import dataclass, field

from ringfeedd.system.histogram import DECODE_BOUNDS_S, FETCH_BOUNDS_S, Times


@dataclass(frozen=True, slots=True)
class Work:
    """What workers have done, and do now.

    Attributes:
        cpu_ns, busy_ns: CPU time, and time with pairs to decode, since the start.
        under_way, window: of this moment.
        fetched, decoded: how long downloads of objects, retries included, and decodes of pairs took.
    """

    cpu_ns: int = 0
    busy_ns: int = 0
    under_way: int = 0
    window: int = 0
    fetched: Times = field(default_factory=lambda: Times.none(FETCH_BOUNDS_S))
    decoded: Times = field(default_factory=lambda: Times.none(DECODE_BOUNDS_S))

    def __add__(self, other: Work) -> Work:
        """Return the work of both."""
        return Work(
            cpu_ns=self.cpu_ns + other.cpu_ns,
            busy_ns=self.busy_ns + other.busy_ns,
            under_way=self.under_way + other.under_way,
            window=self.window + other.window,
            fetched=self.fetched + other.fetched,
            decoded=self.decoded + other.decoded,
        )

    @property
    def done(self) -> Work:
        """Return what stays of a worker that has ended."""
        return Work(cpu_ns=self.cpu_ns, busy_ns=self.busy_ns, fetched=self.fetched, decoded=self.decoded)

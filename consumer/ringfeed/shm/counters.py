"""One table for all that a daemon counts: `status`, `/metrics`, `shm_layout.md` and the daemon's report follow it.

Each line below declares one word of the state page. Its name in capitals is the word's name, its lower-case name the
field of the status, and the metric's name follows from it. A new counter needs one line here, a line where it is
counted, and its row in `shm_layout.md`, which a test prints.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import cache
from typing import Annotated, Final, TypeAlias, TypeVar, get_type_hints

from ringfeed.shm.layout import State

NS: Final = "ns"
MILLI: Final = "1/1000"
"""Thousandths of what the meaning names."""


class Kind(enum.Enum):
    """How a number moves, and whether it is a metric."""

    COUNTER = "counter"
    """It only grows, from the daemon's start."""
    GAUGE = "gauge"
    """A number of the moment."""
    HIDDEN = "hidden"
    """No metric: another family has the same fact, or it only serves the verdict."""


@dataclass(frozen=True, slots=True)
class Word:
    """What the table says of one word.

    Attributes:
        offset: from the state page's start.
        unit: of its number; ``"ns"`` becomes seconds in a metric.
        meaning: for people, a phrase without a full stop; ``now`` says that it is of the moment.
        metric: the metric's name, where it differs from the field's; ``family:label=value`` for one of several.
    """

    offset: int
    unit: str
    meaning: str
    kind: Kind = Kind.COUNTER
    metric: str = ""


@dataclass(frozen=True, slots=True)
class Counter:
    """One line of the table.

    Attributes:
        field: its name in the dataclass that declares it.
        name: the word's name, in lower case.
        scope: ``"ring"``, or ``"daemon"`` where all rings of a daemon have the same number.
    """

    field: str
    name: str
    scope: str
    word: Word

    @property
    def offset(self) -> int:
        """Return its offset in the control segment, in bytes."""
        return State.OFFSET + self.word.offset

    @property
    def family(self) -> str:
        """Return the name of the metric's family without ``ringfeed_`` and ``_total``."""
        return (self.word.metric.partition(":")[0] or self.name).replace("_ns", "_seconds")

    @property
    def label(self) -> tuple[str, str] | None:
        """Return the label by which it differs from others of its family; None where it is alone."""
        name, _, value = self.word.metric.partition(":")[2].partition("=")
        return (name, value) if name else None

    def metric_value(self, number: int) -> float:
        """Return a word's number in the metric's unit."""
        return number / 1e9 if self.word.unit == NS else number


C, G, HIDDEN = Kind.COUNTER, Kind.GAUGE, Kind.HIDDEN


@dataclass
class RingCounts:
    """What is counted for one ring."""

    decoded_pairs: Annotated[int, Word(128, "pairs", "pairs decoded")] = 0
    downloaded_bytes: Annotated[int, Word(136, "bytes", "compressed bytes of downloaded objects")] = 0
    fetch_retries: Annotated[int, Word(144, "downloads", "downloads that were retried, whatever the cause", HIDDEN)] = 0
    failed_pairs: Annotated[int, Word(152, "draws", "pairs that failed to load, each time counted", HIDDEN)] = 0
    size_mismatches: Annotated[int, Word(160, "pairs", "pairs whose image and label had different sizes")] = 0
    seeks: Annotated[int, Word(168, "seeks", "times that the stream went to another place of the order")] = 0
    lane_deaths: Annotated[
        int, Word(184, "consumers", "readers that exited without detaching", metric="reader_deaths")
    ] = 0
    skipped_pairs: Annotated[int, Word(192, "pairs", "pairs that a rank missed because it came back too late")] = 0
    groups: Annotated[int, Word(200, "groups", "groups now that read the ring, or whose place is kept", G)] = 0
    lingering_groups: Annotated[int, Word(208, "groups", "groups now without a reader, whose place is kept", G)] = 0
    places_given_up: Annotated[int, Word(240, "ranks", "ranks whose place was given up after a long absence")] = 0
    retries_timeout: Annotated[
        int,
        Word(320, "downloads", "retries: the store did not answer, or sent too slowly", C, "retries:cause=timeout"),
    ] = 0
    retries_connection: Annotated[
        int, Word(328, "downloads", "retries: no connection, or a lost one", C, "retries:cause=connection")
    ] = 0
    retries_body: Annotated[
        int, Word(336, "downloads", "retries: the body was not the object", C, "retries:cause=body")
    ] = 0
    retries_429: Annotated[
        int, Word(344, "downloads", "retries: the store asked for fewer requests", C, "retries:cause=429")
    ] = 0
    retries_5xx: Annotated[int, Word(352, "downloads", "retries: an error of the store", C, "retries:cause=5xx")] = 0
    retries_other: Annotated[int, Word(360, "downloads", "retries: any other cause", C, "retries:cause=other")] = 0
    unsure_turns: Annotated[
        int, Word(368, "pairs", "pairs turned by their EXIF orientation whose label may not belong to the turned image")
    ] = 0
    in_flight_pairs: Annotated[int, Word(384, "pairs", "pairs now that workers download or decode", G)] = 0
    unpublished_pairs: Annotated[
        int, Word(392, "pairs", "pairs now that are decoded and wait for an earlier pair", G)
    ] = 0
    delivered_pairs: Annotated[int, Word(400, "pairs", "pairs that readers took, once for each group")] = 0
    saved_requests: Annotated[
        int,
        Word(408, "requests", "requests that sharing and the cache saved: two for each pair read but not fetched"),
    ] = 0
    next_pair_age_ns: Annotated[int, Word(472, NS, "how long workers have the pair that is published next", G)] = 0
    saved_bytes: Annotated[int, Word(416, "bytes", "compressed bytes that sharing and the cache saved")] = 0
    memory_hits: Annotated[int, Word(848, "pairs", "pairs that came from the memory cache", C, "cache_memory_hits")] = 0
    disk_hits: Annotated[int, Word(856, "pairs", "pairs that came from the disk cache", C, "cache_disk_hits")] = 0
    cache_saved_bytes: Annotated[int, Word(864, "bytes", "compressed bytes that the cache alone saved")] = 0

    @property
    def retries_by_cause(self) -> dict[str, int]:
        """Return the retries by cause."""
        start = "retries_"
        return {
            one.field.removeprefix(start): getattr(self, one.field)
            for one in counters_of(RingCounts)
            if one.field.startswith(start)
        }


@dataclass
class DaemonCounts:
    """What is counted for a daemon; each of its rings has the same numbers."""

    worker_deaths: Annotated[int, Word(176, "processes", "worker processes that died")] = 0
    workers: Annotated[int, Word(216, "processes", "worker processes now", G)] = 0
    fork_server_deaths: Annotated[int, Word(248, "processes", "deaths of the process that workers are forked from")] = 0
    cores: Annotated[int, Word(424, "cores", "CPU cores that the daemon may use", G)] = 0
    worker_cpu_ns: Annotated[int, Word(432, NS, "CPU time of all workers")] = 0
    worker_busy_ns: Annotated[int, Word(440, NS, "time that workers had pairs to decode, summed over them")] = 0
    cache_rows: Annotated[int, Word(872, "pairs", "pairs that the memory cache has room for", G)] = 0
    cache_rows_filled: Annotated[int, Word(880, "pairs", "pairs now in the memory cache", G)] = 0
    cache_row_bytes: Annotated[int, Word(888, "bytes", "memory of one pair in the memory cache", G)] = 0
    cache_disk_chosen: Annotated[int, Word(896, "pairs", "pairs that the disk cache has room for", G)] = 0
    cache_disk_pairs: Annotated[int, Word(904, "pairs", "pairs now in the disk cache", G)] = 0
    cache_disk_bytes: Annotated[int, Word(912, "bytes", "disk space that the disk cache takes now", G)] = 0
    cache_wrong_entries: Annotated[
        int, Word(920, "pairs", "entries of both caches that were damaged, and fetched again")
    ] = 0


@dataclass
class StoreCounts:
    """What is counted of the store; its words and metrics begin with ``store_``."""

    waiting_workers: Annotated[
        int, Word(256, "processes", "workers now that wait because the store does not answer", G)
    ] = 0
    outages: Annotated[int, Word(280, "outages", "times that the store answered no worker")] = 0
    requests: Annotated[int, Word(288, "requests", "requests for objects")] = 0
    second_requests: Annotated[
        int, Word(296, "requests", "second requests for an object that the next slot waited for")
    ] = 0
    second_requests_won: Annotated[int, Word(304, "requests", "second requests that were answered first")] = 0
    limited_requests: Annotated[int, Word(312, "requests", "requests that the store answered with 429")] = 0
    requests_under_way: Annotated[int, Word(448, "requests", "requests now that wait for the store", G)] = 0
    window: Annotated[int, Word(456, "requests", "requests that may be under way now, as workers adapt it", G)] = 0
    concurrency: Annotated[int, Word(464, "requests", "most requests that the settings allow at a time", G)] = 0


@dataclass
class Lately:
    """What a ring's verdict is made of: sums over the latest 10 s or so, and who is in the way.

    Sums that begin with ``while waiting`` count each moment by the part of it that the longest waiting reader waited.
    """

    span_ns: Annotated[int, Word(512, NS, "time that the sums are taken over; 0: not measured yet", HIDDEN)] = 0
    waited_ns: Annotated[int, Word(520, NS, "of it, a reader waited", HIDDEN)] = 0
    held_ns: Annotated[int, Word(528, NS, "of it, a reader waited for slots that another one keeps", HIDDEN)] = 0
    limited_ns: Annotated[int, Word(536, NS, "of it, a reader waited and the store limited the rate", HIDDEN)] = 0
    limit_milli: Annotated[int, Word(648, MILLI, "mean of `STORE_LIMIT_MILLI` in that time", HIDDEN)] = 0
    full_ns: Annotated[int, Word(544, NS, "of it, no slot was free", HIDDEN)] = 0
    busy_milli: Annotated[int, Word(552, MILLI, "while waiting: part of the workers' time with work", HIDDEN)] = 0
    cpu_milli: Annotated[int, Word(560, MILLI, "while waiting: cores in use by each worker", HIDDEN)] = 0
    busy_always_milli: Annotated[int, Word(568, MILLI, "part of the workers' time with pairs to decode", HIDDEN)] = 0
    fetch_ns: Annotated[int, Word(576, NS, "mean time to download an object, retries included", HIDDEN)] = 0
    requests_milli: Annotated[int, Word(584, MILLI, "requests for objects, per second", HIDDEN)] = 0
    retries_milli: Annotated[int, Word(592, MILLI, "retries of this ring's downloads, per second", HIDDEN)] = 0
    under_way_milli: Annotated[int, Word(600, MILLI, "while waiting: requests under way", HIDDEN)] = 0
    window_milli: Annotated[int, Word(656, MILLI, "while waiting: requests that may be under way", HIDDEN)] = 0
    pairs_milli: Annotated[int, Word(608, MILLI, "pairs decoded for this ring, per second", HIDDEN)] = 0
    other_pairs_milli: Annotated[int, Word(616, MILLI, "pairs decoded for `OTHER_RING`, per second", HIDDEN)] = 0
    holder_lane: Annotated[int, Word(624, "", "1 + the lane for whose slots others wait; 0: none", HIDDEN)] = 0
    missing_lane: Annotated[int, Word(632, "", "1 + a lane whose group misses a rank that is waited for", HIDDEN)] = 0
    late_since_ns: Annotated[
        int,
        Word(640, NS, "since when workers have the pair that the later ones wait for; 0: none is late", HIDDEN),
    ] = 0


AnyCounts: TypeAlias = RingCounts | DaemonCounts | StoreCounts | Lately
Counts = TypeVar("Counts", RingCounts, DaemonCounts, StoreCounts, Lately)

_PREFIXES: Final[dict[type, str]] = {StoreCounts: "store_", Lately: "lately_"}
_OF_THE_DAEMON: Final[tuple[type, ...]] = (DaemonCounts, StoreCounts)


@cache
def _table(declared: type) -> tuple[Counter, ...]:
    """Return the lines of one part of the table."""
    hints = get_type_hints(declared, include_extras=True)
    prefix, scope = _PREFIXES.get(declared, ""), "daemon" if declared in _OF_THE_DAEMON else "ring"
    return tuple(
        Counter(one.name, prefix + one.name, scope, hints[one.name].__metadata__[0]) for one in fields(declared)
    )


def counters_of(declared: type) -> tuple[Counter, ...]:
    """Return the lines of one part of the table."""
    return _table(declared)


def counters() -> Iterator[Counter]:
    """Yield the whole table."""
    for declared in (RingCounts, DaemonCounts, StoreCounts, Lately):
        yield from counters_of(declared)


def read(declared: type[Counts], word: Callable[[int], int]) -> Counts:
    """Read one part of the table from a ring's words."""
    return declared(**{one.field: word(one.offset) for one in counters_of(declared)})


def words(counts: AnyCounts) -> Iterator[tuple[int, int]]:
    """Yield (offset in the control segment, value) of what was counted."""
    for one in counters_of(type(counts)):
        yield one.offset, getattr(counts, one.field)

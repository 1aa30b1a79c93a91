"""The lane: one consumer's page of words, and the request and answer that pass over it.

The consumer writes the first half of the page and the daemon the second. A nonce written last makes a request, or its
answer, valid as a whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ringfeed.epochs import Epochs
from ringfeed.plan import Place, Plan
from ringfeed.shm.layout import (
    GROUP_BYTES,
    LANE_ANONYMOUS,
    LANE_DROP_LAST,
    LANE_RESUMING,
    LANE_SKIPS,
    LANE_WAIT,
    LANE_YIELDS,
    LAYOUT_VERSION,
    MAX_SEQ,
    REASON_BYTES,
    WORD_BYTES,
    Answer,
    Lane,
    Leaving,
    Start,
)
from ringfeed.shm.missing import Absence
from ringfeed.shm.origin import STRANGER, Kin

MAX_WORLD_SIZE: Final = 1 << 16
MAX_BATCH_SIZE: Final = 1 << 32


@dataclass(frozen=True, slots=True)
class Request:
    """What a consumer asks for.

    Attributes:
        group: the pass that its ranks share; other groups see every pair as well.
        start: where the group begins; ``at`` is the (epoch, position) of `Start.AT`.
        anonymous: the group's name dies with this process, so its place is not kept.
        wait: rather wait than be refused while other groups have gone beyond the place that is asked for.
        skips: never holds other groups up; it misses what is overwritten before it has read it.
        yields: does so once it has held them up for some seconds, until it reads on.
        resuming: goes on with a pass that a previous daemon served; others that do so may come at the same time.
        pid: for people; it decides nothing.
        kin: the processes that may go on at its place.
    """

    group: str
    rank: int
    world_size: int
    batch_size: int
    drop_last: bool
    start: Start
    at: tuple[int, int]
    anonymous: bool
    pid: int
    wait: bool = False
    resuming: bool = False
    skips: bool = False
    yields: bool = False
    kin: Kin = STRANGER

    @property
    def may_miss(self) -> bool:
        """Whether slots may be overwritten before it has read them."""
        return self.skips or self.yields

    @property
    def on_lag(self) -> str:
        """As `ringfeed.attach` calls it."""
        return "skip" if self.skips else "yield" if self.yields else "block"

    @property
    def sensible(self) -> bool:
        """Whether its numbers are valid, whatever the ring."""
        return (
            1 <= self.world_size <= MAX_WORLD_SIZE
            and 0 <= self.rank < self.world_size
            and 1 <= self.batch_size <= MAX_BATCH_SIZE
        )

    def plan(self, epochs: Epochs) -> Plan:
        """The share of the stream that this rank reads."""
        return Plan(epochs, self.world_size, self.rank, self.batch_size, self.drop_last)


@dataclass(frozen=True, slots=True)
class Accepted:
    """The daemon's yes: the rank reads on from the round that begins at ``place``."""

    place: Place

    def sensible(self, epochs: Epochs) -> bool:
        """Whether a daemon can have said so."""
        place = self.place
        return max(place.seq, place.epoch) < MAX_SEQ and place.position <= epochs.length(place.epoch)

    def counted(self, epochs: Epochs, base: Place) -> Place | None:
        """Return where to count on from by lengths that hold from ``base`` on; None if no daemon can have said so."""
        began = self.place.counted_from(base)
        return began if Accepted(began).sensible(epochs) else None


@dataclass(frozen=True, slots=True)
class Refused:
    """The daemon's no, as a sentence."""

    reason: str


class LanePage:
    """One lane's page of words, over a mapping of it."""

    def __init__(self, page: memoryview) -> None:
        self._bytes = page
        self._words = page.cast("Q")

    def __getitem__(self, offset: int) -> int:
        return self._words[offset >> 3]

    def __setitem__(self, offset: int, value: int) -> None:
        self._words[offset >> 3] = value

    # The consumer's half.

    def write_request(self, request: Request, nonce: int) -> None:
        """Post a request; clears what an earlier consumer left in this half, also in words of a later release."""
        for offset in range(Lane.NONCE, Lane.ANSWER_NONCE, WORD_BYTES):
            self[offset] = 0
        name = request.group.encode()
        self._bytes[Lane.GROUP : Lane.GROUP + len(name)] = name
        self[Lane.GROUP_LENGTH] = len(name)
        self[Lane.RANK] = request.rank
        self[Lane.WORLD_SIZE] = request.world_size
        self[Lane.BATCH_SIZE] = request.batch_size
        self[Lane.START] = request.start
        self[Lane.START_EPOCH], self[Lane.START_POSITION] = request.at
        self[Lane.FLAGS] = (
            LANE_DROP_LAST * request.drop_last
            | LANE_ANONYMOUS * request.anonymous
            | LANE_WAIT * request.wait
            | LANE_RESUMING * request.resuming
            | LANE_SKIPS * request.skips
            | LANE_YIELDS * request.yields
        )
        self[Lane.PID] = request.pid
        kin = request.kin
        self[Lane.OWNER], self[Lane.RUN], self[Lane.LOOP], self[Lane.WORKERS] = (
            kin.owner,
            kin.run,
            kin.loop,
            kin.workers,
        )
        self[Lane.NONCE] = nonce

    def read_request(self) -> Request | Refused:
        """The request that lies here, or why it cannot be one."""
        length = self[Lane.GROUP_LENGTH]
        try:
            name = bytes(self._bytes[Lane.GROUP : Lane.GROUP + min(length, GROUP_BYTES)]).decode()
            start = Start(self[Lane.START])
        except ValueError as error:
            return Refused(
                f"the request is not one that layout version {LAYOUT_VERSION} knows ({error}); is this a ringfeed "
                f"consumer?"
            )
        flags = self[Lane.FLAGS]
        return Request(
            group=name,
            rank=self[Lane.RANK],
            world_size=self[Lane.WORLD_SIZE],
            batch_size=self[Lane.BATCH_SIZE],
            drop_last=bool(flags & LANE_DROP_LAST),
            start=start,
            at=(self[Lane.START_EPOCH], self[Lane.START_POSITION]),
            anonymous=bool(flags & LANE_ANONYMOUS),
            pid=self[Lane.PID],
            wait=bool(flags & LANE_WAIT),
            resuming=bool(flags & LANE_RESUMING),
            skips=bool(flags & LANE_SKIPS),
            yields=bool(flags & LANE_YIELDS),
            kin=Kin(self[Lane.OWNER], self[Lane.RUN], self[Lane.LOOP], self[Lane.WORKERS]),
        )

    @property
    def leaving(self) -> Leaving:
        """Whether, and how, the consumer left by its own will."""
        try:
            return Leaving(self[Lane.LEAVING])
        except ValueError:
            return Leaving.NO

    # The daemon's half.

    def write_answer(self, answer: Accepted | Refused, nonce: int) -> None:
        """Answer the request with this nonce."""
        if isinstance(answer, Accepted):
            self[Lane.SEQ] = answer.place.seq
            self[Lane.EPOCH] = answer.place.epoch
            self[Lane.POSITION] = answer.place.position
            self[Lane.ANSWER] = Answer.ACCEPTED
        else:
            self.write_reason(answer.reason)
            self[Lane.ANSWER] = Answer.REFUSED
        self[Lane.POSTED] = self[Lane.WAITED_LATELY_MILLI] = 0
        self[Lane.ANSWER_NONCE] = nonce

    def write_absence(self, absence: Absence | None, now_ns: int) -> None:
        """Say who of the consumer's group is away, at ``now_ns`` by CLOCK_MONOTONIC."""
        if absence is not None:
            self[Lane.ABSENT_RANK] = absence.rank
            self[Lane.ABSENT_CAME] = absence.came
            self[Lane.ABSENT_SINCE_NS] = max(0, now_ns - int(absence.since_s * 1e9))
        self[Lane.ABSENT_RANKS] = 0 if absence is None else absence.count

    def read_absence(self, now_ns: int) -> Absence | None:
        """Return what the daemon says of the consumer's group."""
        if not self[Lane.ABSENT_RANKS]:
            return None
        since_s = max(0, now_ns - self[Lane.ABSENT_SINCE_NS]) / 1e9
        return Absence(self[Lane.ABSENT_RANKS], self[Lane.ABSENT_RANK], bool(self[Lane.ABSENT_CAME]), since_s)

    def write_reason(self, reason: str) -> None:
        """Say why the request is refused, or why it has no answer yet."""
        text = reason.encode()[:REASON_BYTES]
        self._bytes[Lane.REASON : Lane.REASON + len(text)] = text
        self[Lane.REASON_LENGTH] = len(text)

    def read_reason(self) -> str:
        """Return what the daemon says of the request; empty where it has said nothing."""
        length = min(self[Lane.REASON_LENGTH], REASON_BYTES)
        return bytes(self._bytes[Lane.REASON : Lane.REASON + length]).decode(errors="replace")

    def read_answer(self, nonce: int) -> Accepted | Refused | None:
        """The answer to the request with this nonce; None while there is none."""
        if self[Lane.ANSWER_NONCE] != nonce:
            return None
        if self[Lane.ANSWER] == Answer.ACCEPTED:
            return Accepted(Place(self[Lane.SEQ], self[Lane.EPOCH], self[Lane.POSITION]))
        return Refused(self.read_reason())

    def free(self) -> None:
        """Say that the lane may be taken by another consumer."""
        self[Lane.REASON_LENGTH] = 0
        self[Lane.ANSWER_NONCE] = 0

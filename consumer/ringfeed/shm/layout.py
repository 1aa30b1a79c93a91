"""The bytes of a ring: every offset, word and unit that the daemon and its consumers share.

`shm_layout.md` is the contract in prose; ``tests/shm/test_layout.py`` compares the two. All words are unsigned, 64 bits
wide, little-endian and aligned to 8 bytes. Every word has one writer, named in the class that holds its offset.
"""

from __future__ import annotations

import enum
import math
import mmap
from dataclasses import dataclass
from typing import Final

LAYOUT_VERSION: Final = 3
MAGIC: Final = 0x6465_6566_676E_6972  # the bytes b"ringfeed", read as a little-endian word
PAGE_BYTES: Final = 4096
WORD_BYTES: Final = 8

SHM_DIR: Final = "/dev/shm"  # noqa: S108  # POSIX shared memory on Linux: what shm_open itself uses
PREFIX: Final = "ringfeed."
RING_NAME_PATTERN: Final = r"[A-Za-z0-9_-]{1,64}"

ID_BYTES: Final = 1024
"""Longest id in UTF-8 bytes: an object's name in Google Cloud Storage has at most 1024."""
GROUP_BYTES: Final = 128
REASON_BYTES: Final = 960
RING_BYTES: Final = 64
MAX_LANES: Final = 1024
MAX_UINT64: Final = 2**64 - 1
MAX_SEQ: Final = 2**48
"""Every pair's number is below it: nine years at a million pairs a second. A lane's larger number is not accepted."""

DAEMON_LOCK_BYTE: Final = 0
FIRST_LANE_LOCK_BYTE: Final = 1
KEEP_LOCK_BYTE: Final = 2048
"""Shared by processes that need the daemon, attached or not; behind every lane's byte."""


class RingState(enum.IntEnum):
    """What the daemon says of the ring as a whole."""

    STARTING = 1
    SERVING = 2
    STOPPING = 3
    FAILED = 4


class Header:
    """Words of the control segment's first page. Writer: the daemon, once, before the descriptor appears."""

    OFFSET: Final = 0
    MAGIC: Final = 0
    LAYOUT_VERSION: Final = 8
    GENERATION: Final = 16
    CONTROL_BYTES: Final = 24
    DATA_BYTES: Final = 32
    SLOTS: Final = 40
    LANES: Final = 48


class State:
    """Words of the control segment's second page. Writer: the daemon, at any time.

    What is counted lies there as well: `ringfeed.shm.counters` has those words.
    """

    OFFSET: Final = PAGE_BYTES
    STATE: Final = OFFSET
    PUBLISHED: Final = OFFSET + 8
    FLOOR: Final = OFFSET + 16
    HEAD: Final = OFFSET + 24
    BASE_SEQ: Final = OFFSET + 32
    BASE_EPOCH: Final = OFFSET + 40
    BASE_POSITION: Final = OFFSET + 48
    CATALOG_CHANGES: Final = OFFSET + 56
    HEARTBEAT_NS: Final = OFFSET + 64
    STARTED_NS: Final = OFFSET + 72
    REFRESHES: Final = OFFSET + 224
    REFRESHES_TAKEN: Final = OFFSET + 232
    STORE_FAILING_SINCE_NS: Final = OFFSET + 264
    STORE_NEXT_TRY_NS: Final = OFFSET + 272
    STORE_LIMIT_MILLI: Final = OFFSET + 376
    OTHER_RING_LENGTH: Final = OFFSET + 768
    OTHER_RING: Final = OFFSET + 776
    REASON_LENGTH: Final = OFFSET + 1024
    REASON: Final = OFFSET + 1032
    REFRESH_LENGTH: Final = OFFSET + 2048
    REFRESH: Final = OFFSET + 2056
    LATE_LENGTH: Final = OFFSET + 3072
    LATE: Final = OFFSET + 3080


class SlotRecord:
    """Words of one slot's record in the slot table, 64 bytes. Writer: the daemon, before it publishes the seq."""

    BYTES: Final = 64
    WORDS: Final = 8
    SEQ: Final = 0
    PAIR_INDEX: Final = 1
    FLAGS: Final = 2
    IMAGE_HEIGHT: Final = 3
    IMAGE_WIDTH: Final = 4
    LABEL_HEIGHT: Final = 5
    LABEL_WIDTH: Final = 6
    ID_LENGTH: Final = 7


SLOT_VALID: Final = 1
"""Flag of a slot record: the pair is the one that the order names, not a replacement for a failed one."""


class Start(enum.IntEnum):
    """Where a group wants to begin."""

    AUTO = 0
    EPOCH = 1
    NOW = 2
    AT = 3
    FOLLOWING = 4
    GIVE_UP = 5
    """Not a start: the places are given up that the consumers of this group and owner have left."""


class Leaving(enum.IntEnum):
    """What a consumer says when it goes by its own will."""

    NO = 0
    LEAVE = 1
    KEEP_PLACE = 2


LANE_DROP_LAST: Final = 1
LANE_ANONYMOUS: Final = 2
LANE_WAIT: Final = 4
LANE_RESUMING: Final = 8
LANE_SKIPS: Final = 16
LANE_YIELDS: Final = 32
"""Flags of a lane's request. An anonymous group's name dies with its process: its place is not kept. One that
waits is not refused while others have gone on; one that resumes goes on with what a previous daemon served; one that
skips never holds others up; one that yields no longer does once it has done so for some seconds without reading.
"""


class Answer(enum.IntEnum):
    """What the daemon says to a lane's request."""

    NONE = 0
    ACCEPTED = 1
    REFUSED = 2


class Lane:
    """Offsets in one lane's page. The first half belongs to the consumer, the second half to the daemon."""

    # Writer: the consumer. The request; NONCE is written last, and 0 means that there is none.
    NONCE: Final = 0
    RANK: Final = 8
    WORLD_SIZE: Final = 16
    BATCH_SIZE: Final = 24
    START: Final = 32
    START_EPOCH: Final = 40
    START_POSITION: Final = 48
    FLAGS: Final = 56
    PID: Final = 64
    GROUP_LENGTH: Final = 72
    OWNER: Final = 80
    RUN: Final = 88
    LOOP: Final = 96
    WORKERS: Final = 104
    GROUP: Final = 128
    # Writer: the consumer. Its progress, in cache lines of their own.
    TAKEN: Final = 512
    RELEASED: Final = 520
    LEAVING: Final = 528
    BATCHES: Final = 576
    WAITED_NS: Final = 584
    WAITING_SINCE_NS: Final = 592
    MISSED_PAIRS: Final = 600
    # Writer: the daemon. Its answer; ANSWER_NONCE is written last.
    ANSWER_NONCE: Final = 2048
    ANSWER: Final = 2056
    SEQ: Final = 2064
    EPOCH: Final = 2072
    POSITION: Final = 2080
    ANSWERED_NS: Final = 2088
    POSTED: Final = 2112
    ABSENT_RANKS: Final = 2120
    ABSENT_RANK: Final = 2128
    ABSENT_SINCE_NS: Final = 2136
    ABSENT_CAME: Final = 2144
    WAITED_LATELY_MILLI: Final = 2152
    REASON_LENGTH: Final = 3072
    REASON: Final = 3080


@dataclass(frozen=True, slots=True)
class Field:
    """One field of the data segment: an array of ``(slots, *row_shape)``, dense, C order.

    Attributes:
        offset: bytes from the start of the data segment; a multiple of the page size.
        row_shape: shape of one slot's row, e.g. ``(H, W, 3)``.
        dtype: numpy's name, ``"uint8"`` or ``"uint16"``.
    """

    name: str
    offset: int
    row_shape: tuple[int, ...]
    dtype: str

    @property
    def row_bytes(self) -> int:
        """Bytes of one slot's row."""
        return math.prod(self.row_shape) * (2 if self.dtype == "uint16" else 1)


@dataclass(frozen=True, slots=True)
class Geometry:
    """Where everything lies in one ring's two segments."""

    slots: int
    lanes: int
    image: Field
    label: Field
    mirrored: bool

    @property
    def slot_table_offset(self) -> int:
        """Return the offset of the slot table in the control segment, in bytes."""
        return 2 * PAGE_BYTES

    @property
    def id_table_offset(self) -> int:
        """Return the offset of the id table in the control segment, in bytes."""
        return self.slot_table_offset + page_ceil(self.slots * SlotRecord.BYTES)

    @property
    def lanes_offset(self) -> int:
        """Return the offset of the first lane's page in the control segment, in bytes."""
        return self.id_table_offset + page_ceil(self.slots * ID_BYTES)

    @property
    def control_bytes(self) -> int:
        """Size of the control segment."""
        return self.lanes_offset + self.lanes * PAGE_BYTES

    @property
    def data_bytes(self) -> int:
        """Size of the data segment."""
        return self.label.offset + page_ceil(self.slots * self.label.row_bytes)

    @property
    def total_bytes(self) -> int:
        """Size of both segments together."""
        return self.control_bytes + self.data_bytes

    def lane_offset(self, lane: int) -> int:
        """Return the offset of one lane's page in the control segment, in bytes."""
        return self.lanes_offset + lane * PAGE_BYTES


def page_ceil(size: int) -> int:
    """``size`` in bytes, rounded up to whole pages."""
    return -(-size // PAGE_BYTES) * PAGE_BYTES


MAX_MIRROR_GROWTH: Final = 1.125
"""A ring is rounded up to the mirror's multiple of slots only where that costs at most an eighth more memory."""


def plan_geometry(
    *, slots: int, lanes: int, image_row: tuple[int, ...], label_row: tuple[int, ...], label_dtype: str
) -> Geometry:
    """Plan the geometry of a ring of at least ``slots`` slots.

    The slots are rounded up so that each field's region is a whole number of this machine's pages, which lets a
    consumer map the region twice, back to back; where that would cost too much memory the ring is left unmirrored, and
    a batch that wraps round its end is copied.
    """
    image = Field("image", 0, image_row, "uint8")
    label = Field("label", 0, label_row, label_dtype)
    page = max(PAGE_BYTES, mmap.PAGESIZE)
    multiple = math.lcm(*(page // math.gcd(page, field.row_bytes) for field in (image, label)))
    rounded = -(-slots // multiple) * multiple
    mirrored = rounded <= slots * MAX_MIRROR_GROWTH
    if mirrored:
        slots = rounded
    label = Field("label", page_ceil(slots * image.row_bytes), label_row, label_dtype)
    return Geometry(slots=slots, lanes=lanes, image=image, label=label, mirrored=mirrored)


def control_name(ring: str, generation: str) -> str:
    """File name of the control segment in ``/dev/shm``."""
    return f"{PREFIX}{ring}.{generation}.ctl"


def data_name(ring: str, generation: str) -> str:
    """File name of the data segment in ``/dev/shm``."""
    return f"{PREFIX}{ring}.{generation}.data"


def descriptor_name(ring: str) -> str:
    """File name of the ring's descriptor in ``/dev/shm``."""
    return f"{PREFIX}{ring}"


def former_name(ring: str, generation: str) -> str:
    """File name in ``/dev/shm`` of the descriptor of a dead daemon that some consumers have yet to come from."""
    return f"{PREFIX}{ring}.{generation}.former"


def lock_name(ring: str) -> str:
    """File name of the ring's singleton lock in ``/dev/shm``."""
    return f"{PREFIX}{ring}.lock"


def draft_name(ring: str, generation: str) -> str:
    """File name of a descriptor, or of a list of failed pairs, before its rename."""
    return f"{PREFIX}{ring}.{generation}.draft"


def errors_name(ring: str) -> str:
    """File name of the list of failed pairs."""
    return f"{PREFIX}{ring}.errors"


def space_name(ring: str, generation: str) -> str:
    """POSIX name of the semaphore by which consumers wake the daemon."""
    return f"/{PREFIX}{ring}.{generation}.space"


def lane_bell_name(ring: str, generation: str, lane: int) -> str:
    """POSIX name of the semaphore by which the daemon wakes the consumer on ``lane``."""
    return f"/{PREFIX}{ring}.{generation}.lane.{lane}"

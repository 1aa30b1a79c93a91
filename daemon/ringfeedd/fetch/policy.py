"""How hard pairs are tried for, and what a download ends with."""

from __future__ import annotations

from dataclasses import dataclass, field

from ringfeedd.storage.base import MAX_OBJECT_BYTES, READ_TIMEOUT_S
from ringfeedd.storage.transport.base import DEFAULT_TRANSPORT, TransportName


@dataclass(frozen=True, slots=True)
class FetchPolicy:
    """How hard pairs are tried for.

    Attempts and time count while the store answers any request. What an object fails with during an outage says nothing
    about the object.

    Attributes:
        max_attempts: for each of the two objects, the first included. An answer that only limits the rate is not one.
        base_delay_s: the widest wait before the second attempt, seconds; doubled with each further one.
        max_delay_s: the cap of that, seconds.
        deadline_s: for each of the two objects, attempts and the waits between them together, seconds.
        attempt_s: for one attempt at an object of up to a megabyte, seconds; a second more for each further one.
        min_bytes_per_s: an attempt that brings less, on the mean of some seconds, is cut and tried again.
        max_object_bytes: larger objects are not downloaded; also the bound for what a gzipped object may unpack to.
        read_timeout_s: silence of the store, seconds, after which an attempt is cut and tried again.
        transport: what objects of a bucket are downloaded with, see `ringfeedd.storage.transport.base`.
        user_project: the project that requests to a bucket are billed to; None: the bucket's own.
    """

    max_attempts: int = 16
    base_delay_s: float = 0.01
    max_delay_s: float = 2.0
    deadline_s: float = 120.0
    attempt_s: float = 60.0
    min_bytes_per_s: float = 2048.0
    max_object_bytes: int = MAX_OBJECT_BYTES
    read_timeout_s: float = READ_TIMEOUT_S
    transport: TransportName = DEFAULT_TRANSPORT
    user_project: str | None = None


@dataclass(frozen=True, slots=True)
class Fetched:
    """The compressed bytes of a pair, as they were listed.

    Attributes:
        image: the image file.
        label: the label file.
        attempts: of the object that took more of them; 1 when nothing went wrong.
        retries: cause -> how many failures of either object were followed by another attempt.
    """

    image: bytes
    label: bytes
    attempts: int = 1
    retries: dict[str, int] = field(default_factory=dict)
